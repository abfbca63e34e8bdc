//! What documents say of layers and of the admin router, held against what these do.

mod bounds;
mod documented;
mod layers;

use std::collections::{BTreeMap, BTreeSet};

use axum::http::Method;
use serde_json::Value;
use tower_api_key::{ApiKeyLayer, admin};
use utoipa::openapi::OpenApi;

pub(crate) use documented::assert_documented;

use crate::admin::Admin;

/// Methods by path.
type Routes = BTreeMap<String, BTreeSet<String>>;

#[tokio::test]
async fn the_document_has_the_routes_of_the_admin_router_and_no_other() {
    let admin = Admin::new().await;
    let document = json(&admin::openapi(&admin.keys));
    let documented: Routes = operations(&document)
        .map(|(path, method, _)| (path, method.to_uppercase()))
        .fold(Routes::new(), |mut routes, (path, method)| {
            routes.entry(path).or_default().insert(method);
            routes
        });

    // No client can ask a router for its paths, so its source is asked.
    let source = include_str!("../../src/admin/mod.rs");
    let code = source
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    let paths = code.flat_map(|line| line.split('"').filter(|text| text.starts_with("/keys")));
    let mut routes = Routes::new();
    for path in paths {
        let uri = format!("/admin{}", path.replace("{key_id}", "key_1"));
        let answer = admin
            .call(&admin.caller(&["*"]).await, Method::TRACE, &uri, "")
            .await;
        let allowed = answer.header("allow").split(',').map(str::to_owned);
        routes.insert(
            path.to_owned(),
            allowed.filter(|method| method != "HEAD").collect(),
        );
        answer.problem(405, "method_not_allowed");
    }
    assert_eq!(documented, routes);
}

#[tokio::test]
async fn each_operation_needs_the_scopes_that_its_document_names() {
    let admin = Admin::new().await;
    let nobody = admin.caller(&[]).await;
    let document = json(&admin::openapi(&admin.keys));
    for (path, method, operation) in operations(&document) {
        let uri = format!("/admin{}", path.replace("{key_id}", "key_1"));
        let method = method.to_uppercase().parse().unwrap();
        let answer = admin.call(&nobody, method, &uri, "").await;
        let scopes = operation["x-required-scopes"].as_array().unwrap();
        let scopes: Vec<_> = scopes.iter().map(|scope| scope.as_str().unwrap()).collect();
        let asked = format!("scope=\"{}\"", scopes.join(" "));
        assert!(
            answer.header("www-authenticate").ends_with(&asked),
            "{path}: {answer:?}"
        );
        answer.problem(403, "insufficient_scope");
        let requirements = operation["security"].as_array().unwrap();
        assert_eq!(requirements.len(), 2, "a bearer token or a header");
        for requirement in requirements {
            for (_, named) in requirement.as_object().unwrap() {
                assert_eq!(named, &operation["x-required-scopes"], "{path}");
            }
        }
    }
}

#[tokio::test]
async fn an_optional_layer_is_not_said_to_open_the_admin_router() {
    let admin = Admin::new().await;
    let layer = ApiKeyLayer::new(&admin.keys).optional();
    let document = json(&admin::openapi_with_layer(&admin.keys, &layer));
    for (path, _, operation) in operations(&document) {
        let requirements = operation["security"].as_array().unwrap();
        assert!(
            requirements.iter().all(|one| one != &serde_json::json!({})),
            "{path}"
        );
        let internal = resolved(&document, &operation["responses"]["500"]);
        assert!(internal["content"].is_object(), "{path}");
    }
}

#[tokio::test]
async fn a_document_survives_its_json() {
    let admin = Admin::new().await;
    let written = json(&admin::openapi(&admin.keys));
    let read: OpenApi = serde_json::from_value(written.clone()).unwrap();
    assert_eq!(json(&read), written);
    assert_eq!(written["openapi"], "3.1.0");
    references(&written, &mut |reference| {
        assert!(target(&written, reference).is_some(), "{reference}");
    });
}

#[tokio::test]
async fn a_new_key_may_be_of_the_kinds_that_the_format_has() {
    let admin = Admin::new().await;
    let document = json(&admin::openapi(&admin.keys));
    let members = &document["components"]["schemas"]["NewApiKey"]["properties"];
    assert_eq!(
        members["prefix"]["enum"],
        serde_json::json!(["sk", "pk", null])
    );
    assert_eq!(
        members["environment"]["enum"],
        serde_json::json!(["live", "test", null])
    );
    assert_eq!(
        (
            &members["prefix"]["default"],
            &members["environment"]["default"]
        ),
        (&"sk".into(), &"live".into())
    );
}

fn json(document: &OpenApi) -> Value {
    serde_json::to_value(document).unwrap()
}

/// Path, method and description of every operation.
fn operations(document: &Value) -> impl Iterator<Item = (String, String, &Value)> {
    let paths = document["paths"].as_object().unwrap();
    paths.iter().flat_map(|(path, item)| {
        let members = item.as_object().unwrap().iter();
        let operations = members.filter(|(member, _)| *member != "parameters");
        operations.map(|(method, operation)| (path.clone(), method.clone(), operation))
    })
}

/// What a reference refers to, or the part itself.
fn resolved<'a>(document: &'a Value, part: &'a Value) -> &'a Value {
    match part["$ref"].as_str() {
        Some(reference) => target(document, reference).unwrap(),
        None => part,
    }
}

fn target<'a>(document: &'a Value, reference: &str) -> Option<&'a Value> {
    document.pointer(reference.strip_prefix('#')?)
}

fn references(part: &Value, seen: &mut impl FnMut(&str)) {
    match part {
        Value::Array(items) => items.iter().for_each(|item| references(item, seen)),
        Value::Object(members) => {
            if let Some(Value::String(reference)) = members.get("$ref") {
                seen(reference);
            }
            members.values().for_each(|member| references(member, seen));
        }
        _ => {}
    }
}
