//! Preflights, and methods that are no exception.

use axum::Router;
use axum::routing::get as on_get;
use http::Method;
use tower_api_key::NewKey;

use super::{app, refusal, whose};
use crate::support::{Bench, bearing, get, limit, send};

#[tokio::test]
async fn only_a_true_preflight_passes_and_only_where_it_may() {
    const ORIGIN: (&str, &[u8]) = ("origin", b"https://example.com");
    const METHOD: (&str, &[u8]) = ("access-control-request-method", b"PUT");
    let bench = Bench::new();
    let (strict, open) = (app(&bench.layer()), app(&bench.layer().allow_preflight()));
    for (method, lines, true_one) in [
        (Method::OPTIONS, vec![ORIGIN, METHOD], true),
        (Method::OPTIONS, vec![ORIGIN], false),
        (Method::OPTIONS, vec![METHOD], false),
        (Method::OPTIONS, vec![], false),
        (Method::GET, vec![ORIGIN, METHOD], false),
        (Method::POST, vec![ORIGIN, METHOD], false),
    ] {
        let request = || {
            let mut request = get("/", &lines);
            *request.method_mut() = method.clone();
            request
        };
        assert_eq!(send(&strict, request()).await, refusal("missing_key"));
        let answer = send(&open, request()).await;
        if true_one {
            assert_eq!((answer.status, &*answer.body), (200, "nobody"));
        } else {
            assert_eq!(answer, refusal("missing_key"), "{method} {lines:?}");
        }
    }
}

#[tokio::test]
async fn head_and_options_are_requests_like_any_other() {
    let bench = Bench::new();
    let key = bench
        .secret(NewKey::named("x").limit(limit("burst", 9, 16)))
        .await;
    let routes = on_get(whose).options(whose);
    let app = Router::new().route("/", routes).layer(bench.layer());
    for method in [Method::HEAD, Method::OPTIONS] {
        let mut request = bearing(&key);
        *request.method_mut() = method.clone();
        let answer = send(&app, request).await;
        assert_eq!(answer.status, 200, "{method}");
        assert!(answer.header("ratelimit").is_some());
        let mut request = get("/", &[]);
        *request.method_mut() = method;
        let answer = send(&app, request).await;
        assert_eq!(answer.status, 401);
        assert_eq!(answer.headers, refusal("missing_key").headers);
    }
}
