//! The server's own OpenAPI document: its routes, the admin router's, and what its layers say.

use serde_json::{Value, json};
use tower_api_key::openapi::ApiKeySecurity;
use tower_api_key::{ApiKeys, admin};
use utoipa::Modify;
use utoipa::openapi::HttpMethod::{Get, Post};
use utoipa::openapi::OpenApi;

use super::Needs;

pub(super) fn document(keys: &ApiKeys, needs: &Needs) -> OpenApi {
    let own = json!({
        "openapi": "3.1.0",
        "info": { "title": "keyserver", "version": env!("CARGO_PKG_VERSION") },
        "paths": {
            "/healthz": { "get": {
                "operationId": "healthz",
                "security": [],
                "responses": { "200": {
                    "description": "The server runs.",
                    "content": { "text/plain": { "schema": { "type": "string" } } },
                } },
            } },
            "/v1/whoami": { "get": operation("whoami", "200", &json!({
                "key_id": { "type": "string" },
                "name": { "type": "string" },
                "owner": { "type": ["string", "null"] },
                "environment": { "type": "string" },
                "scopes": { "type": "array", "items": { "type": "string" } },
            })) },
            "/v1/public": { "get": operation("public", "200", &json!({
                "key_id": { "type": ["string", "null"] },
            })) },
            "/v1/catalog": { "get": operation("catalog", "200", &json!({
                "products": { "type": "array", "items": { "type": "string" } },
            })) },
            "/v1/orders": {
                "get": operation("listOrders", "200", &json!({
                    "orders": { "type": "array", "items": { "type": "object" } },
                })),
                "post": operation("order", "201", &json!({ "id": { "type": "integer" } })),
            },
        },
    });
    let own: OpenApi = serde_json::from_value(own).expect("it is a document");
    let mut document = own.nest("/admin", admin::openapi(keys));
    ApiKeySecurity::new()
        .operation(Get, "/v1/whoami", &needs.whoami)
        .operation(Get, "/v1/public", &needs.public)
        .operation(Get, "/v1/catalog", &needs.catalog)
        .operation(Get, "/v1/orders", &needs.list_orders)
        .operation(Post, "/v1/orders", &needs.order)
        .modify(&mut document);
    document
}

/// An operation whose answer is an object of these members.
fn operation(id: &str, status: &str, members: &Value) -> Value {
    let names: Vec<_> = members
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, _)| name)
        .collect();
    let schema = json!({ "type": "object", "required": names, "properties": members });
    json!({
        "operationId": id,
        "responses": { status: {
            "description": "Done.",
            "content": { "application/json": { "schema": schema } },
        } },
    })
}
