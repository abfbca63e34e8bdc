//! Requests that come in clear text.

mod exposed;

use std::convert::Infallible;

use axum::body::Body;
use http::{Method, Request, Response, Version};
use tower::Layer;
use tower_api_key::testing::TestPrincipal;
use tower_api_key::{DenialReason, NewKey, SecureTransport};

use self::exposed::until_disabled;
use crate::clients::{app, from, proxies};
use crate::support::{Bench, bearing, get, limit, send};

const TLS: &str = "x-forwarded-proto";

async fn never(_: Request<Body>) -> Result<Response<Body>, Infallible> {
    panic!("no request in clear text reaches the handler")
}

#[tokio::test]
async fn every_request_in_clear_text_gets_the_same_answer_to_the_byte() {
    let bench = Bench::new();
    let key = bench.secret(NewKey::named("x")).await;
    let layer = bench.layer().trust_proxies(proxies()).require_tls();
    let app_with = app(&layer);
    let good = send(&app_with, from("192.0.2.1", &[], &key)).await;
    assert_eq!((good.status, &*good.code()), (403, "insecure_transport"));
    assert_eq!(good.header("location"), None);
    assert_eq!(good.header("cache-control").unwrap(), "no-store");
    let bearer = format!("Bearer {key}");
    let (bearer, key_bytes) = (bearer.as_bytes(), key.as_bytes());
    let preflight: &[(&str, &[u8])] = &[
        ("origin", b"https://example.com"),
        ("access-control-request-method", b"PUT"),
    ];
    let cases: [&[(&str, &[u8])]; 8] = [
        &[],
        &[("authorization", b"Bearer nonsense")],
        &[("authorization", b"Bearer ")],
        &[("authorization", b"Basic bm9ib2R5")],
        &[("authorization", bearer), ("authorization", bearer)],
        &[("authorization", bearer), ("x-api-key", key_bytes)],
        &[("x-api-key", key_bytes), ("x-api-key", b"nonsense")],
        preflight,
    ];
    for lines in cases {
        for layer in [&layer, &layer.optional(), &layer.allow_preflight()] {
            let mut request = get("/", lines);
            if lines.first().is_some_and(|(name, _)| *name == "origin") {
                *request.method_mut() = Method::OPTIONS;
            }
            // Without axum's router, which adds `Allow` to what is not a GET.
            let service = layer.layer(tower::service_fn(never));
            assert_eq!(send(&service, request).await, good, "{lines:?}");
        }
    }
    assert_eq!(bench.store.lookups(), 0);
    for (peer, lines, status) in [
        ("10.0.0.1", vec![(TLS, "https")], 200),
        ("10.0.0.1", vec![(TLS, "HTTPS")], 200),
        ("10.0.0.1", vec![(TLS, "http, https")], 200),
        ("10.0.0.1", vec![(TLS, "http")], 403),
        ("10.0.0.1", vec![(TLS, "https, http")], 403),
        ("10.0.0.1", vec![(TLS, "https"), (TLS, "http")], 403),
        ("10.0.0.1", vec![(TLS, "https,")], 403),
        ("10.0.0.1", vec![(TLS, "\"https\"")], 403),
        ("10.0.0.1", vec![], 403),
        ("192.0.2.1", vec![(TLS, "https")], 403),
    ] {
        let answer = send(&app_with, from(peer, &lines, &key)).await;
        assert_eq!(answer.status, status, "{peer} {lines:?}");
    }
}

