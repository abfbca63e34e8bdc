//! Where the key may be, and that it is nowhere when the handler is called.

use std::fmt::Write;

use axum::Router;
use axum::body::Body;
use axum::extract::{OriginalUri, Request};
use axum::response::{IntoResponse, Response};
use http::header::AUTHORIZATION;
use http::{HeaderName, HeaderValue, Uri};
use tower_api_key::{ApiKeyLayer, CredentialSources, KeyPrincipal, NewKey};

use crate::support::{Answer, Bench, get, panic_message, send};

/// Answers with everything of the request that a key can be in.
async fn everything(OriginalUri(original): OriginalUri, request: Request) -> Response {
    let mut seen = format!("{} {original}\n", request.uri());
    for (name, value) in request.headers() {
        let value = value.as_bytes().escape_ascii();
        writeln!(seen, "{name}: {value}").unwrap();
    }
    let with_key = request.extensions().get::<KeyPrincipal>().is_some();
    ([("x-with-key", with_key.to_string())], seen).into_response()
}

fn app(layer: &ApiKeyLayer) -> Router {
    Router::new().fallback(everything).layer(layer.clone())
}

/// Whether the request passed with a key, and what the handler saw.
#[track_caller]
fn passed(answer: Answer) -> String {
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.header("x-with-key").unwrap(), "true");
    answer.body
}

fn by_query(name: &str) -> CredentialSources {
    CredentialSources::default().query_parameter(name)
}

#[tokio::test]
async fn the_handler_sees_no_key_from_any_source() {
    let bench = Bench::new();
    let key = bench.secret(NewKey::named("x")).await;
    let app = app(&bench.layer().sources(by_query("api_key")));
    let bearer = format!("Bearer {key}");
    // The first of each waits for the store, the second finds the key in the cache.
    for _ in 0..2 {
        bench.keys.verifier().invalidate_all();
        for _ in 0..2 {
            let in_authorization = get("/", &[("authorization", bearer.as_bytes())]);
            assert_eq!(passed(send(&app, in_authorization).await), "/ /\n");
            let in_header = get("/", &[("x-api-key", key.as_bytes())]);
            assert_eq!(passed(send(&app, in_header).await), "/ /\n");
            let in_query = get(&format!("/p?a=1&api_key={key}&b=%20&&a"), &[]);
            let seen = passed(send(&app, in_query).await);
            assert_eq!(seen, "/p?a=1&b=%20&&a /p?a=1&b=%20&&a\n");
        }
    }
}

#[tokio::test]
async fn what_is_no_key_stays_in_the_request() {
    let bench = Bench::new();
    let key = bench.secret(NewKey::named("x")).await;
    let app = app(&bench.layer().sources(by_query("api_key")));
    let lines: &[(&str, &[u8])] = &[
        ("authorization", b"Basic dXNlcjpwYXNz"),
        ("x-api-key", key.as_bytes()),
        ("x-other", b"1"),
    ];
    let seen = passed(send(&app, get("/?api_keys=1&x=api_key", lines)).await);
    let uri = "/?api_keys=1&x=api_key";
    let kept = "authorization: Basic dXNlcjpwYXNz\nx-other: 1\n";
    assert_eq!(seen, format!("{uri} {uri}\n{kept}"));
}

#[tokio::test]
async fn a_key_can_be_kept_but_is_not_printed() {
    let bench = Bench::new();
    let key = bench.secret(NewKey::named("x")).await;
    let layer = bench.layer().keep_credential().sources(by_query("k"));
    let sensitive = async |request: Request| {
        let mut values = request.headers().values();
        values.all(HeaderValue::is_sensitive).to_string()
    };
    let bearer = format!("Bearer {key}");
    let headers = [
        ("authorization", bearer.as_bytes()),
        ("x-api-key", key.as_bytes()),
    ];
    for (name, value) in headers {
        let seen = passed(send(&app(&layer), get("/", &[(name, value)])).await);
        let shown = value.escape_ascii();
        assert_eq!(seen, format!("/ /\n{name}: {shown}\n"));
        let app = Router::new().fallback(sensitive).layer(layer.clone());
        assert_eq!(send(&app, get("/", &[(name, value)])).await.body, "true");
    }
    let uri = format!("/?k={key}");
    let seen = passed(send(&app(&layer), get(&uri, &[])).await);
    assert_eq!(seen, format!("{uri} {uri}\n"));
}

