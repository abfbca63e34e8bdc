//! The JSON of requests and answers, with the bounds that are enforced.

mod answers;

use serde_json::{Value, json};

use self::answers::{credential, events, issued, key, page, usage};
pub(super) use self::answers::{issued_example, key_example};
use crate::admin::request::Rotation;
use crate::key::KeyFormat;
use crate::limit::{RateLimit, RateLimits};
use crate::openapi::reference;
use crate::record::Credits;
use crate::registry::{
    MAX_ADDRESSES, MAX_METADATA, MAX_METADATA_NAME, MAX_METADATA_VALUE, MAX_TEXT,
};
use crate::scope::{Scope, ScopeSet};

pub(super) const EXAMPLE_ID: &str = "key_01JDB2Z0X8Q4W7M3T5R9V6N1KC";

pub(super) fn schemas(format: &KeyFormat) -> Value {
    json!({
        "NewApiKey": new_key(format),
        "ApiKeyPatch": patch(),
        "ApiKeyRotation": rotation(),
        "ApiKeyLimit": limit(),
        "ApiKeyCredits": credits(),
        "ApiKey": key(),
        "ApiKeyCredential": credential(),
        "ApiKeyIssued": issued(),
        "ApiKeyPage": page(),
        "ApiKeyUsage": usage(),
        "ApiKeyEvents": events(),
    })
}

// ---- Requests ----

fn new_key(format: &KeyFormat) -> Value {
    let (prefixes, environments) = (format.all_prefixes(), format.all_environments());
    json!({
        "type": "object",
        "description": "What a new key shall be.",
        "required": ["name"],
        "additionalProperties": false,
        "properties": {
            "name": text("What people call the key."),
            "owner": nullable(text("Whom it belongs to. Default: nobody.")),
            "prefix": optional_choice("What kind of key it is.", prefixes),
            "environment": optional_choice("Where it is for.", environments),
            "scopes": scopes(),
            "limits": limits(),
            "credits": budget("Its budget. Null: it needs none."),
            "expires_at": nullable(described(time(), END)),
            "metadata": metadata(),
            "allowed_addresses": networks(),
        },
    })
}

fn patch() -> Value {
    json!({
        "type": "object",
        "description": "What shall change. Only `expires_at` and `credits` can be null, which takes \
            them away.",
        "additionalProperties": false,
        "properties": {
            "name": text("What people call the key."),
            "scopes": scopes(),
            "limits": limits(),
            "credits": budget("The budget from now on, whatever was left. Null: it needs none."),
            "metadata": metadata(),
            "expires_at": nullable(described(time(), END)),
            "allowed_addresses": networks(),
            "enabled": { "type": "boolean", "description": "Switches the key on or off." },
        },
    })
}

fn rotation() -> Value {
    json!({
        "type": "object",
        "description": "How a rotation treats the older secrets.",
        "required": ["grace_seconds"],
        "additionalProperties": false,
        "properties": {
            "grace_seconds": {
                "type": "integer", "format": "int64",
                "minimum": 0, "maximum": Rotation::MAX_GRACE,
                "description": "How long they go on working. 0 ends them at once.",
            },
        },
    })
}

fn limit() -> Value {
    json!({
        "type": "object",
        "description": "At most `quota` units in any `window_seconds`.",
        "required": ["name", "quota", "window_seconds"],
        "additionalProperties": false,
        "properties": {
            "name": {
                "type": "string", "pattern": "^[A-Za-z0-9._-]+$",
                "minLength": 1, "maxLength": RateLimit::MAX_NAME_LEN,
                "description": "What headers call the limit. No two limits of a key have one name.",
            },
            "quota": {
                "type": "integer", "format": "int64",
                "minimum": 1, "maximum": RateLimit::MAX_QUOTA,
            },
            "window_seconds": {
                "type": "integer", "format": "int64",
                "minimum": 1, "maximum": RateLimit::MAX_WINDOW.as_secs(),
            },
        },
        "example": { "name": "burst", "quota": 100, "window_seconds": 60 },
    })
}

fn credits() -> Value {
    json!({
        "type": "object",
        "description": "What a key may spend. Each request takes its cost.",
        "required": ["remaining"],
        "additionalProperties": false,
        "properties": {
            "remaining": {
                "type": "integer", "format": "int64", "minimum": 0, "maximum": Credits::MAX,
                "description": "How many credits there are. What other instances of the service \
                    have set aside to spend is not among them.",
            },
            "refill": {
                "type": ["object", "null"],
                "description": "What `remaining` is set to at the beginning of each day or month \
                    in UTC, and how often. Null: never.",
                "required": ["amount", "every"],
                "additionalProperties": false,
                "properties": {
                    "amount": {
                        "type": "integer", "format": "int64",
                        "minimum": 1, "maximum": Credits::MAX,
                    },
                    "every": { "type": "string", "enum": ["day", "month"] },
                },
            },
        },
        "example": { "remaining": 1000, "refill": { "amount": 1000, "every": "month" } },
    })
}

