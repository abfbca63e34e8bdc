//! Every answer that a test of the admin router gets must be one that the document knows.

use std::sync::LazyLock;

use axum::http::{HeaderMap, Method, StatusCode};
use serde_json::Value;
use tower_api_key::{ApiKeys, KeyFormat, MemoryStore, admin};

use super::{json, resolved};

/// Checks status, type, headers and every member of the body.
#[track_caller]
pub(crate) fn assert_documented(
    method: &Method,
    path: &str,
    status: StatusCode,
    headers: &HeaderMap,
    body: &Value,
) {
    static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
        let format = KeyFormat::new("sk").prefix("pk");
        json(&admin::openapi(
            &ApiKeys::builder(MemoryStore::new()).format(format).build(),
        ))
    });
    let document = &*DOCUMENT;
    let Some(operation) = operation(document, method, path) else {
        assert!(!status.is_success(), "{method} {path}: {status}");
        return;
    };
    if status == StatusCode::INTERNAL_SERVER_ERROR {
        return; // Only behind an optional layer, whose document another test is for.
    }
    let what = format!("{method} {path}: {status}");
    let answer = &operation["responses"][status.as_str()];
    assert!(answer.is_object(), "{what} is not in the document");
    let answer = resolved(document, answer);
    let kind = headers["content-type"].to_str().unwrap();
    let content = &answer["content"][kind];
    assert!(content.is_object(), "{what}: {kind} is not in the document");
    for name in [
        "allow",
        "location",
        "retry-after",
        "www-authenticate",
        "cache-control",
    ] {
        let documented = answer["headers"].as_object().unwrap();
        let documented = documented
            .keys()
            .any(|known| known.eq_ignore_ascii_case(name));
        assert!(documented || !headers.contains_key(name), "{what}: {name}");
    }
    assert_fits(document, &content["schema"], body, &what);
}

fn operation<'a>(document: &'a Value, method: &Method, path: &str) -> Option<&'a Value> {
    let path = path.strip_prefix("/admin")?;
    let fits = |template: &str| {
        let (template, path) = (template.split('/'), path.split('/'));
        template.clone().count() == path.clone().count()
            && template
                .zip(path)
                .all(|(one, other)| one == other || one == "{key_id}")
    };
    let mut paths = document["paths"].as_object()?.iter();
    let (_, item) = paths.find(|(template, _)| fits(template))?;
    item.get(method.as_str().to_lowercase())
}

/// Checks types, choices and members. What a schema does not name must not be there.
#[track_caller]
fn assert_fits(document: &Value, schema: &Value, value: &Value, what: &str) {
    let schema = &flat(document, schema);
    let types = match &schema["type"] {
        Value::Array(types) => types.clone(),
        one => vec![one.clone()],
    };
    let of = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    assert!(
        types.contains(&of.into()),
        "{what}: {value} is not {types:?}"
    );
    if let Some(choices) = schema["enum"].as_array() {
        assert!(choices.contains(value), "{what}: {value}");
    }
    for item in value.as_array().into_iter().flatten() {
        assert_fits(document, &schema["items"], item, what);
    }
    for (name, member) in value.as_object().into_iter().flatten() {
        let known = schema["properties"].get(name);
        let known = known.or(schema.get("additionalProperties"));
        let known = known.unwrap_or_else(|| panic!("{what}: {name} is not in the document"));
        assert_fits(document, known, member, what);
    }
    let required = schema["required"].as_array().filter(|_| value.is_object());
    for name in required.into_iter().flatten() {
        assert!(
            value.get(name.as_str().unwrap()).is_some(),
            "{what}: {name} is missing"
        );
    }
}

/// A schema without references and `allOf`: later parts narrow what earlier ones say of a member.
fn flat(document: &Value, schema: &Value) -> Value {
    let schema = resolved(document, schema);
    let Some(parts) = schema["allOf"].as_array() else {
        return schema.clone();
    };
    let mut whole = serde_json::json!({});
    for part in parts {
        let part = flat(document, part);
        for (keyword, said) in part.as_object().unwrap() {
            match (whole.get_mut(keyword), said) {
                (Some(Value::Object(known)), Value::Object(said)) => {
                    known.extend(said.clone());
                }
                _ => whole[keyword] = said.clone(),
            }
        }
    }
    whole
}
