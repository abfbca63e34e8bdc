//! The middleware's own answers as components of a document.

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use utoipa::openapi::path::Operation;
use utoipa::openapi::{Components, Content, Ref, RefOr, Response};

/// Status, component and codes of each answer.
const ANSWERS: [(&str, &str, &[&str]); 5] = [
    ("400", "ApiKeyInvalidRequest", &["invalid_request"]),
    ("401", "ApiKeyUnauthorized", &["missing_key", "invalid_key"]),
    (
        "403",
        "ApiKeyForbidden",
        &[
            "insufficient_scope",
            "address_not_allowed",
            "insecure_transport",
        ],
    ),
    (
        "429",
        "ApiKeyTooManyRequests",
        &["rate_limited", "credits_exhausted", "too_many_failures"],
    ),
    ("503", "ApiKeyUnavailable", &["unavailable"]),
];

pub(crate) const PROBLEM_JSON: &str = "application/problem+json";

/// Adds the answers, and what they refer to. What a document has of the same name stays.
pub(crate) fn add_components(components: &mut Components) {
    let ours: Components = parsed(json!({
        "schemas": { "ApiKeyProblem": problem() },
        "headers": headers(),
        "responses": responses(),
    }));
    let Components {
        schemas,
        headers,
        responses,
        ..
    } = ours;
    for (name, schema) in schemas {
        components.schemas.entry(name).or_insert(schema);
    }
    for (name, header) in headers {
        components.headers.entry(name).or_insert(header);
    }
    for (name, response) in responses {
        components.responses.entry(name).or_insert(response);
    }
}

/// Adds the answers to an operation's own, and the limits' fields to those.
pub(crate) fn add_answers(operation: &mut Operation, changed_by_hook: bool, legacy_headers: bool) {
    let answers = &mut operation.responses.responses;
    for answer in answers.values_mut() {
        if let RefOr::T(response) = answer {
            add_limits(response, legacy_headers);
        }
    }
    for (status, component, codes) in ANSWERS {
        let answer = answers.entry(status.to_owned());
        let answer = answer.or_insert_with(|| Ref::from_response_name(component).into());
        // Of several bodies for one status, OpenAPI tells them apart by their type alone.
        if let (RefOr::T(response), false) = (answer, changed_by_hook) {
            let content = response.content.entry(PROBLEM_JSON.to_owned());
            content.or_insert_with(|| RefOr::T(body(status, codes)));
        }
    }
}

fn add_limits(response: &mut Response, legacy_headers: bool) {
    let legacy: &[_] = if legacy_headers {
        &[
            "X-RateLimit-Limit",
            "X-RateLimit-Remaining",
            "X-RateLimit-Reset",
        ]
    } else {
        &[]
    };
    for &name in ["RateLimit", "RateLimit-Policy"].iter().chain(legacy) {
        let header = response.headers.entry(name.to_owned());
        header.or_insert_with(|| parsed(reference("headers", name)));
    }
}

fn responses() -> Value {
    let [invalid, unauthorized, forbidden, too_many, unavailable] =
        ANSWERS.map(|(status, _, codes)| json!({ PROBLEM_JSON: body(status, codes) }));
    let header = |name| reference("headers", name);
    let cache = json!({
        "description": "No cache may keep the answer.",
        "schema": { "type": "string", "enum": ["no-store"] },
    });
    json!({
        "ApiKeyInvalidRequest": {
            "description": "The request has more than one credential.",
            "headers": { "Cache-Control": cache, "WWW-Authenticate": header("ApiKeyChallenge") },
            "content": invalid,
        },
        "ApiKeyUnauthorized": {
            "description": "The request has no API key, or one that is not valid: whether it is \
                unknown, malformed, expired, revoked or disabled is not told.",
            "headers": { "Cache-Control": cache, "WWW-Authenticate": header("ApiKeyChallenge") },
            "content": unauthorized,
        },
        "ApiKeyForbidden": {
            "description": "The key lacks a scope, which `WWW-Authenticate` names, or may not be \
                used from this address; or the request came without TLS.",
            "headers": {
                "Cache-Control": cache,
                "WWW-Authenticate": header("ApiKeyChallenge"),
                "RateLimit": header("RateLimit"),
                "RateLimit-Policy": header("RateLimit-Policy"),
            },
            "content": forbidden,
        },
        "ApiKeyTooManyRequests": {
            "description": "The key is over one of its limits or has too few credits left, or too \
                many attempts with bad keys came from this address. Without `Retry-After` waiting \
                does not help: the request costs more than is ever allowed, or no refill is due.",
            "headers": {
                "Cache-Control": cache,
                "Retry-After": header("ApiKeyRetryAfter"),
                "RateLimit": header("RateLimit"),
                "RateLimit-Policy": header("RateLimit-Policy"),
            },
            "content": too_many,
        },
        "ApiKeyUnavailable": {
            "description": "Whether the key is valid, or within its limits, cannot be told at \
                present.",
            "headers": { "Cache-Control": cache, "Retry-After": header("ApiKeyRetryAfter") },
            "content": unavailable,
        },
    })
}