#[tokio::test]
async fn tls_is_known_by_the_extension_or_by_forwarded_and_never_by_the_request() {
    let bench = Bench::new();
    let key = bench.secret(NewKey::named("x")).await;
    let layer = bench.layer().require_tls();
    let direct = app(&layer);
    for (secure, uri, version, status) in [
        (Some(true), "/", Version::HTTP_11, 200),
        (Some(true), "http://keys.example/", Version::HTTP_2, 200),
        (Some(false), "/", Version::HTTP_11, 403),
        (Some(false), "https://keys.example/", Version::HTTP_11, 403),
        // An absolute form, and a `:scheme`, can be sent over any connection.
        (None, "https://keys.example/", Version::HTTP_11, 403),
        (None, "https://keys.example/", Version::HTTP_2, 403),
        (None, "http://keys.example/", Version::HTTP_11, 403),
        (None, "/", Version::HTTP_11, 403),
    ] {
        let mut request = bearing(&key);
        *request.uri_mut() = uri.parse().unwrap();
        *request.version_mut() = version;
        if let Some(secure) = secure {
            request.extensions_mut().insert(SecureTransport(secure));
        }
        let answer = send(&direct, request).await;
        assert_eq!(answer.status, status, "{secure:?} {uri} {version:?}");
    }
    let behind = app(&layer.trust_proxies(proxies().forwarded()));
    // The proxy's own connection to this server may be encrypted while its client's is not.
    for (value, over_clear, over_tls) in [
        ("for=192.0.2.1;proto=https", 200, 200),
        (r#"for=192.0.2.1;proto="https""#, 200, 200),
        ("for=_hidden;proto=https", 200, 200),
        ("for=192.0.2.1;proto=http", 403, 403),
        ("for=192.0.2.1;proto=httpsx", 403, 403),
        // What counts is how the client came, and not how the proxies talk to each other.
        (
            "for=192.0.2.1;proto=https, for=10.0.0.2;proto=http",
            200,
            200,
        ),
        (
            "for=10.0.0.9;proto=https, for=192.0.2.1;proto=http",
            403,
            403,
        ),
        // What a client wrote into a quoted string, or broke by it.
        (r#"for=192.0.2.1;host="a;proto=https";proto=http"#, 403, 403),
        (r#"host="a;proto=https";for=192.0.2.1;proto=http"#, 403, 403),
        (r#"for=192.0.2.1;host="a\";proto=http"#, 403, 403),
        (r#"for=192.0.2.1;host=a"b";proto=http"#, 403, 403),
        ("for=192.0.2.1;proto=https;proto=http", 403, 403),
        // Without any word of the proxy the server knows its own connection only.
        ("for=192.0.2.1", 403, 200),
    ] {
        let request = || from("10.0.0.1", &[("forwarded", value)], &key);
        assert_eq!(send(&behind, request()).await.status, over_clear, "{value}");
        let mut request = request();
        request.extensions_mut().insert(SecureTransport(true));
        assert_eq!(send(&behind, request).await.status, over_tls, "{value}");
    }
}

#[tokio::test]
async fn a_handler_test_needs_no_tls() {
    let bench = Bench::new();
    let principal = TestPrincipal::new(NewKey::named("x")).of(&bench.keys);
    let mut request = get("/", &[]);
    request.extensions_mut().insert(principal.build());
    let answer = send(&app(&bench.layer().require_tls()), request).await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn a_nested_layer_looks_at_the_transport_too() {
    let bench = Bench::new();
    let issued = bench
        .issue(NewKey::named("x").limit(limit("hour", 9, 3_600)))
        .await;
    let outer = bench.layer();
    let inner = outer.disable_exposed(&bench.keys);
    let app = app(&inner).layer(outer);
    let answer = send(&app, bearing(issued.secret().expose())).await;
    assert_eq!(
        (answer.status, &*answer.code()),
        (403, "insecure_transport")
    );
    assert_eq!(answer.header("ratelimit"), None);
    until_disabled(&bench, &issued).await;
    let mut request = bearing(issued.secret().expose());
    request.extensions_mut().insert(SecureTransport(true));
    bench.keys.enable(issued.key().record.id).await.unwrap();
    let answer = send(&app, request).await;
    assert_eq!(answer.status, 200);
    assert!(
        answer
            .header("ratelimit")
            .unwrap()
            .starts_with("\"hour\";r=8")
    );
}

#[tokio::test]
async fn a_hook_sees_no_key_of_a_request_in_clear_text() {
    let bench = Bench::new();
    let layer = bench
        .layer()
        .require_tls()
        .on_denial(|denial, request, answer| {
            assert_eq!(denial.reason(), DenialReason::Transport);
            assert_eq!(denial.key_id(), None);
            assert!(!request.headers.contains_key("authorization"));
            assert!(!request.headers.contains_key("x-api-key"));
            answer
        });
    let key = bench.secret(NewKey::named("x")).await;
    let bearer = format!("Bearer {key}");
    let several: [(&str, &[u8]); 2] = [
        ("authorization", bearer.as_bytes()),
        ("x-api-key", key.as_bytes()),
    ];
    for request in [bearing(&key), get("/", &several), get("/", &[])] {
        let answer = send(&app(&layer), request).await;
        assert_eq!(answer.code(), "insecure_transport");
    }
}
