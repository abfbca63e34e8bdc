//! What an application's own OpenAPI document says of its [`ApiKeyLayer`]s, for a document made
//! with [utoipa] 6.
//!
//! A layer already knows where a key is looked for and which scopes a route needs. So the document
//! is told the layers rather than the same facts once more, and cannot drift from the routes:
//!
//! ```
//! use tower_api_key::openapi::ApiKeySecurity;
//! use tower_api_key::{ApiKeyLayer, ApiKeys, MemoryStore};
//! use utoipa::openapi::HttpMethod;
//! use utoipa::{Modify, OpenApi};
//!
//! #[utoipa::path(get, path = "/orders", responses((status = 200, description = "the orders")))]
//! async fn list() {}
//!
//! #[utoipa::path(post, path = "/orders", responses((status = 201, description = "ordered")))]
//! async fn create() {}
//!
//! #[derive(OpenApi)]
//! #[openapi(paths(list, create))]
//! struct Document;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let keys = ApiKeys::builder(MemoryStore::new()).build();
//! let auth = ApiKeyLayer::new(&keys);
//! let (read, write) = (auth.scopes(["orders:read"]), auth.scopes(["orders:write"]).cost(5));
//! // `read` and `write` go around the routes, and into the document:
//! let mut document = Document::openapi();
//! ApiKeySecurity::new()
//!     .operation(HttpMethod::Get, "/orders", &read)
//!     .operation(HttpMethod::Post, "/orders", &write)
//!     .modify(&mut document);
//!
//! let document = serde_json::to_value(&document).unwrap();
//! let order = &document["paths"]["/orders"]["post"];
//! assert_eq!(order["security"][0]["bearer"][0], "orders:write");
//! assert_eq!(order["responses"]["401"]["$ref"], "#/components/responses/ApiKeyUnauthorized");
//! assert_eq!(document["components"]["securitySchemes"]["header.x-api-key"]["name"], "X-API-Key");
//! # }
//! ```
//!
//! # What it says
//!
//! 1. *Security schemes*, one for each source of a layer: `bearer` for `Authorization: Bearer`,
//!    `header.x-api-key` for a header, `query.api_key` for a parameter. OpenAPI knows no schemes
//!    that are not registered, so one such as `ApiKey` becomes a key in the `Authorization` header.
//! 2. *Requirements* of an operation: one of those schemes, each with the scopes that the layer
//!    requires, which OpenAPI 3.1 allows for every kind of scheme. Tools that show them for OAuth
//!    only may read the extension `x-required-scopes`. An optional layer adds the requirement `{}`.
//! 3. *Answers* of the layer itself, 400, 401, 403, 429 and 503, as the components
//!    `ApiKeyInvalidRequest`, `ApiKeyUnauthorized`, `ApiKeyForbidden`, `ApiKeyTooManyRequests` and
//!    `ApiKeyUnavailable`, with the schema `ApiKeyProblem`. An answer of the same status that the
//!    operation describes stays, and gets the layer's as a further content, unless
//!    [`on_denial`](ApiKeyLayer::on_denial) changes what the layer says.
//! 4. *Limits*: the fields `RateLimit` and `RateLimit-Policy` on the answers that the operation
//!    describes, for these are on every answer to a key that has limits.

mod answers;

use utoipa::Modify;
use utoipa::openapi::HttpMethod;
use utoipa::openapi::path::Operation;
use utoipa::openapi::{OpenApi, PathItem};

pub(crate) use answers::add_answers;
use answers::add_components;
#[cfg(feature = "admin")]
pub(crate) use answers::{PROBLEM_JSON, body, parsed, reference};

use crate::middleware::ApiKeyLayer;

/// Describes layers in a document: the routes that they protect, their security schemes and
/// answers. See the [module](self).
///
/// Operations that are not named here, such as a health check, stay as the document has them.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct ApiKeySecurity {
    routes: Vec<(HttpMethod, String, ApiKeyLayer)>,
}

impl ApiKeySecurity {
    /// No operation yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The operation of this method and path is protected by `layer`. The path is as the document
    /// has it, with its parameters in braces.
    pub fn operation(
        mut self,
        method: HttpMethod,
        path: impl Into<String>,
        layer: &ApiKeyLayer,
    ) -> Self {
        self.routes.push((method, path.into(), layer.clone()));
        self
    }
}

impl Modify for ApiKeySecurity {
    /// # Panics
    ///
    /// When the document has no such operation: it would call a route open that is not there.
    fn modify(&self, document: &mut OpenApi) {
        for (method, path, layer) in &self.routes {
            layer.modify(document);
            let item = document.paths.paths.get_mut(path);
            let operation = item.and_then(|item| operation_mut(item, method));
            let operation = operation
                .unwrap_or_else(|| panic!("the document has no operation {method:?} {path}"));
            layer.describe(operation);
        }
    }
}

/// Adds what the operations behind this layer refer to: the security schemes of its sources, its
/// answers and their schema. It is what a document needs whose operations are described one by one
/// with [`describe`](ApiKeyLayer::describe); [`ApiKeySecurity`] does both.
impl Modify for ApiKeyLayer {
    fn modify(&self, document: &mut OpenApi) {
        let components = document.components.get_or_insert_default();
        for (name, scheme) in self.security_schemes() {
            components.add_security_scheme(name, scheme);
        }
        add_components(components);
    }
}

fn operation_mut<'a>(item: &'a mut PathItem, method: &HttpMethod) -> Option<&'a mut Operation> {
    let operation = match method {
        HttpMethod::Get => &mut item.get,
        HttpMethod::Post => &mut item.post,
        HttpMethod::Put => &mut item.put,
        HttpMethod::Delete => &mut item.delete,
        HttpMethod::Options => &mut item.options,
        HttpMethod::Head => &mut item.head,
        HttpMethod::Patch => &mut item.patch,
        HttpMethod::Trace => &mut item.trace,
    };
    operation.as_mut()
}
