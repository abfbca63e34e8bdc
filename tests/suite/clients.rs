//! Who a client is and how it is connected, behind proxies and without.

use axum::Router;
use axum::body::Body;
use axum::routing::get as on_get;
use http::Request;
use tower_api_key::limit::{OutagePolicy, RedisLimiter};
use tower_api_key::{
    ApiKeyLayer, ApiKeys, ClientAddress, EventAction, Issued, KeyStatus, MemoryStore, NewKey,
    RateLimit, SecureTransport, TrustedProxies,
};

use crate::core_support::unknown_key;
use crate::redis_server::shared_url;
use crate::support::{Bench, bearing, limit, send};

fn app(layer: &ApiKeyLayer) -> Router {
    Router::new().route("/", on_get(|| async {}).layer(layer.clone()))
}

fn proxies() -> TrustedProxies {
    TrustedProxies::new(["10.0.0.0/8", "fd00::/8"].map(|network| network.parse().unwrap()))
}

/// A request from `peer` with these header lines.
fn from(peer: &str, lines: &[(&str, &str)], key: &str) -> Request<Body> {
    let mut request = bearing(key);
    for (name, value) in lines {
        let name: http::HeaderName = name.parse().unwrap();
        request.headers_mut().append(name, value.parse().unwrap());
    }
    let peer = ClientAddress(peer.parse().unwrap());
    request.extensions_mut().insert(peer);
    request
}

/// A key that may be used from one network only.
async fn bound(bench: &Bench, network: &str) -> String {
    let key = NewKey::named("x").allowed_addresses([network.parse().unwrap()]);
    bench.secret(key).await
}

#[tokio::test]
async fn the_client_is_the_first_from_the_right_that_is_no_trusted_proxy() {
    let bench = Bench::new();
    let key = bound(&bench, "192.0.2.0/24").await;
    let app = app(&bench.layer().trust_proxies(proxies()));
    let x = "x-forwarded-for";
    for (peer, lines, status) in [
        // Nobody is believed who is no proxy.
        ("203.0.113.1", vec![(x, "192.0.2.1")], 403),
        ("192.0.2.1", vec![(x, "203.0.113.1")], 200),
        // What the client has written itself stands further to the left.
        ("10.0.0.1", vec![(x, "192.0.2.1, 203.0.113.1")], 403),
        ("10.0.0.1", vec![(x, "203.0.113.1, 192.0.2.1")], 200),
        (
            "10.0.0.1",
            vec![(x, "203.0.113.1,192.0.2.1 , 10.1.1.1,fd00::1")],
            200,
        ),
        ("10.0.0.1", vec![(x, "203.0.113.1"), (x, "192.0.2.1")], 200),
        ("10.0.0.1", vec![(x, "192.0.2.1"), (x, "203.0.113.1")], 403),
        // As some proxies write them, and in an IPv6 socket.
        ("10.0.0.1", vec![(x, "192.0.2.1:4711")], 200),
        ("fd00::7", vec![(x, "[::ffff:192.0.2.1]:4711")], 200),
        ("::ffff:10.0.0.1", vec![(x, "::ffff:192.0.2.1")], 200),
        // Whom nobody knows is not let in, and is not taken for the proxy.
        ("10.0.0.1", vec![(x, "192.0.2.1, unknown")], 403),
        ("10.0.0.1", vec![(x, "192.0.2.1, ")], 403),
        (
            "10.0.0.1",
            vec![(x, "192.0.2.1, 10.1.1.1, _hidden, 10.1.1.1")],
            403,
        ),
        // The other dialect may be anybody's.
        (
            "10.0.0.1",
            vec![("forwarded", "for=192.0.2.1"), (x, "203.0.113.1")],
            403,
        ),
    ] {
        let answer = send(&app, from(peer, &lines, &key)).await;
        assert_eq!(answer.status, status, "{peer} {lines:?}");
    }
    // Bytes that are no text are the client's own.
    let mut request = from("10.0.0.1", &[], &key);
    let line = http::HeaderValue::from_bytes(b"\xff, 203.0.113.1, 192.0.2.1").unwrap();
    request.headers_mut().insert("x-forwarded-for", line);
    assert_eq!(send(&app, request).await.status, 200);
    // All of them are proxies: the one that is furthest away. And a proxy's own request.
    let of_proxy = bound(&bench, "10.7.0.0/16").await;
    for (peer, lines) in [
        ("10.0.0.1", vec![(x, "10.7.0.1, 10.0.0.2")]),
        ("10.7.0.1", vec![]),
    ] {
        assert_eq!(send(&app, from(peer, &lines, &of_proxy)).await.status, 200);
    }
}

