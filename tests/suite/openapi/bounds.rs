//! The bounds in the document are those that the router keeps: what is just within one is
//! accepted, what is just beyond it is refused.

use serde_json::{Value, json};
use tower_api_key::admin;

use super::json;
use crate::admin::{Admin, path};

/// Where a bound is among the schemas, and a new key with so much of it.
type Row = (&'static str, fn(u64) -> Value);

const MOST: [Row; 14] = [
    (
        "NewApiKey/properties/name/maxLength",
        |n| json!({"name": text(n)}),
    ),
    (
        "NewApiKey/properties/owner/maxLength",
        |n| json!({"owner": text(n)}),
    ),
    (
        "NewApiKey/properties/scopes/maxItems",
        |n| json!({"scopes": numbers(n)}),
    ),
    (
        "NewApiKey/properties/scopes/items/maxLength",
        |n| json!({"scopes": [letters(n)]}),
    ),
    ("NewApiKey/properties/limits/maxItems", |n| {
        let limit = |name| json!({"name": name, "quota": 1, "window_seconds": 1});
        json!({"limits": numbers(n).into_iter().map(limit).collect::<Vec<_>>()})
    }),
    ("ApiKeyLimit/properties/name/maxLength", |n| {
        limited(&letters(n), 1, 1)
    }),
    ("ApiKeyLimit/properties/quota/maximum", |n| {
        limited("l", n, 1)
    }),
    ("ApiKeyLimit/properties/window_seconds/maximum", |n| {
        limited("l", 1, n)
    }),
    (
        "ApiKeyCredits/properties/remaining/maximum",
        |n| json!({"credits": {"remaining": n}}),
    ),
    (
        "ApiKeyCredits/properties/refill/properties/amount/maximum",
        refilled,
    ),
    ("NewApiKey/properties/metadata/maxProperties", |n| {
        let entries = numbers(n).into_iter().map(|name| (name, json!("")));
        json!({"metadata": Value::Object(entries.collect())})
    }),
    (
        "NewApiKey/properties/metadata/propertyNames/maxLength",
        |n| json!({"metadata": {text(n): ""}}),
    ),
    (
        "NewApiKey/properties/metadata/additionalProperties/maxLength",
        |n| json!({"metadata": {"a": text(n)}}),
    ),
    (
        "NewApiKey/properties/allowed_addresses/maxItems",
        |n| json!({"allowed_addresses": numbers(n).iter().map(|_| "::/0").collect::<Vec<_>>()}),
    ),
];

const LEAST: [Row; 8] = [
    (
        "NewApiKey/properties/name/minLength",
        |n| json!({"name": text(n)}),
    ),
    (
        "NewApiKey/properties/owner/minLength",
        |n| json!({"owner": text(n)}),
    ),
    (
        "NewApiKey/properties/scopes/items/minLength",
        |n| json!({"scopes": [letters(n)]}),
    ),
    ("ApiKeyLimit/properties/name/minLength", |n| {
        limited(&letters(n), 1, 1)
    }),
    ("ApiKeyLimit/properties/quota/minimum", |n| {
        limited("l", n, 1)
    }),
    ("ApiKeyLimit/properties/window_seconds/minimum", |n| {
        limited("l", 1, n)
    }),
    (
        "ApiKeyCredits/properties/refill/properties/amount/minimum",
        refilled,
    ),
    (
        "NewApiKey/properties/metadata/propertyNames/minLength",
        |n| json!({"metadata": {text(n): ""}}),
    ),
];

fn text(length: u64) -> String {
    (0..length).map(|_| 'ä').collect()
}

fn letters(length: u64) -> String {
    (0..length).map(|_| 'a').collect()
}

fn numbers(count: u64) -> Vec<String> {
    (0..count).map(|number| number.to_string()).collect()
}

fn limited(name: &str, quota: u64, window: u64) -> Value {
    json!({"limits": [{"name": name, "quota": quota, "window_seconds": window}]})
}

fn refilled(amount: u64) -> Value {
    json!({"credits": {"remaining": 1, "refill": {"amount": amount, "every": "day"}}})
}

#[tokio::test]
async fn the_bounds_of_a_new_key_are_those_of_the_document() {
    let admin = Admin::new().await;
    let document = json(&admin::openapi(&admin.keys));
    let bound = |pointer: &str| {
        let bound = document.pointer(&format!("/components/schemas/{pointer}"));
        bound.and_then(Value::as_u64).expect(pointer)
    };
    for (pointer, body) in MOST {
        let most = bound(pointer);
        assert_bound(&admin, "/admin/keys", &body(most), &body(most + 1)).await;
    }
    for (pointer, body) in LEAST {
        let least = bound(pointer);
        assert_bound(&admin, "/admin/keys", &body(least), &body(least - 1)).await;
    }
}

#[tokio::test]
async fn the_bounds_of_a_rotation_and_of_a_page_are_those_of_the_document() {
    let admin = Admin::new().await;
    let document = json(&admin::openapi(&admin.keys));
    let grace = &document["components"]["schemas"]["ApiKeyRotation"]["properties"]["grace_seconds"];
    let grace = grace["maximum"].as_u64().unwrap();
    let key = admin
        .post("/admin/keys", json!({"name": "n"}))
        .await
        .with(201);
    let rotate = path(key["key"]["id"].as_str().unwrap()) + "/rotate";
    let body = |seconds: u64| json!({"grace_seconds": seconds});
    assert_bound(&admin, &rotate, &body(grace), &body(grace + 1)).await;

    let parameters = document["paths"]["/keys"]["get"]["parameters"]
        .as_array()
        .unwrap();
    let limit = parameters
        .iter()
        .find(|parameter| parameter["name"] == "limit");
    let limit = &limit.unwrap()["schema"];
    let list = async |limit: &Value| admin.get(&format!("/admin/keys?limit={limit}")).await;
    let above = limit["maximum"].as_u64().unwrap() + 1;
    let below = limit["minimum"].as_u64().unwrap() - 1;
    for bound in ["minimum", "maximum", "default"] {
        list(&limit[bound]).await.with(200);
    }
    for beyond in [above, below] {
        list(&beyond.into()).await.problem(400, "invalid_request");
    }
}

/// One body is accepted, the other not. Where they have no name, one is added.
async fn assert_bound(admin: &Admin, path: &str, within: &Value, beyond: &Value) {
    let named = |body: &Value| {
        let mut body = body.clone();
        if path.ends_with("/keys") && body.get("name").is_none() {
            body["name"] = "n".into();
        }
        body
    };
    admin.post(path, named(within)).await.with(201);
    admin
        .post(path, named(beyond))
        .await
        .problem(422, "invalid_request");
}
