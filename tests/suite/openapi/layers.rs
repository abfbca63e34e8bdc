//! What a document says of a layer follows from the layer.

use axum::Router;
use axum::routing::get as route;
use http::HeaderName;
use serde_json::{Value, json};
use tower_api_key::openapi::ApiKeySecurity;
use tower_api_key::{ApiKeyLayer, ClientAddress, CredentialSources, NewKey, RateLimit};
use utoipa::Modify;
use utoipa::openapi::HttpMethod::{Get, Post};
use utoipa::openapi::OpenApi;

use super::resolved;
use crate::support::{Answer, Bench, bearing, get, limit, panic_message, send};

#[tokio::test]
async fn the_schemes_are_the_sources() {
    let sources = CredentialSources::none()
        .scheme("Bearer")
        .scheme("ApiKey")
        .header(HeaderName::from_static("x-api-key"))
        .header(HeaderName::from_static("x-acme!key"))
        .query_parameter("api_key");
    let layer = Bench::new().layer().sources(sources).scopes(["a:b", "c"]);
    let document = documented(&layer);
    let schemes = &document["components"]["securitySchemes"];
    let expected = [
        ("bearer", json!({"type": "http", "scheme": "bearer"})),
        (
            "apikey",
            json!({"type": "apiKey", "in": "header", "name": "Authorization"}),
        ),
        (
            "header.x-api-key",
            json!({"type": "apiKey", "in": "header", "name": "X-API-Key"}),
        ),
        (
            "header.x-acme_21key",
            json!({"type": "apiKey", "in": "header", "name": "x-acme!key"}),
        ),
        (
            "query.api_key",
            json!({"type": "apiKey", "in": "query", "name": "api_key"}),
        ),
    ];
    assert_eq!(
        schemes.as_object().unwrap().len(),
        expected.len(),
        "{schemes}"
    );
    let operation = &document["paths"]["/orders"]["get"];
    for (index, (name, members)) in expected.iter().enumerate() {
        for (member, value) in members.as_object().unwrap() {
            assert_eq!(&schemes[name][member], value, "{name}");
        }
        assert_eq!(operation["security"][index], json!({*name: ["a:b", "c"]}));
    }
    assert_eq!(operation["x-required-scopes"], json!(["a:b", "c"]));
}

#[tokio::test]
async fn an_optional_layer_asks_for_a_key_or_for_none() {
    let layer = Bench::new().layer();
    let security =
        |layer: &ApiKeyLayer| documented(layer)["paths"]["/orders"]["get"]["security"].take();
    let asked = json!([{"bearer": []}, {"header.x-api-key": []}]);
    assert_eq!(security(&layer), asked);
    assert_eq!(
        security(&layer.optional()),
        json!([{"bearer": []}, {"header.x-api-key": []}, {}])
    );
}

#[tokio::test]
async fn the_answers_of_a_layer_are_those_of_its_document() {
    let failures = RateLimit::per_minute(1);
    let bench = Bench::with(|builder| builder.failed_attempts(failures));
    let layer = bench.layer();
    let document = documented(&layer);
    let app = |layer: ApiKeyLayer| Router::new().route("/", route(async || "ok").layer(layer));
    let plain = app(layer.clone());
    let mut answers = Vec::new();

    answers.push(send(&plain, get("/", &[])).await);
    answers.push(send(&plain, bearing("bad")).await);
    let both: [(&str, &[u8]); 2] = [("authorization", b"Bearer a"), ("x-api-key", b"b")];
    answers.push(send(&plain, get("/", &both)).await);
    let secret = bench
        .secret(NewKey::named("a").limit(limit("minute", 1, 60)))
        .await;
    answers.push(send(&app(layer.scopes(["orders:read"])), bearing(&secret)).await);
    answers.push(send(&plain, bearing(&secret)).await);
    answers.push(send(&plain, bearing(&secret)).await);
    let network = ["192.0.2.0/24".parse().unwrap()];
    let elsewhere = bench
        .secret(NewKey::named("b").allowed_addresses(network))
        .await;
    answers.push(send(&plain, bearing(&elsewhere)).await);
    for _ in 0..2 {
        let mut request = bearing("bad");
        request
            .extensions_mut()
            .insert(ClientAddress([192, 0, 2, 1].into()));
        answers.push(send(&plain, request).await);
    }
    bench.store.fail(true);
    let unknown = Bench::new().secret(NewKey::named("c")).await;
    answers.push(send(&plain, bearing(&unknown)).await);

    answers.retain(|answer| answer.status != 200);
    let mut codes: Vec<_> = answers
        .iter()
        .map(|answer| exemplified(&document, answer))
        .collect();
    codes.sort_unstable();
    codes.dedup();
    assert_eq!(codes.len(), 8, "one of each kind of denial: {codes:?}");
}

