//! The JSON of answers.

use serde_json::{Value, json};

use super::{EXAMPLE_ID, described, event_cursor, id, nullable, status, time};
use crate::admin::query::MAX_EVENTS;
use crate::openapi::reference;

pub(super) fn key() -> Value {
    let mut key = answer(
        "A key.",
        &json!({
            "id": id(),
            "name": { "type": "string" },
            "owner": { "type": ["string", "null"] },
            "prefix": { "type": "string" },
            "environment": { "type": "string" },
            "status": status(),
            "enabled": { "type": "boolean", "description": "False while the key is switched off." },
            "scopes": { "type": "array", "items": { "type": "string" }, "uniqueItems": true },
            "limits": { "type": "array", "items": reference("schemas", "ApiKeyLimit") },
            "metadata": { "type": "object", "additionalProperties": { "type": "string" } },
            "allowed_addresses": { "type": "array", "items": { "type": "string" } },
            "created_at": time(),
            "expires_at": nullable(described(time(), "When it ends by itself.")),
            "revoked_at": nullable(described(time(), "When it was ended for good.")),
            "last_used_at": nullable(described(time(), "When any of its secrets was last used.")),
            "credentials": {
                "type": "array", "items": reference("schemas", "ApiKeyCredential"),
                "description": "Its secrets, oldest first, also those that have ended.",
            },
        }),
    );
    // Only of a key that has a budget.
    key["properties"]["credits"] = reference("schemas", "ApiKeyCredits");
    key["properties"]["propagated"] = propagated();
    key
}

/// A member of answers to changes, and only where it is false.
fn propagated() -> Value {
    json!({
        "type": "boolean", "enum": [false],
        "description": "Only there, and false, when the change is stored but other instances of \
            the service could not be notified: they may go by the old state until their caches' \
            time to live is over. The same request again tries to notify them again.",
    })
}

pub(super) fn credential() -> Value {
    answer(
        "One secret of a key, as far as it may be shown.",
        &json!({
            "start": {
                "type": "string", "maxLength": 32,
                "description": "The beginning of the secret.",
            },
            "created_at": time(),
            "expires_at": nullable(described(time(), "When it ends, if a rotation has set an end.")),
            "last_used_at": nullable(time()),
        }),
    )
}

pub(super) fn issued() -> Value {
    let mut issued = answer(
        "A new secret and its key.",
        &json!({
            "secret": { "type": "string", "description": "The secret, this once." },
            "key": reference("schemas", "ApiKey"),
        }),
    );
    issued["properties"]["propagated"] = propagated();
    issued
}

pub(super) fn page() -> Value {
    let mut page = answer(
        "A page of keys.",
        &json!({
            "keys": { "type": "array", "items": reference("schemas", "ApiKey") },
            "next_cursor": nullable(id()),
        }),
    );
    let unreadable = answer(
        "A key that is stored and cannot be read.",
        &json!({
            "id": { "type": "string", "description": "The id as it is stored." },
            "detail": { "type": "string", "description": "The part that cannot be read." },
        }),
    );
    page["properties"]["unreadable"] = json!({
        "type": "array", "items": unreadable, "minItems": 1,
        "description": "Keys that belong on the page and cannot be read. Only there where there \
            are any.",
    });
    page
}

pub(super) fn usage() -> Value {
    let count = |description| {
        json!({
            "type": "integer", "format": "int64", "minimum": 0, "description": description,
        })
    };
    let bucket = answer(
        "One hour or day.",
        &json!({
            "start": time(),
            "allowed": count("How many requests were let through."),
            "denied": count("How many requests with this key were refused."),
        }),
    );
    answer(
        "How much a key was used.",
        &json!({
            "buckets": { "type": "array", "items": bucket },
        }),
    )
}

pub(super) fn events() -> Value {
    let event = answer(
        "What was done, when and by whom.",
        &json!({
            "at": time(),
            "action": {
                "type": "string",
                "enum": ["disabled", "enabled", "imported", "issued", "revoked", "rotated", "updated"],
            },
            "actor": {
                "type": ["string", "null"],
                "description": "The id of the acting key, or another name that the application gave.",
            },
        }),
    );
    answer(
        "A page of the audit trail of a key, newest first.",
        &json!({
            "events": { "type": "array", "items": event, "maxItems": MAX_EVENTS },
            "next_cursor": nullable(event_cursor()),
        }),
    )
}

/// An object whose members are all there, always.
fn answer(description: &str, properties: &Value) -> Value {
    let names = properties.as_object().into_iter().flatten();
    let names: Vec<_> = names.map(|(name, _)| name).collect();
    json!({
        "type": "object", "description": description,
        "required": names, "properties": properties,
    })
}

pub(in super::super) fn key_example() -> Value {
    json!({
        "id": EXAMPLE_ID, "name": "billing", "owner": "acme", "prefix": "sk",
        "environment": "live", "status": "active", "enabled": true,
        "scopes": ["orders:read"],
        "limits": [{ "name": "burst", "quota": 100, "window_seconds": 60 }],
        "metadata": {}, "allowed_addresses": [],
        "created_at": "2026-11-23T10:00:00Z", "expires_at": null, "revoked_at": null,
        "last_used_at": null,
        "credentials": [{
            "start": "sk_live_8fJ2", "created_at": "2026-11-23T10:00:00Z", "expires_at": null,
            "last_used_at": null,
        }],
    })
}

pub(in super::super) fn issued_example() -> Value {
    json!({ "secret": "sk_live_8fJ2…", "key": key_example() })
}
