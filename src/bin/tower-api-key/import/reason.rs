//! Reasons for a line that was not imported. None quotes the line: a plaintext key may stand in a
//! wrong column.

use tower_api_key::{KeyError, KeyErrorKind};

use super::row::FIELDS;
use crate::failure::with_causes;

/// The reason for which the registry did not take a key.
pub(super) fn of_key(error: &KeyError) -> String {
    match (error.kind(), error.field()) {
        // The message quotes the scope. Those about other fields quote nothing.
        (KeyErrorKind::Invalid, Some("scopes")) => format!("scopes: {}", expected("scopes")),
        _ => with_causes(error),
    }
}

/// The reason for which an object is no key. Messages of the parser about text that is no JSON
/// quote nothing; its messages about values do.
pub(super) fn of_json(error: &serde_path_to_error::Error<serde_json::Error>) -> String {
    let inner = error.inner();
    let message = inner.to_string();
    // The parser counts lines too, and this was its first.
    let (reason, place) = match message.rsplit_once(" at line ") {
        Some((reason, _)) => (reason, format!(", at column {}", inner.column())),
        None => (message.as_str(), String::new()),
    };
    if !inner.is_data() || names_own_field(reason) {
        return format!("{reason}{place}");
    }
    if let Some(name) = unknown_field(reason) {
        return if is_plain_name(name) {
            format!("unknown field `{name}`{place}")
        } else {
            format!("unknown field{place}")
        };
    }
    let path = error.path().to_string();
    let field = path.split(['.', '[']).next().unwrap_or_default();
    if FIELDS.contains(&field) {
        format!("{field}: {}{place}", expected(field))
    } else {
        format!("a value is not of the right type{place}")
    }
}

/// Returns whether a message names a field of this program and quotes nothing of the line.
fn names_own_field(reason: &str) -> bool {
    ["missing field `", "duplicate field `"]
        .iter()
        .any(|start| reason.starts_with(start))
}

fn unknown_field(reason: &str) -> Option<&str> {
    reason.strip_prefix("unknown field `")?.split('`').next()
}

/// Returns whether a name is a short word or two, unlike a secret.
fn is_plain_name(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
    name.len() <= 24 && name.bytes().all(is_plain)
}

/// A field's value, in words.
pub(super) fn expected(field: &str) -> &'static str {
    match field {
        "allowed_addresses" => "write networks as in 10.0.0.0/8, or addresses",
        "credits" => {
            "write an object as in \
             `{\"remaining\": 500, \"refill\": {\"amount\": 1000, \"every\": \"month\"}}`"
        }
        "expires_at" => "write a time as in 2027-01-31T12:00:00Z",
        "limits" => "write limits with a name, a quota and a window",
        "metadata" => "write a JSON object of strings",
        "scopes" => "write scopes as in orders:read or orders:*, without spaces in them",
        _ => "a text is needed",
    }
}
