//! The admin router's description in OpenAPI 3.1.

mod operations;
mod responses;
mod schemas;

use serde_json::json;
use utoipa::Modify;
use utoipa::openapi::path::HttpMethod::{Delete, Get, Patch, Post};
use utoipa::openapi::path::Operation;
use utoipa::openapi::security::SecurityRequirement;
use utoipa::openapi::{OpenApi, Ref};

use super::{READ, WRITE};
use crate::middleware::ApiKeyLayer;
use crate::openapi::{ApiKeySecurity, parsed};
use crate::registry::ApiKeys;

/// The whole description of [`router`](super::router): every route with its parameters, bodies and
/// their bounds, its answers and the scopes it needs. Prefixes and environments are those of the
/// keys' format.
///
/// Its paths begin as the router's do, so an application nests it as it nests the router:
///
/// ```
/// use axum::Router;
/// use tower_api_key::{ApiKeys, MemoryStore, admin};
/// use utoipa::OpenApi;
///
/// #[derive(OpenApi)]
/// #[openapi(info(title = "Orders", version = "1.0.0"))]
/// struct Document;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let keys = ApiKeys::builder(MemoryStore::new()).build();
/// let app: Router = Router::new().nest("/admin", admin::router(&keys));
/// let document = Document::openapi().nest("/admin", admin::openapi(&keys));
/// assert!(document.paths.paths.contains_key("/admin/keys/{key_id}/rotate"));
/// # }
/// ```
pub fn openapi(keys: &ApiKeys) -> OpenApi {
    openapi_with_layer(keys, &ApiKeyLayer::new(keys))
}

/// As [`openapi`], for the router that is protected by `layer`; see
/// [`router_with_layer`](super::router_with_layer).
pub fn openapi_with_layer(keys: &ApiKeys, layer: &ApiKeyLayer) -> OpenApi {
    let mut document: OpenApi = parsed(json!({
        "openapi": "3.1.0",
        "info": {
            "title": "API keys",
            "description": "Issues, shows, changes, rotates and revokes API keys.",
            "version": env!("CARGO_PKG_VERSION"),
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        },
        "tags": [{ "name": "keys", "description": "API keys, their use and their audit trail." }],
        "paths": operations::paths(),
        "components": {
            "schemas": schemas::schemas(AsRef::<crate::Verifier>::as_ref(keys).format()),
            "responses": responses::responses(),
        },
    }));
    let read = layer.scopes(READ);
    let write = layer.scopes(WRITE);
    ApiKeySecurity::new()
        .operation(Get, "/keys", &read)
        .operation(Post, "/keys", &write)
        .operation(Get, "/keys/{key_id}", &read)
        .operation(Patch, "/keys/{key_id}", &write)
        .operation(Delete, "/keys/{key_id}", &write)
        .operation(Post, "/keys/{key_id}/rotate", &write)
        .operation(Get, "/keys/{key_id}/usage", &read)
        .operation(Get, "/keys/{key_id}/events", &read)
        .modify(&mut document);
    document
        .paths
        .paths
        .values_mut()
        .flat_map(|item| {
            [
                &mut item.get,
                &mut item.post,
                &mut item.patch,
                &mut item.delete,
            ]
        })
        .flatten()
        .for_each(close);
    document
}

/// An optional layer does not open the router.
fn close(operation: &mut Operation) {
    let requirements = operation.security.get_or_insert_default();
    let alternatives = requirements.len();
    requirements.retain(|requirement| *requirement != SecurityRequirement::default());
    if requirements.len() < alternatives {
        let internal = Ref::from_response_name("ApiKeyMissingPrincipal").into();
        let answers = &mut operation.responses.responses;
        answers.insert("500".to_owned(), internal);
    }
}
