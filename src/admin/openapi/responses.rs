//! The answers to requests that were not done, beside the middleware's own.

use serde_json::{Value, json};

use crate::openapi::{PROBLEM_JSON, body, reference};

pub(super) fn responses() -> Value {
    json!({
        "ApiKeyBadBody": problem(
            "400", "invalid_request", "The body is not JSON, or the request has more than one \
            credential.", "Failed to parse the request body as JSON", None,
        ),
        "ApiKeyBadQuery": problem(
            "400", "invalid_request", "A query parameter is wrong, and `field` names it; or the \
            request has more than one credential.", "limit: use 1 to 200", Some("limit"),
        ),
        "ApiKeyNotFound": problem(
            "404", "not_found", "There is no such key.", "there is no such resource", None,
        ),
        "ApiKeyConflict": problem(
            "409", "conflict", "The key is revoked or has expired, and nothing that has ended \
            comes back; or it has as many live secrets as it can have; or many change it at once.",
            "key key_01JDB2Z0X8Q4W7M3T5R9V6N1KC is revoked for good; issue a new one", None,
        ),
        "ApiKeyBodyTooSlow": problem(
            "408", "request_timeout", "The body took too long to arrive.",
            "the body took longer than 10 seconds", None,
        ),
        "ApiKeyBodyTooLarge": problem(
            "413", "content_too_large", "The body is too large.",
            "the body must not be over 65536 bytes", None,
        ),
        "ApiKeyUnsupportedBody": problem(
            "415", "unsupported_media_type", "The body is not declared as JSON.",
            "the body must be of `Content-Type: application/json`", None,
        ),
        "ApiKeyInvalidBody": problem(
            "422", "invalid_request", "A value is missing, unknown or out of its range, and \
            `field` names it.", "limits[0].quota: quota must be 1 to 999999999999999",
            Some("limits[0].quota"),
        ),
        "ApiKeyMissingPrincipal": problem(
            "500",
            "internal",
            "The request has no key, and the layer of the router does not ask for one, which is a \
            mistake in the program.",
            "the server is not set up to answer this request",
            None,
        ),
    })
}

fn problem(
    status: &str,
    code: &str,
    description: &str,
    detail: &str,
    field: Option<&str>,
) -> Value {
    let mut content = json!(body(status, &[code]));
    let example = &mut content["examples"][code]["value"];
    example["title"] = title(status).into();
    example["detail"] = detail.into();
    if let Some(field) = field {
        example["field"] = field.into();
    }
    let mut headers = json!({
        "Cache-Control": {
            "description": "No cache may keep the answer.",
            "schema": { "type": "string", "enum": ["no-store"] },
        },
        "RateLimit": reference("headers", "RateLimit"),
        "RateLimit-Policy": reference("headers", "RateLimit-Policy"),
    });
    if status == "400" {
        headers["WWW-Authenticate"] = reference("headers", "ApiKeyChallenge");
    }
    json!({
        "description": description,
        "headers": headers,
        "content": { PROBLEM_JSON: content },
    })
}

fn title(status: &str) -> &str {
    match status {
        "404" => "Not Found",
        "408" => "Request Timeout",
        "409" => "Conflict",
        "413" => "Payload Too Large",
        "415" => "Unsupported Media Type",
        "422" => "Unprocessable Entity",
        "500" => "Internal Server Error",
        _ => "Bad Request",
    }
}