/// Checks an answer against the example of its code, and returns that.
fn exemplified(document: &Value, answer: &Answer) -> String {
    let response = &document["paths"]["/orders"]["get"]["responses"][answer.status.to_string()];
    let response = resolved(document, response);
    let problem: Value = serde_json::from_str(&answer.body).unwrap();
    let code = answer.code();
    let content = &response["content"]["application/problem+json"];
    assert_eq!(content["examples"][&code]["value"], problem);
    let codes = &content["schema"]["allOf"][1]["properties"]["code"]["enum"];
    assert!(
        codes.as_array().unwrap().contains(&code.clone().into()),
        "{codes}"
    );
    let headers = response["headers"].as_object().unwrap();
    for (name, _) in answer
        .headers
        .iter()
        .filter(|(name, _)| name != "content-type")
    {
        let known = headers.keys().any(|known| known.eq_ignore_ascii_case(name));
        assert!(known, "{code}: {name}");
    }
    code
}

#[tokio::test]
async fn an_answer_that_the_operation_has_stays() {
    let layer = Bench::new().layer();
    let own = json!({
        "400": {"description": "own", "content": {"text/plain": {}}},
        "401": {"description": "own", "content": {"application/problem+json": {"example": "own"}}},
    });
    let with = |layer: &ApiKeyLayer| {
        let mut document = orders(&own);
        ApiKeySecurity::new()
            .operation(Get, "/orders", layer)
            .modify(&mut document);
        super::json(&document)["paths"]["/orders"]["get"]["responses"].take()
    };
    let answers = with(&layer);
    assert_eq!(answers["400"]["description"], "own");
    let contents = answers["400"]["content"].as_object().unwrap();
    assert_eq!(contents.len(), 2, "the own one and the layer's");
    assert!(contents.contains_key("application/problem+json"));
    assert_eq!(
        answers["401"]["content"]["application/problem+json"],
        json!({"example": "own"})
    );

    let changed = with(&layer.on_denial(|_, _, answer| answer));
    assert_eq!(changed["400"]["content"], json!({"text/plain": {}}));
}

#[tokio::test]
async fn the_fields_about_limits_are_on_what_the_operation_answers() {
    let layer = Bench::new().layer();
    let headers = |layer: &ApiKeyLayer| {
        let headers =
            documented(layer)["paths"]["/orders"]["get"]["responses"]["200"]["headers"].take();
        headers
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect::<Vec<_>>()
    };
    assert_eq!(headers(&layer), ["RateLimit", "RateLimit-Policy"]);
    assert_eq!(headers(&layer.legacy_limit_headers()).len(), 5);
}

#[tokio::test]
async fn an_operation_that_is_not_there_is_a_mistake() {
    let layer = Bench::new().layer();
    for (method, path) in [(Post, "/orders"), (Get, "/order")] {
        let message = panic_message(|| {
            let security = ApiKeySecurity::new().operation(method.clone(), path, &layer);
            security.modify(&mut orders(&json!({})));
        });
        assert!(message.contains(path), "{message}");
    }
}

/// A document of one operation behind this layer.
fn documented(layer: &ApiKeyLayer) -> Value {
    let mut document = orders(&json!({"200": {"description": "the orders"}}));
    ApiKeySecurity::new()
        .operation(Get, "/orders", layer)
        .modify(&mut document);
    super::json(&document)
}

fn orders(responses: &Value) -> OpenApi {
    let document = json!({
        "openapi": "3.1.0", "info": {"title": "orders", "version": "1"},
        "paths": {"/orders": {"get": {"responses": responses}}},
    });
    serde_json::from_value(document).unwrap()
}
