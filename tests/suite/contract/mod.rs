//! The HTTP contract, row by row: what a request is answered, to the byte.

mod failures;
mod limits;
mod methods;
mod outages;
mod refusals;
mod requests;

use axum::Router;
use axum::body::Body;
use http::Request;
use tower_api_key::{ApiKeyLayer, ClientAddress, KeyPrincipal};

use crate::support::Answer;

/// A router whose one handler says whose key it was.
fn app(layer: &ApiKeyLayer) -> Router {
    Router::new().fallback(whose).layer(layer.clone())
}

async fn whose(principal: Option<KeyPrincipal>) -> String {
    principal.map_or("nobody".into(), |principal| principal.name().into())
}

/// The contract's second table: the whole answer for each `code`.
fn refusal(code: &str) -> Answer {
    let about = "about:blank";
    let (status, title, r#type, detail, also): (_, _, _, _, &[(&str, &str)]) = match code {
        "invalid_request" => (
            400,
            "Bad Request",
            about,
            "the request carries more than one API key",
            &[(
                "www-authenticate",
                r#"Bearer realm="api", error="invalid_request""#,
            )],
        ),
        "missing_key" => (
            401,
            "Unauthorized",
            about,
            "an API key is required",
            &[("www-authenticate", r#"Bearer realm="api""#)],
        ),
        "invalid_key" => (
            401,
            "Unauthorized",
            about,
            "the API key is not valid",
            &[(
                "www-authenticate",
                r#"Bearer realm="api", error="invalid_token""#,
            )],
        ),
        "insufficient_scope" => (
            403,
            "Forbidden",
            about,
            "the API key lacks a scope that is required here",
            &[(
                "www-authenticate",
                r#"Bearer realm="api", error="insufficient_scope", scope="a b:c""#,
            )],
        ),
        "address_not_allowed" => (
            403,
            "Forbidden",
            about,
            "the API key may not be used from this address",
            &[],
        ),
        "too_many_failures" => (
            429,
            "Too Many Requests",
            about,
            "too many requests with invalid API keys came from this address",
            &[("retry-after", "16")],
        ),
        "unavailable" => (
            503,
            "Service Unavailable",
            about,
            "the API key cannot be verified at present",
            &[("retry-after", "1")],
        ),
        _ => panic!("no such code: {code}"),
    };
    let body = format!(
        r#"{{"type":"{type}","title":"{title}","status":{status},"code":"{code}","detail":"{detail}"}}"#
    );
    answer(status, body, also)
}

/// A problem as the middleware sends it, with these headers beside those that all have.
fn answer(status: u16, body: String, also: &[(&str, &str)]) -> Answer {
    let all = [
        ("content-type", "application/problem+json"),
        ("cache-control", "no-store"),
    ];
    let mut headers: Vec<_> = all
        .iter()
        .chain(also)
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    headers.sort();
    Answer {
        status,
        headers,
        body,
    }
}

/// The request, from this address.
fn from(address: &str, mut request: Request<Body>) -> Request<Body> {
    let address = ClientAddress(address.parse().unwrap());
    request.extensions_mut().insert(address);
    request
}