/// The content of a problem with this status and one of these codes.
pub(crate) fn body(status: &str, codes: &[&str]) -> Content {
    let status: u16 = status.parse().unwrap_or_default();
    let examples = codes.iter().map(|&code| {
        let (title, detail) = words(code);
        let mut problem = json!({
            "type": "about:blank", "title": title, "status": status, "code": code,
            "detail": detail,
        });
        if code == "rate_limited" {
            problem["type"] = QUOTA_EXCEEDED.into();
            problem["violated-policies"] = json!(["minute"]);
        }
        (code.to_owned(), json!({ "value": problem }))
    });
    parsed(json!({
        "schema": {
            "allOf": [
                reference("schemas", "ApiKeyProblem"),
                {
                    "type": "object",
                    "properties": {
                        "status": { "type": "integer", "enum": [status] },
                        "code": { "type": "string", "enum": codes },
                    },
                },
            ],
        },
        "examples": examples.collect::<serde_json::Map<_, _>>(),
    }))
}

const QUOTA_EXCEEDED: &str = "https://iana.org/assignments/http-problem-types#quota-exceeded";

/// Title and detail of the example of a code.
fn words(code: &str) -> (&str, &str) {
    match code {
        "missing_key" => ("Unauthorized", "an API key is required"),
        "invalid_key" => ("Unauthorized", "the API key is not valid"),
        "insufficient_scope" => (
            "Forbidden",
            "the API key lacks a scope that is required here",
        ),
        "address_not_allowed" => ("Forbidden", "the API key may not be used from this address"),
        "insecure_transport" => (
            "Forbidden",
            "an API key was sent without TLS, where others can read it: replace it",
        ),
        "rate_limited" => ("Too Many Requests", "the API key's rate limit is exceeded"),
        "credits_exhausted" => (
            "Too Many Requests",
            "the API key has too few credits left until the next refill",
        ),
        "too_many_failures" => (
            "Too Many Requests",
            "too many requests with invalid API keys came from this address",
        ),
        "unavailable" => (
            "Service Unavailable",
            "the API key cannot be verified at present",
        ),
        _ => ("Bad Request", "the request carries more than one API key"),
    }
}

fn problem() -> Value {
    json!({
        "type": "object",
        "title": "Problem",
        "description": "What went wrong (RFC 9457).",
        "required": ["type", "title", "status", "code", "detail"],
        "properties": {
            "type": {
                "type": "string", "format": "uri-reference",
                "description": "`about:blank`, or the IANA's type of an exceeded quota.",
            },
            "title": { "type": "string", "description": "The status in words." },
            "status": {
                "type": "integer", "format": "int32", "minimum": 400, "maximum": 599,
                "description": "The status of the answer.",
            },
            "code": {
                "type": "string", "pattern": "^[a-z_]+$",
                "description": "What went wrong, for programs.",
            },
            "detail": { "type": "string", "description": "What went wrong, for people." },
            "field": {
                "type": "string",
                "description": "The field or parameter that is wrong, as in `limits[0].quota`.",
            },
            "violated-policies": {
                "type": "array", "items": { "type": "string" },
                "description": "The names of the limits that the request is over.",
            },
        },
    })
}

fn headers() -> Value {
    let seconds = json!({ "type": "integer", "format": "int64", "minimum": 0 });
    json!({
        "ApiKeyChallenge": {
            "description": "The challenge of RFC 6750 §3, with the scopes that are required.",
            "schema": { "type": "string" },
            "example": "Bearer realm=\"api\", error=\"invalid_token\"",
        },
        "ApiKeyRetryAfter": {
            "description": "After how many seconds the same request can succeed.",
            "schema": { "type": "integer", "format": "int64", "minimum": 1 },
            "example": 4,
        },
        "RateLimit": {
            "description": "Of each limit of the key, what may still be used and the seconds until \
                that can grow. Absent for a key without limits.",
            "schema": { "type": "string" },
            "example": "\"burst\";r=87;t=4",
        },
        "RateLimit-Policy": {
            "description": "Of each limit of the key, the quota and its window in seconds. Absent \
                for a key without limits.",
            "schema": { "type": "string" },
            "example": "\"burst\";q=100;w=60",
        },
        "X-RateLimit-Limit": {
            "description": "The quota of the tightest limit.", "schema": seconds,
        },
        "X-RateLimit-Remaining": {
            "description": "What may still be used of the tightest limit.", "schema": seconds,
        },
        "X-RateLimit-Reset": {
            "description": "The seconds until what is left of the tightest limit can grow.",
            "schema": seconds,
        },
    })
}

pub(crate) fn reference(kind: &str, name: &str) -> Value {
    json!({ "$ref": format!("#/components/{kind}/{name}") })
}

/// A part of a document that is written as JSON in this crate.
///
/// # Panics
///
/// When it is none; what the crate holds is tested to be.
pub(crate) fn parsed<T: DeserializeOwned>(json: Value) -> T {
    serde_json::from_value(json).unwrap_or_else(|error| panic!("no part of a document: {error}"))
}