fn budget(description: &str) -> Value {
    json!({
        "anyOf": [reference("schemas", "ApiKeyCredits"), { "type": "null" }],
        "description": description,
    })
}

const END: &str = "When it ends by itself, which must be in the future. Null: never.";

/// Text for people, without control characters.
fn text(description: &str) -> Value {
    json!({
        "type": "string", "pattern": NO_CONTROLS, "minLength": 1, "maxLength": MAX_TEXT,
        "description": description,
    })
}

const NO_CONTROLS: &str = r"^[^\u0000-\u001f\u007f-\u009f]*$";

fn optional_choice(description: &str, choices: &[String]) -> Value {
    let default = choices.first();
    let choices: Vec<_> = choices.iter().map(Some).chain([None]).collect();
    json!({
        "type": ["string", "null"], "enum": choices, "default": default,
        "description": description,
    })
}

fn scopes() -> Value {
    // A segment has the characters of RFC 6749 §3.3 without `:` and `*`.
    let segment = r"[!#-)+-9;-\[\]-~]+";
    json!({
        "type": "array",
        "maxItems": ScopeSet::MAX_LEN,
        "description": "What the key may do, as in `orders:read`. `orders:*` covers what is below \
            `orders`, and `*` everything.",
        "items": {
            "type": "string", "pattern": format!(r"^({segment}:)*({segment}|\*)$"),
            "minLength": 1, "maxLength": Scope::MAX_LEN,
        },
        "example": ["orders:read"],
    })
}

fn limits() -> Value {
    json!({
        "type": "array",
        "maxItems": RateLimits::MAX_LEN,
        "description": "Its own rate limits, each with another name.",
        "items": reference("schemas", "ApiKeyLimit"),
    })
}

fn metadata() -> Value {
    json!({
        "type": "object",
        "maxProperties": MAX_METADATA,
        "description": "Whatever the application wants to keep with the key.",
        "propertyNames": {
            "type": "string", "pattern": NO_CONTROLS,
            "minLength": 1, "maxLength": MAX_METADATA_NAME,
        },
        "additionalProperties": {
            "type": "string", "pattern": r"^[^\u0000]*$", "maxLength": MAX_METADATA_VALUE,
        },
        "example": { "team": "billing" },
    })
}

fn networks() -> Value {
    json!({
        "type": "array",
        "maxItems": MAX_ADDRESSES,
        "description": "The networks that the key may be used from, as `address/bits`. None: \
            everywhere.",
        "items": { "anyOf": [
            { "type": "string", "pattern": ipv4_network() },
            { "type": "string", "pattern": ipv6_network() },
        ] },
        "example": ["192.0.2.0/24", "2001:db8::/32"],
    })
}

fn ipv4_network() -> String {
    let byte = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])";
    format!(r"^({byte}\.){{3}}{byte}/(3[0-2]|[12]?[0-9])$")
}

/// RFC 4291 §2.2, forms 1 and 2.
fn ipv6_network() -> String {
    let group = "[0-9a-fA-F]{1,4}";
    let whole = format!("({group}:){{7}}{group}");
    let ends_in_gap = format!("({group}:){{1,7}}:");
    let begins_with_gap = format!(":((:{group}){{1,7}}|:)");
    let gap_within = (1..=6).map(|after| {
        let before = 7 - after;
        format!("({group}:){{1,{before}}}(:{group}){{1,{after}}}")
    });
    let forms = [whole, ends_in_gap, begins_with_gap].into_iter();
    let forms: Vec<_> = forms.chain(gap_within).collect();
    format!("^({})/(12[0-8]|1[01][0-9]|[1-9]?[0-9])$", forms.join("|"))
}

// ---- Both ----

pub(super) fn id() -> Value {
    json!({
        "type": "string", "pattern": "^key_[0-7][0-9A-HJKMNP-TV-Z]{25}$",
        "minLength": 30, "maxLength": 30,
        "description": "The id of a key: `key_` and a ULID.",
    })
}

/// An opaque text to clients. A position is a number of 64 bits.
pub(super) fn event_cursor() -> Value {
    json!({
        "type": "string", "pattern": "^[0-9]{1,19}$",
        "description": "Where a page of events begins.",
    })
}

pub(super) fn status() -> Value {
    json!({ "type": "string", "enum": ["active", "disabled", "expired", "revoked"] })
}

pub(super) fn time() -> Value {
    json!({ "type": "string", "format": "date-time" })
}

fn described(mut schema: Value, description: &str) -> Value {
    schema["description"] = description.into();
    schema
}

fn nullable(mut schema: Value) -> Value {
    schema["type"] = json!([schema["type"], "null"]);
    schema
}