#[tokio::test]
async fn other_headers_and_schemes_take_the_place_of_the_usual_ones() {
    let bench = Bench::new();
    let key = bench.secret(NewKey::named("x")).await;
    let sources = CredentialSources::none()
        .scheme("ApiKey")
        .scheme("Token")
        .header(HeaderName::from_static("x-acme-key"))
        .header(HeaderName::from_static("x-old-key"));
    let app = app(&bench.layer().sources(sources));
    for (name, before, status) in [
        ("authorization", "ApiKey ", 200),
        ("authorization", "apikey   ", 200),
        ("authorization", "TOKEN ", 200),
        ("authorization", "Bearer ", 401),
        ("x-acme-key", "", 200),
        ("X-Old-Key", "", 200),
        ("x-api-key", "", 401),
    ] {
        let value = format!("{before}{key}");
        let answer = send(&app, get("/", &[(name, value.as_bytes())])).await;
        assert_eq!(answer.status, status, "{name}: {before}");
        if status == 401 {
            assert_eq!(answer.code(), "missing_key");
        } else {
            assert_eq!(passed(answer), "/ /\n");
        }
    }
    let both = [
        ("x-acme-key", key.as_bytes()),
        ("x-old-key", key.as_bytes()),
    ];
    assert_eq!(send(&app, get("/", &both)).await.status, 400);
}

#[tokio::test]
async fn a_header_that_is_named_twice_is_one_source() {
    let bench = Bench::new();
    let key = bench.secret(NewKey::named("x")).await;
    let sources = CredentialSources::default()
        .header(HeaderName::from_static("x-api-key"))
        .scheme("bearer");
    let app = app(&bench.layer().sources(sources));
    passed(send(&app, get("/", &[("x-api-key", key.as_bytes())])).await);
    let bearer = format!("Bearer {key}");
    passed(send(&app, get("/", &[("authorization", bearer.as_bytes())])).await);
}

#[tokio::test]
async fn without_a_scheme_authorization_is_not_looked_at() {
    let bench = Bench::new();
    let key = bench.secret(NewKey::named("x")).await;
    let sources = CredentialSources::none().header(HeaderName::from_static("x-api-key"));
    let app = app(&bench.layer().sources(sources));
    let lines: &[(&str, &[u8])] = &[
        ("authorization", b"Bearer a"),
        ("authorization", b"Bearer b"),
        ("x-api-key", key.as_bytes()),
    ];
    let seen = passed(send(&app, get("/", lines)).await);
    assert_eq!(
        seen,
        "/ /\nauthorization: Bearer a\nauthorization: Bearer b\n"
    );
}

#[tokio::test]
async fn the_query_is_a_source_like_the_others_once_it_is_one() {
    let bench = Bench::new();
    let key = bench.secret(NewKey::named("x")).await;
    let app = app(&bench
        .layer()
        .sources(by_query("api_key").query_parameter("key")));
    for (query, status, code) in [
        (format!("api_key={key}"), 200, ""),
        (format!("key={key}"), 200, ""),
        // The same name, otherwise written (RFC 3986 §6.2.2.2).
        (format!("api%5Fkey={key}"), 200, ""),
        (format!("%61pi%5fkey={key}"), 200, ""),
        (format!("API_KEY={key}"), 401, "missing_key"),
        ("x=api_key".into(), 401, "missing_key"),
        ("api_key=".into(), 401, "invalid_key"),
        ("api_key".into(), 401, "invalid_key"),
        (format!("api_key=%73{}", &key[1..]), 401, "invalid_key"),
        (format!("api_key={key}+"), 401, "invalid_key"),
        (
            format!("api_key={key}&api_key={key}"),
            400,
            "invalid_request",
        ),
        (
            format!("api_key={key}&api%5fkey={key}"),
            400,
            "invalid_request",
        ),
        (format!("api_key={key}&key={key}"), 400, "invalid_request"),
        (format!("api_key={key}&api_key"), 400, "invalid_request"),
    ] {
        let answer = send(&app, get(&format!("/?{query}"), &[])).await;
        assert_eq!((answer.status, &*answer.code()), (status, code), "{query}");
        if status == 200 {
            assert_eq!(passed(answer), "/ /\n", "{query}");
        }
    }
    let uri = format!("/?api_key={key}");
    let answer = send(&app, get(&uri, &[("x-api-key", key.as_bytes())])).await;
    assert_eq!(answer.status, 400);
}

