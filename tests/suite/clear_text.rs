//! Requests that come in clear text.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use http::{HeaderName, Method, Request, Response, Version};
use tower::Layer;
use tower_api_key::testing::TestPrincipal;
use tower_api_key::{
    CredentialSources, DenialReason, EventAction, Issued, KeyFormat, KeyStatus, NewKey, RateLimit,
    SecureTransport,
};

use crate::clients::{app, from, proxies};
use crate::core_support::unknown_key;
use crate::log::Log;
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

/// Waits for what the layer does in the background.
async fn until_disabled(bench: &Bench, issued: &Issued) {
    let until = tokio::time::Instant::now() + crate::support::SECOND * 10;
    while status_of(bench, issued).await == KeyStatus::Active {
        assert!(tokio::time::Instant::now() < until, "it stays active");
        tokio::task::yield_now().await;
    }
}

/// Lets all work end that was begun in the background: nothing of it waits for time to pass.
async fn until_idle() {
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
}

async fn status_of(bench: &Bench, issued: &Issued) -> KeyStatus {
    let key = bench.keys.get(issued.key().record.id).await.unwrap();
    key.record.status(bench.keys.now())
}

#[tokio::test]
async fn a_key_that_was_seen_in_clear_text_is_disabled_on_request() {
    let bench = Bench::new();
    let issued = bench.issue(NewKey::named("x")).await;
    let app = app(&bench.layer().disable_exposed(&bench.keys));
    let secret = issued.secret().expose();
    for wrong in [unknown_key().expose(), "nonsense"] {
        assert_eq!(send(&app, from("192.0.2.1", &[], wrong)).await.status, 403);
    }
    assert_eq!(send(&app, from("192.0.2.1", &[], secret)).await.status, 403);
    // In the background, so that the time of the answer shows nothing.
    until_disabled(&bench, &issued).await;
    assert_eq!(status_of(&bench, &issued).await, KeyStatus::Disabled);
    let events = bench.keys.events(issued.key().record.id, None, 9);
    let events = events.await.unwrap().events;
    let last = events.first().unwrap();
    assert_eq!(last.action, EventAction::Disabled);
    assert_eq!(last.actor.as_deref(), Some("clear_text"));
    assert_eq!(bench.used(&issued).await, (0, 0));
}

#[tokio::test]
async fn each_credential_among_several_is_exposed() {
    let bench = Bench::new();
    let sources = CredentialSources::default()
        .header(HeaderName::from_static("x-old-key"))
        .query_parameter("k");
    let layer = bench.layer().sources(sources).disable_exposed(&bench.keys);
    let app = app(&layer);
    let mut issued = Vec::new();
    for _ in 0..8 {
        issued.push(bench.issue(NewKey::named("x")).await);
    }
    let secret = |index: usize| issued[index].secret().expose();
    let (first, second) = (
        format!("Bearer {}", secret(0)),
        format!("bearer  {}", secret(1)),
    );
    let list = format!("{}, {}", secret(2), secret(3));
    let list_of_schemes = format!("Bearer {},Bearer {}", secret(4), secret(5));
    let lines: [(&str, &[u8]); 6] = [
        ("authorization", first.as_bytes()),
        ("authorization", second.as_bytes()),
        ("authorization", list_of_schemes.as_bytes()),
        ("authorization", b"Basic bm9ib2R5"),
        ("x-api-key", secret(6).as_bytes()),
        ("x-old-key", list.as_bytes()),
    ];
    let answer = send(&app, get(&format!("/?k={}", secret(7)), &lines)).await;
    assert_eq!(
        (answer.status, &*answer.code()),
        (403, "insecure_transport")
    );
    for issued in &issued {
        until_disabled(&bench, issued).await;
    }
}

#[tokio::test]
async fn only_secret_kinds_that_the_layer_accepts_are_disabled() {
    let format = KeyFormat::new("sk").prefix("pk").secret_prefix("rk");
    let bench = Bench::with(|builder| builder.format(format));
    let layer = bench.layer().disable_exposed(&bench.keys);
    let layer = layer.accept_prefixes(["pk"]).environments(["live"]);
    let (narrow, wide) = (app(&layer), app(&layer.accept_prefixes(["rk"])));
    let kind = |prefix, environment| {
        let key = NewKey::named("x").prefix(prefix).environment(environment);
        bench.issue(key)
    };
    let publishable = kind("pk", "live").await;
    let restricted = kind("rk", "live").await;
    let of_test = kind("sk", "test").await;
    let secret = kind("sk", "live").await;
    for issued in [&publishable, &restricted, &of_test, &secret] {
        let answer = send(&narrow, bearing(issued.secret().expose())).await;
        assert_eq!(answer.code(), "insecure_transport");
    }
    until_disabled(&bench, &secret).await;
    until_idle().await;
    for kept in [&publishable, &restricted, &of_test] {
        assert_eq!(status_of(&bench, kept).await, KeyStatus::Active);
        let answer = send(&wide, bearing(kept.secret().expose())).await;
        assert_eq!(answer.code(), "insecure_transport");
    }
    until_disabled(&bench, &restricted).await;
    until_idle().await;
    for kept in [&publishable, &of_test] {
        assert_eq!(status_of(&bench, kept).await, KeyStatus::Active);
    }
    // Not by an inner layer either.
    let outer = bench.layer().accept_prefixes(["pk"]);
    for inner in [&layer, &bench.layer().disable_exposed(&bench.keys)] {
        let nested = app(inner).layer(outer.clone());
        let answer = send(&nested, bearing(publishable.secret().expose())).await;
        assert_eq!(answer.code(), "insecure_transport");
    }
    let nested = app(&layer).layer(outer);
    let answer = send(&nested, bearing(of_test.secret().expose())).await;
    assert_eq!(answer.code(), "insecure_transport");
    until_idle().await;
    for kept in [&publishable, &of_test] {
        assert_eq!(status_of(&bench, kept).await, KeyStatus::Active);
    }
}

