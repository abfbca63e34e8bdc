//! Answers to those who try keys.

use tower_api_key::{NewKey, RateLimit};

use super::{app, from, refusal};
use crate::support::{Bench, SECOND, bearing, get, limit, send};

#[tokio::test]
async fn too_many_bad_keys_from_one_address_stop_all_but_cached_ones() {
    let bench = Bench::with(|builder| builder.failed_attempts(limit("failures", 3, 16)));
    let cached = bench.secret(NewKey::named("cached")).await;
    let other = bench.secret(NewKey::named("other")).await;
    let app = app(&bench.layer());
    let (bad, elsewhere) = ("192.0.2.1", "192.0.2.2");
    let unknown = || {
        let format = bench.keys.verifier().format();
        format.generate("sk", "live").unwrap().expose().to_owned()
    };
    assert_eq!(send(&app, from(bad, bearing(&cached))).await.status, 200);
    // No credential, or too many of them, is no attempt at a key.
    for _ in 0..5 {
        assert_eq!(send(&app, from(bad, get("/", &[]))).await.status, 401);
        let twice = get("/", &[("x-api-key", b"a"), ("x-api-key", b"b")]);
        assert_eq!(send(&app, from(bad, twice)).await.status, 400);
    }
    for key in ["malformed", "", &unknown()] {
        let refused = send(&app, from(bad, bearing(key))).await;
        assert_eq!(refused, refusal("invalid_key"));
    }
    let lookups = bench.store.lookups();
    for key in ["malformed", "", &unknown(), &other] {
        let refused = send(&app, from(bad, bearing(key))).await;
        assert_eq!(refused, refusal("too_many_failures"));
    }
    assert_eq!(bench.store.lookups(), lookups);

    assert_eq!(send(&app, from(bad, bearing(&cached))).await.status, 200);
    let mapped = from("::ffff:192.0.2.1", bearing(&other));
    assert_eq!(send(&app, mapped).await.status, 429);
    assert_eq!(send(&app, from(elsewhere, bearing("x"))).await.status, 401);
    assert_eq!(send(&app, bearing("x")).await.status, 401);
    assert_eq!(
        send(&app, from(elsewhere, bearing(&other))).await.status,
        200
    );

    bench.clock.advance(15 * SECOND);
    let still = send(&app, from(bad, bearing(&unknown()))).await;
    assert_eq!(still.header("retry-after").unwrap(), "1");
    bench.clock.advance(SECOND);
    let third = bench.secret(NewKey::named("third")).await;
    assert_eq!(send(&app, from(bad, bearing(&third))).await.status, 200);
}

#[tokio::test]
async fn bad_keys_of_one_ipv6_network_count_together() {
    let bench = Bench::with(|builder| builder.failed_attempts(limit("failures", 2, 16)));
    let app = app(&bench.layer());
    for (address, status) in [
        ("2001:db8::1", 401),
        ("2001:db8::2:3:4:5", 401),
        ("2001:db8::ffff:ffff:ffff:ffff", 429),
        ("2001:db8:0:1::1", 401),
    ] {
        let answer = send(&app, from(address, bearing("x"))).await;
        assert_eq!(answer.status, status, "{address}");
    }
}

#[tokio::test]
async fn good_keys_are_no_failed_attempts() {
    let bench = Bench::with(|builder| builder.failed_attempts(RateLimit::per_minute(1)));
    let key = NewKey::named("x").limit(limit("burst", 2, 16));
    let key = bench.secret(key).await;
    let (open, scoped) = (app(&bench.layer()), app(&bench.layer().scopes(["a"])));
    for (app, status) in [
        (&open, 200),
        (&scoped, 403),
        (&open, 200),
        (&open, 429),
        (&open, 429),
    ] {
        let answer = send(app, from("192.0.2.1", bearing(&key))).await;
        assert_eq!(answer.status, status);
    }
    let answer = send(&open, from("192.0.2.1", bearing("x"))).await;
    assert_eq!(answer, refusal("invalid_key"));
}
