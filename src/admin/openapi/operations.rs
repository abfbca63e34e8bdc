//! The routes: parameters, bodies and answers. Security and the middleware's own answers are the
//! layer's to tell.

use serde_json::{Map, Value, json};

use super::schemas::{self, EXAMPLE_ID};
use crate::admin::query::{DEFAULT_EVENTS, MAX_EVENTS, MAX_LIMIT};
use crate::admin::{BODY_DEADLINE, MAX_BODY};
use crate::openapi::reference;
use crate::store::KeyFilter;

pub(super) fn paths() -> Value {
    json!({
        "/keys": { "get": list(), "post": issue() },
        "/keys/{key_id}": {
            "parameters": [key_id()], "get": show(), "patch": update(), "delete": revoke(),
        },
        "/keys/{key_id}/rotate": { "parameters": [key_id()], "post": rotate() },
        "/keys/{key_id}/usage": { "parameters": [key_id()], "get": usage() },
        "/keys/{key_id}/events": { "parameters": [key_id()], "get": events() },
    })
}

fn issue() -> Value {
    let mut created = answer(
        "The key, and its secret: this answer is the only one that tells it.",
        "ApiKeyIssued",
        &schemas::issued_example(),
    );
    created["headers"]["Location"] = json!({
        "description": "The path of the new key.",
        "schema": { "type": "string", "format": "uri-reference" },
    });
    created["links"] = links("$response.body#/key/id");
    json!({
        "tags": ["keys"],
        "operationId": "issueKey",
        "summary": "Issue a key",
        "description": "Makes a key with its first secret. Every scope must be covered by one of \
            the caller's own, or the answer is 403.",
        "requestBody": request("NewApiKey", &json!({
            "name": "billing", "owner": "acme", "scopes": ["orders:read"],
            "limits": [{ "name": "burst", "quota": 100, "window_seconds": 60 }],
        })),
        "responses": answers("201", created, &["400", "408", "413", "415", "422"]),
    })
}

fn list() -> Value {
    let KeyFilter { limit, .. } = KeyFilter::default();
    let page = answer(
        "A page of keys. `next_cursor` is the `cursor` of the next one, and null on the last.",
        "ApiKeyPage",
        &json!({ "keys": [schemas::key_example()], "next_cursor": null }),
    );
    let text = || json!({ "type": "string", "pattern": r"^[^\u0000]*$" });
    json!({
        "tags": ["keys"],
        "operationId": "listKeys",
        "summary": "List keys",
        "description": "The keys that match all the parameters given, newest first. A parameter \
            that is not known, or is there twice, is refused.",
        "parameters": [
            query("owner", "Only keys of this owner.", &text()),
            query("environment", "Only keys of this environment.", &text()),
            query("status", "Only keys of this status.", &schemas::status()),
            query("limit", "At most so many keys.", &json!({
                "type": "integer", "format": "int32",
                "minimum": 1, "maximum": MAX_LIMIT, "default": limit,
            })),
            query("cursor", "The `next_cursor` of the page before.", &schemas::id()),
        ],
        "responses": answers("200", page, &["400q"]),
    })
}

fn show() -> Value {
    let key = answer("The key.", "ApiKey", &schemas::key_example());
    json!({
        "tags": ["keys"],
        "operationId": "showKey",
        "summary": "Show a key",
        "responses": answers("200", key, &["404"]),
    })
}

fn update() -> Value {
    let key = answer("The key as it is now.", "ApiKey", &schemas::key_example());
    json!({
        "tags": ["keys"],
        "operationId": "updateKey",
        "summary": "Change a key",
        "description": "Changes what is given; the rest stays. Every scope that is given and every \
            present scope of the key must be covered by one of the caller's own, or the answer is \
            403. To switch the key off and change nothing else needs no such cover.",
        "requestBody": request("ApiKeyPatch", &json!({ "enabled": false })),
        "responses": answers("200", key, &["400", "404", "408", "409", "413", "415", "422"]),
    })
}

fn rotate() -> Value {
    let created = answer(
        "The key, and its new secret: this answer is the only one that tells it.",
        "ApiKeyIssued",
        &schemas::issued_example(),
    );
    json!({
        "tags": ["keys"],
        "operationId": "rotateKey",
        "summary": "Give a key a new secret",
        "description": "The older secrets end after the grace period, or when they would anyway. \
            Every scope of the key must be covered by one of the caller's own, or the answer is \
            403.",
        "requestBody": request("ApiKeyRotation", &json!({ "grace_seconds": 86_400 })),
        "responses": answers("201", created, &["400", "404", "408", "409", "413", "415", "422"]),
    })
}