#[tokio::test]
async fn the_query_is_no_source_by_default() {
    let bench = Bench::new();
    let key = bench.secret(NewKey::named("x")).await;
    let answer = send(&app(&bench.layer()), get(&format!("/?api_key={key}"), &[])).await;
    assert_eq!(answer.code(), "missing_key");
}

#[tokio::test]
async fn every_form_of_a_request_target_is_taken() {
    let bench = Bench::new();
    let key = bench.secret(NewKey::named("x")).await;
    let layer = bench
        .layer()
        .sources(by_query("k").query_parameter("ключ"))
        .optional();
    let uri_alone = tower::service_fn(async |request: Request| {
        let with_key = request.extensions().get::<KeyPrincipal>().is_some();
        Ok::<_, std::convert::Infallible>(format!("{} {with_key}", request.uri()).into_response())
    });
    let service = tower::Layer::layer(&layer, uri_alone);
    for (target, seen) in [
        // RFC 9112 §3.2: origin, absolute, authority and asterisk form.
        (format!("/?k={key}"), "/ true"),
        (format!("/a/b?k={key}&x"), "/a/b?x true"),
        (
            format!("http://example.com?k={key}"),
            "http://example.com/ true",
        ),
        (
            format!("http://example.com:80/a?b&k={key}"),
            "http://example.com:80/a?b true",
        ),
        (
            format!("/%3Fk?%D0%BA%D0%BB%D1%8E%D1%87={key}"),
            "/%3Fk true",
        ),
        ("example.com:443".into(), "example.com:443 false"),
        ("*".into(), "* false"),
        ("/?".into(), "/? false"),
        ("/?&=&k%".into(), "/?&=&k% false"),
        ("/?k%6".into(), "/?k%6 false"),
    ] {
        let target: Uri = target.parse().unwrap();
        let request = Request::builder().uri(target).body(Body::empty()).unwrap();
        assert_eq!(send(&service, request).await.body, seen);
    }
}

#[tokio::test]
async fn a_preflight_that_passes_brings_no_key_to_the_handler() {
    let bench = Bench::new();
    let key = bench.secret(NewKey::named("x")).await;
    let layer = bench.layer().allow_preflight().sources(by_query("k"));
    let bearer = format!("Bearer {key}");
    let lines: &[(&str, &[u8])] = &[
        ("origin", b"https://example.com"),
        ("access-control-request-method", b"PUT"),
        ("authorization", bearer.as_bytes()),
        ("x-api-key", key.as_bytes()),
    ];
    let mut preflight = get(&format!("/?k={key}"), lines);
    *preflight.method_mut() = http::Method::OPTIONS;
    let answer = send(&app(&layer), preflight).await;
    assert_eq!(answer.header("x-with-key").unwrap(), "false");
    assert!(!answer.body.contains(&key), "{}", answer.body);
}

#[tokio::test]
async fn a_further_layer_takes_the_key_out_that_the_outer_one_kept() {
    let bench = Bench::new();
    let key = bench.secret(NewKey::named("x")).await;
    let auth = bench.layer();
    let app = Router::new()
        .fallback(everything)
        .layer(auth.clone())
        .layer(auth.keep_credential());
    let seen = passed(send(&app, get("/", &[("x-api-key", key.as_bytes())])).await);
    assert_eq!(seen, "/ /\n");
}

#[test]
fn a_source_that_cannot_be_is_refused_by_its_name() {
    for scheme in ["", "Api Key", "Bearer:", "Bearer "] {
        let message = panic_message(|| drop(CredentialSources::none().scheme(scheme)));
        assert!(message.contains(&format!("{scheme:?}")), "{message}");
    }
    let message = panic_message(|| drop(CredentialSources::none().header(AUTHORIZATION)));
    assert!(message.contains("Authorization"), "{message}");
}