#[tokio::test]
async fn forwarded_is_read_as_rfc_7239_has_it() {
    let bench = Bench::new();
    let key = bound(&bench, "2001:db8::/32").await;
    let app = app(&bench.layer().trust_proxies(proxies().forwarded()));
    let name = "forwarded";
    for (value, status) in [
        (r#"for="[2001:db8::1]""#, 200),
        (
            r#"For="[2001:DB8::1]:4711";Proto=http;by=203.0.113.43"#,
            200,
        ),
        (r#"for="[2001:db8::1]", for=10.0.0.3;proto=https"#, 200),
        (r#"for=203.0.113.1, for="[2001:db8::1]""#, 200),
        (r#"for="[2001:db8::1]", for=203.0.113.1"#, 403),
        (r#"for="[2001:db8::1]", for=unknown"#, 403),
        (r#"for="[2001:db8::1]", by=10.0.0.9"#, 403),
        (r#"for="[2001:db8::1]", nonsense"#, 403),
    ] {
        let answer = send(&app, from("10.0.0.1", &[(name, value)], &key)).await;
        assert_eq!(answer.status, status, "{value}");
    }
    let lines = [("x-forwarded-for", "2001:db8::1")];
    assert_eq!(send(&app, from("10.0.0.1", &lines, &key)).await.status, 403);
}

#[tokio::test]
async fn without_trusted_proxies_no_header_is_believed() {
    let bench = Bench::new();
    let key = bound(&bench, "192.0.2.0/24").await;
    let lines = [
        ("x-forwarded-for", "192.0.2.1"),
        ("forwarded", "for=192.0.2.1"),
    ];
    let answer = send(&app(&bench.layer()), from("10.0.0.1", &lines, &key)).await;
    assert_eq!(
        (answer.status, &*answer.code()),
        (403, "address_not_allowed")
    );
}

#[tokio::test]
async fn failures_count_for_the_client_and_not_for_its_proxy() {
    let bench = Bench::with(|builder| builder.failed_attempts(RateLimit::per_minute(2)));
    let app = app(&bench.layer().trust_proxies(proxies()));
    let status = async |client: &str| {
        let lines = [("x-forwarded-for", client)];
        send(&app, from("10.0.0.1", &lines, unknown_key().expose()))
            .await
            .status
    };
    for wanted in [401, 401, 429] {
        assert_eq!(status("192.0.2.1").await, wanted);
    }
    assert_eq!(status("192.0.2.2").await, 401);
    assert_eq!(status("spoofed, 192.0.2.1").await, 429);
    // One customer has a whole /64.
    for (client, wanted) in [
        ("2001:db8::1", 401),
        ("2001:db8::2", 401),
        ("2001:db8::3", 429),
    ] {
        assert_eq!(status(client).await, wanted);
    }
    assert_eq!(status("2001:db8:0:1::1").await, 401);
}

#[tokio::test]
async fn instances_count_failures_together_over_redis() {
    // Of a network that no other test and no earlier run has.
    let network = format!(
        "2001:db8:{:x}:{:x}",
        std::process::id() >> 16,
        std::process::id() & 0xffff
    );
    let client = format!("{network}::1");
    let memory = MemoryStore::new();
    let mut apps = Vec::new();
    for _ in 0..2 {
        let limiter = RedisLimiter::builder(&shared_url()).on_outage(OutagePolicy::Deny);
        let builder = ApiKeys::builder(memory.clone())
            .redis_limiter(limiter.connect().await.unwrap())
            .failed_attempts(limit("failures", 5, 3_600));
        apps.push(app(&ApiKeyLayer::new(&builder.build())));
    }
    let status = async |app: &Router| {
        send(app, from(&client, &[], unknown_key().expose()))
            .await
            .status
    };
    for _ in 0..5 {
        assert_eq!(status(&apps[0]).await, 401);
    }
    assert_eq!(status(&apps[0]).await, 429);
    // Nobody waits for Redis, so it learns a moment after its first failure.
    let until = tokio::time::Instant::now() + crate::support::SECOND * 10;
    let mut failures = 0;
    while status(&apps[1]).await == 401 {
        failures += 1;
        assert!(tokio::time::Instant::now() < until, "it does not learn");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert!(
        failures < 5,
        "it has learnt before it had counted as many itself"
    );
}

const TLS: &str = "x-forwarded-proto";

#[tokio::test]
async fn a_key_in_clear_text_is_refused_whether_it_is_good_or_not() {
    let bench = Bench::new();
    let key = bench.secret(NewKey::named("x")).await;
    let app = app(&bench.layer().trust_proxies(proxies()).require_tls());
    let good = send(&app, from("192.0.2.1", &[], &key)).await;
    let bad = send(&app, from("192.0.2.1", &[], "nonsense")).await;
    assert_eq!((good.status, &*good.code()), (403, "insecure_transport"));
    assert_eq!(good, bad);
    assert_eq!(bench.store.lookups(), 0);
    assert_eq!(good.header("location"), None);
    // Without a key there is nothing to protect.
    let request = crate::support::get("/", &[]);
    assert_eq!(send(&app, request).await.status, 401);
    for (peer, lines, status) in [
        ("10.0.0.1", vec![(TLS, "https")], 200),
        ("10.0.0.1", vec![(TLS, "HTTPS")], 200),
        ("10.0.0.1", vec![(TLS, "http")], 403),
        ("10.0.0.1", vec![(TLS, "https, http")], 403),
        ("10.0.0.1", vec![(TLS, "https"), (TLS, "http")], 403),
        ("10.0.0.1", vec![], 403),
        ("192.0.2.1", vec![(TLS, "https")], 403),
    ] {
        let answer = send(&app, from(peer, &lines, &key)).await;
        assert_eq!(answer.status, status, "{peer} {lines:?}");
    }
}

#[tokio::test]
async fn tls_is_known_by_the_extension_the_uri_or_forwarded() {
    let bench = Bench::new();
    let key = bench.secret(NewKey::named("x")).await;
    let layer = bench.layer().require_tls();
    let direct = app(&layer);
    for (secure, uri, status) in [
        (Some(true), "/", 200),
        (Some(false), "/", 403),
        (None, "https://keys.example/", 200),
        (None, "http://keys.example/", 403),
        (Some(false), "https://keys.example/", 403),
    ] {
        let mut request = bearing(&key);
        *request.uri_mut() = uri.parse().unwrap();
        if let Some(secure) = secure {
            request.extensions_mut().insert(SecureTransport(secure));
        }
        assert_eq!(
            send(&direct, request).await.status,
            status,
            "{secure:?} {uri}"
        );
    }
    let behind = app(&layer.trust_proxies(proxies().forwarded()));
    for (value, status) in [
        ("for=192.0.2.1;proto=https", 200),
        ("for=192.0.2.1;proto=http", 403),
        // What counts is how the client came, and not how the proxies talk to each other.
        ("for=192.0.2.1;proto=https, for=10.0.0.2;proto=http", 200),
        ("for=10.0.0.9;proto=https, for=192.0.2.1;proto=http", 403),
    ] {
        let request = from("10.0.0.1", &[("forwarded", value)], &key);
        assert_eq!(send(&behind, request).await.status, status, "{value}");
    }
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
    let until = tokio::time::Instant::now() + crate::support::SECOND * 10;
    while status_of(&bench, &issued).await == KeyStatus::Active {
        assert!(tokio::time::Instant::now() < until, "it stays active");
        tokio::task::yield_now().await;
    }
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
    // In the background, so that the time it takes tells nothing.
    let until = tokio::time::Instant::now() + crate::support::SECOND * 10;
    while status_of(&bench, &issued).await == KeyStatus::Active {
        assert!(tokio::time::Instant::now() < until, "it stays active");
        tokio::task::yield_now().await;
    }
    assert_eq!(status_of(&bench, &issued).await, KeyStatus::Disabled);
    let events = bench.keys.events(issued.key().record.id, None, 9);
    let events = events.await.unwrap().events;
    let last = events.first().unwrap();
    assert_eq!(last.action, EventAction::Disabled);
    assert_eq!(last.actor.as_deref(), Some("clear_text"));
    assert_eq!(bench.used(&issued).await, (0, 0));
}