fn revoke() -> Value {
    let mut example = schemas::key_example();
    example["status"] = "revoked".into();
    example["revoked_at"] = "2026-11-24T10:00:00Z".into();
    let key = answer(
        "The key, which stays for the audit trail and is revoked now.",
        "ApiKey",
        &example,
    );
    json!({
        "tags": ["keys"],
        "operationId": "revokeKey",
        "summary": "End a key for good",
        "description": "To revoke a key again changes nothing and gives the same answer.",
        "responses": answers("200", key, &["404", "409"]),
    })
}

fn usage() -> Value {
    let usage = answer(
        "The counts, oldest first. Hours and days without use are left out.",
        "ApiKeyUsage",
        &json!({ "buckets": [{ "start": "2026-11-24T09:00:00Z", "allowed": 41, "denied": 1 }] }),
    );
    let bucket = json!({ "type": "string", "enum": ["hour", "day"], "default": "hour" });
    json!({
        "tags": ["keys"],
        "operationId": "showUsage",
        "summary": "Show how much a key was used",
        "description": "The counts of the hours that begin from `from` up to, but without, `to`: \
            366 days at most. They lag by the few seconds in which use is gathered.",
        "parameters": [
            query("from", "Default: the beginning of the hour 24 hours before `to`.",
                &schemas::time()),
            query("to", "Default: now.", &schemas::time()),
            query("bucket", "Counts by the hour, or added up by the day in UTC.", &bucket),
        ],
        "responses": answers("200", usage, &["400q", "404"]),
    })
}

fn events() -> Value {
    let events = answer(
        "A page of the audit trail. `next_cursor` is the `before` of the next one, and null on \
            the last.",
        "ApiKeyEvents",
        &json!({
            "events": [{ "at": "2026-11-23T10:00:00Z", "action": "issued", "actor": EXAMPLE_ID }],
            "next_cursor": null,
        }),
    );
    json!({
        "tags": ["keys"],
        "operationId": "showEvents",
        "summary": "Show what was done to a key",
        "description": "What was done, newest first.",
        "parameters": [
            query("limit", "At most so many events.", &json!({
                "type": "integer", "format": "int32",
                "minimum": 1, "maximum": MAX_EVENTS, "default": DEFAULT_EVENTS,
            })),
            query("before", "The `next_cursor` of the page before: only older events.",
                &schemas::event_cursor()),
        ],
        "responses": answers("200", events, &["400q", "404"]),
    })
}

// ---- Parts of them ----

fn key_id() -> Value {
    json!({
        "name": "key_id", "in": "path", "required": true,
        "description": "The id of a key. What is no id is answered like one that does not exist.",
        "schema": schemas::id(), "example": EXAMPLE_ID,
    })
}

fn query(name: &str, description: &str, schema: &Value) -> Value {
    json!({
        "name": name, "in": "query", "required": false,
        "description": description, "schema": schema,
    })
}

fn request(schema: &str, example: &Value) -> Value {
    json!({
        "required": true,
        "description": format!(
            "At most {MAX_BODY} bytes, within {} seconds.", BODY_DEADLINE.as_secs(),
        ),
        "content": {
            "application/json": { "schema": reference("schemas", schema), "example": example },
        },
    })
}

/// The answer to a request that was done.
fn answer(description: &str, schema: &str, example: &Value) -> Value {
    json!({
        "description": description,
        "headers": {
            "Cache-Control": {
                "description": "No cache may keep the answer.",
                "schema": { "type": "string", "enum": ["no-store"] },
            },
        },
        "content": {
            "application/json": { "schema": reference("schemas", schema), "example": example },
        },
    })
}

/// That answer and those to requests that were not done; `400q` is the one about parameters.
fn answers(status: &str, done: Value, refusals: &[&str]) -> Value {
    let refusals = refusals.iter().map(|&refusal| {
        let component = match refusal {
            "400q" => "ApiKeyBadQuery",
            "400" => "ApiKeyBadBody",
            "404" => "ApiKeyNotFound",
            "408" => "ApiKeyBodyTooSlow",
            "409" => "ApiKeyConflict",
            "413" => "ApiKeyBodyTooLarge",
            "415" => "ApiKeyUnsupportedBody",
            _ => "ApiKeyInvalidBody",
        };
        let status = refusal.trim_end_matches('q').to_owned();
        (status, reference("responses", component))
    });
    let mut answers: Map<_, _> = refusals.collect();
    answers.insert(status.to_owned(), done);
    answers.into()
}

/// What can be done with the key of an answer.
fn links(id: &str) -> Value {
    let operations = [
        "showKey",
        "updateKey",
        "rotateKey",
        "revokeKey",
        "showUsage",
        "showEvents",
    ];
    let links = operations.map(|operation| {
        let link = json!({ "operationId": operation, "parameters": { "key_id": id } });
        (operation.to_owned(), link)
    });
    Value::Object(links.into_iter().collect())
}
