//! What caches between the client and the service are told (RFC 9111).

use axum::Router;
use axum::routing::get as on_get;
use http::Method;
use tower_api_key::{CredentialSources, NewKey};

use crate::support::{Bench, get, send};

#[tokio::test]
async fn caches_learn_that_the_answer_is_for_this_key_only() {
    let bench = Bench::new();
    let key = bench.secret(NewKey::named("x")).await;
    let routes = Router::new().route("/", on_get(async || "fine")).route(
        "/own",
        on_get(async || [("vary", "accept"), ("cache-control", "public, max-age=60")]),
    );
    let sources = CredentialSources::default()
        .header("x-acme-key".parse().unwrap())
        .query_parameter("k");
    let app = routes.layer(bench.layer().sources(sources));
    let bearer = format!("Bearer {key}");
    let in_query = format!("/?k={key}");
    for (uri, line, vary, cache) in [
        ("/", Some(("authorization", &bearer)), None, None),
        (
            "/",
            Some(("x-api-key", &key)),
            Some("X-API-Key"),
            Some("private"),
        ),
        (
            "/",
            Some(("x-acme-key", &key)),
            Some("x-acme-key"),
            Some("private"),
        ),
        (&in_query, None, None, Some("private")),
        (
            "/own",
            Some(("authorization", &bearer)),
            Some("accept"),
            Some("public, max-age=60"),
        ),
        (
            "/own",
            Some(("x-api-key", &key)),
            Some("accept, X-API-Key"),
            Some("public, max-age=60"),
        ),
    ] {
        let lines: Vec<_> = line
            .iter()
            .map(|(name, value)| (*name, value.as_bytes()))
            .collect();
        let answer = send(&app, get(uri, &lines)).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("vary").as_deref(), vary, "{uri} {line:?}");
        assert_eq!(
            answer.header("cache-control").as_deref(),
            cache,
            "{uri} {line:?}"
        );
    }
}

#[tokio::test]
async fn caches_tell_an_answer_without_a_key_from_those_with_one() {
    let bench = Bench::new();
    let key = bench.secret(NewKey::named("x")).await;
    let auth = bench.layer().optional().allow_preflight();
    let public = ("cache-control", "public, max-age=60");
    let app = Router::new()
        .route("/", on_get(async move || [public]).options(async || ()))
        .route("/own", on_get(async || [("vary", "accept")]))
        .route("/nested", on_get(async || ()).layer(auth.clone()))
        .layer(auth.clone());
    for (uri, vary) in [
        ("/", "Authorization, X-API-Key"),
        ("/own", "accept, Authorization, X-API-Key"),
        ("/nested", "Authorization, X-API-Key"),
    ] {
        let answer = send(&app, get(uri, &[])).await;
        assert_eq!(answer.header("vary").as_deref(), Some(vary), "{uri}");
    }
    let anonymous = send(&app, get("/", &[])).await;
    assert_eq!(anonymous.header("cache-control").unwrap(), public.1);

    // With a key it is as on any other route.
    let bearer = format!("Bearer {key}");
    let with_bearer = send(&app, get("/", &[("authorization", bearer.as_bytes())])).await;
    assert_eq!(with_bearer.header("vary"), None);
    let with_header = send(&app, get("/", &[("x-api-key", key.as_bytes())])).await;
    assert_eq!(with_header.header("vary").unwrap(), "X-API-Key");

    let from_a_page: &[(&str, &[u8])] = &[
        ("origin", b"https://example.com"),
        ("access-control-request-method", b"GET"),
    ];
    let mut preflight = get("/", from_a_page);
    *preflight.method_mut() = Method::OPTIONS;
    assert_eq!(send(&app, preflight).await.header("vary"), None);

    // The headers are those of the layer's sources.
    for (sources, vary) in [
        (
            CredentialSources::none().header("x-acme-key".parse().unwrap()),
            Some("x-acme-key"),
        ),
        (
            CredentialSources::none().scheme("ApiKey"),
            Some("Authorization"),
        ),
        (CredentialSources::none().query_parameter("k"), None),
    ] {
        let app = Router::new().route("/", on_get(async || ()));
        let app = app.layer(auth.sources(sources));
        let answer = send(&app, get("/", &[])).await;
        assert_eq!(answer.header("vary").as_deref(), vary);
    }
}