#[tokio::test]
async fn guesses_in_clear_text_count_as_failed_attempts() {
    let bench = Bench::with(|builder| builder.failed_attempts(RateLimit::per_minute(4)));
    let layer = bench.layer();
    let (clear, tls) = (app(&layer.disable_exposed(&bench.keys)), app(&layer));
    let known = bench.issue(NewKey::named("known")).await;
    let disabled = bench.issue(NewKey::named("disabled")).await;
    bench.keys.disable(disabled.key().record.id).await.unwrap();
    let unknown = unknown_key();
    let guesses = [unknown.expose(), "nonsense", disabled.secret().expose(), ""];
    let mut answers = Vec::new();
    for guess in guesses {
        answers.push(send(&clear, from("192.0.2.1", &[], guess)).await);
        until_idle().await;
    }
    let lookups = bench.store.lookups();
    assert_eq!(lookups, 2, "the two that could be keys");
    // From here on the address is one with too many failures, and the answer is the same.
    for _ in 0..50 {
        answers.push(send(&clear, from("192.0.2.1", &[], unknown_key().expose())).await);
        until_idle().await;
    }
    assert_eq!(bench.store.lookups(), lookups, "nothing more was looked up");
    assert!(answers.iter().all(|answer| *answer == answers[0]));
    assert_eq!(answers[0].code(), "insecure_transport");
    let over_tls = send(&tls, from("192.0.2.1", &[], unknown_key().expose())).await;
    assert_eq!(over_tls.code(), "too_many_failures");
    let elsewhere = send(&tls, from("192.0.2.2", &[], known.secret().expose())).await;
    assert_eq!(elsewhere.status, 200);
}

#[tokio::test]
async fn good_keys_in_clear_text_are_no_failed_attempts() {
    let bench = Bench::with(|builder| builder.failed_attempts(RateLimit::per_minute(1)));
    let layer = bench.layer().accept_prefixes(["pk"]);
    let (clear, tls) = (app(&layer.disable_exposed(&bench.keys)), app(&layer));
    let publishable = bench.secret(NewKey::named("x").prefix("pk")).await;
    for _ in 0..5 {
        send(&clear, from("192.0.2.1", &[], &publishable)).await;
        until_idle().await;
    }
    let other = bench.secret(NewKey::named("x")).await;
    assert_eq!(send(&tls, from("192.0.2.1", &[], &other)).await.status, 200);
}

#[tokio::test]
async fn a_flood_in_clear_text_does_not_flood_the_logs() {
    let (log, _guard) = Log::capture();
    let bench = Bench::new();
    let app = app(&bench.layer().disable_exposed(&bench.keys));
    let mut secrets = Vec::new();
    for _ in 0..30 {
        secrets.push(bench.issue(NewKey::named("x")).await);
    }
    for issued in &secrets {
        send(&app, bearing(issued.secret().expose())).await;
        until_disabled(&bench, issued).await;
    }
    until_idle().await;
    let disabled = "a key was sent in clear text and is disabled";
    assert_eq!(log.all().matches(disabled).count(), 20);
    bench.clock.advance(Duration::from_secs(1));
    let last = bench.issue(NewKey::named("x")).await;
    send(&app, bearing(last.secret().expose())).await;
    until_disabled(&bench, &last).await;
    until_idle().await;
    let line = log.all();
    let line = line.lines().rfind(|line| line.contains(disabled)).unwrap();
    assert!(line.contains("untold=10"), "{line}");

    // Nor does one of unknown keys while the store is down.
    bench.clock.advance(Duration::from_secs(1));
    bench.store.fail(true);
    for _ in 0..50 {
        send(&app, bearing(unknown_key().expose())).await;
        until_idle().await;
    }
    let failed = "a key that was sent in clear text could not be disabled";
    let count = log.all().matches(failed).count();
    assert!((1..=20).contains(&count), "{count}");
    for secret in &secrets {
        assert!(!log.all().contains(secret.secret().expose()));
    }
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
