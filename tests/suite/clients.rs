//! Who a client is, behind proxies and without.

use axum::Router;
use axum::body::Body;
use axum::routing::get as on_get;
use http::Request;
use tower_api_key::limit::{OutagePolicy, RedisLimiter};
use tower_api_key::{
    ApiKeyLayer, ApiKeys, ClientAddress, MemoryStore, NewKey, RateLimit, TrustedProxies,
};

use crate::core_support::unknown_key;
use crate::redis_server::shared_url;
use crate::support::{Bench, bearing, limit, send};

pub(crate) fn app(layer: &ApiKeyLayer) -> Router {
    Router::new().route("/", on_get(|| async {}).layer(layer.clone()))
}

pub(crate) fn proxies() -> TrustedProxies {
    TrustedProxies::new(["10.0.0.0/8", "fd00::/8"].map(|network| network.parse().unwrap()))
}

/// A request from `peer` with these header lines.
pub(crate) fn from(peer: &str, lines: &[(&str, &str)], key: &str) -> Request<Body> {
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
pub(crate) async fn bound(bench: &Bench, network: &str) -> String {
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
    // All of them are proxies: the one that is furthest away. Nobody, where the proxy says nothing.
    let of_proxy = bound(&bench, "10.7.0.0/16").await;
    for (peer, lines, status) in [
        ("10.0.0.1", vec![(x, "10.7.0.1, 10.0.0.2")], 200),
        ("10.7.0.1", vec![], 403),
        ("10.7.0.1", vec![(x, "")], 403),
        ("10.7.0.1", vec![("forwarded", "for=10.7.0.1")], 403),
    ] {
        let answer = send(&app, from(peer, &lines, &of_proxy)).await;
        assert_eq!(answer.status, status, "{peer} {lines:?}");
    }
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
async fn clients_that_nobody_names_share_the_failures_of_their_proxy() {
    let bench = Bench::with(|builder| builder.failed_attempts(RateLimit::per_minute(2)));
    let layer = bench.layer();
    let x = app(&layer.trust_proxies(proxies()));
    let forwarded = app(&layer.trust_proxies(proxies().forwarded()));
    let status = async |app, peer, lines: &[_]| {
        let request = from(peer, lines, unknown_key().expose());
        send(app, request).await.status
    };
    let (silent, hidden) = ([], [("x-forwarded-for", "192.0.2.1, _hidden")]);
    assert_eq!(status(&x, "10.0.0.1", &silent).await, 401);
    assert_eq!(status(&x, "10.0.0.1", &hidden).await, 401);
    assert_eq!(status(&x, "10.0.0.1", &silent).await, 429);
    // Those of another proxy have their own, and a client that is named is not theirs.
    let further = [("x-forwarded-for", "_hidden, 10.0.0.2")];
    assert_eq!(status(&x, "10.0.0.1", &further).await, 401);
    let named = [("x-forwarded-for", "192.0.2.1")];
    assert_eq!(status(&x, "10.0.0.1", &named).await, 401);
    // Nor does a client escape that makes its proxy's element unreadable.
    for wanted in [401, 401, 429] {
        let broken = [("forwarded", "for=\", for=192.0.2.7")];
        assert_eq!(status(&forwarded, "10.0.0.3", &broken).await, wanted);
    }
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
