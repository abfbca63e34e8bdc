//! What the answer to a verified key says of its limits.

use std::time::Duration;

use axum::Router;
use axum::routing::get as on_get;
use http::StatusCode;
use tower_api_key::{ApiKeyLayer, KeyUpdate, LimitBy, NewKey};

use crate::support::{Answer, Bench, SECOND, bearing, get, limit, send};

fn app(layer: &ApiKeyLayer) -> Router {
    Router::new()
        .route("/", on_get(async || "fine"))
        .route("/fails", on_get(async || StatusCode::IM_A_TEAPOT))
        .layer(layer.clone())
}

/// A key with the two limits of the contract's example, in rounder numbers.
fn limited() -> NewKey {
    NewKey::named("x")
        .limit(limit("burst", 100, 16))
        .limit(limit("daily", 1_000, 1_600))
}

/// The policy and the state, as one line each.
#[track_caller]
fn limits(answer: &Answer) -> (String, String) {
    let header = |name: &str| answer.header(name).expect("a verified key has limits");
    (header("ratelimit-policy"), header("ratelimit"))
}

fn pair(policy: &str, state: &str) -> (String, String) {
    (policy.to_owned(), state.to_owned())
}

const POLICY: &str = r#""burst";q=100;w=16, "daily";q=1000;w=1600"#;

#[tokio::test]
async fn a_success_tells_what_is_left_and_when_it_grows() {
    let bench = Bench::new();
    let key = bench.secret(limited()).await;
    let app = app(&bench.layer());
    // From the store and from the cache.
    for state in [
        r#""burst";r=99;t=16, "daily";r=999;t=1600"#,
        r#""burst";r=98;t=16, "daily";r=998;t=1600"#,
    ] {
        let answer = send(&app, bearing(&key)).await;
        assert_eq!(answer.status, 200);
        assert_eq!(limits(&answer), pair(POLICY, state));
    }
    bench.clock.advance(Duration::from_millis(4_500));
    let answer = send(&app, bearing(&key)).await;
    let state = r#""burst";r=97;t=12, "daily";r=997;t=1596"#;
    assert_eq!(limits(&answer), pair(POLICY, state));
}

#[tokio::test]
async fn a_handlers_own_failure_tells_it_too() {
    let bench = Bench::new();
    let key = bench.secret(limited()).await;
    let bearer = format!("Bearer {key}");
    let request = |uri| get(uri, &[("authorization", bearer.as_bytes())]);
    let app = app(&bench.layer());
    for (uri, status, state) in [
        ("/fails", 418, r#""burst";r=99;t=16, "daily";r=999;t=1600"#),
        (
            "/nowhere",
            404,
            r#""burst";r=98;t=16, "daily";r=998;t=1600"#,
        ),
    ] {
        let answer = send(&app, request(uri)).await;
        assert_eq!(answer.status, status);
        assert_eq!(limits(&answer), pair(POLICY, state));
    }
}

#[tokio::test]
async fn a_403_for_a_verified_key_tells_it_and_charges_nothing() {
    let bench = Bench::new();
    let network = "192.0.2.0/24".parse().unwrap();
    let key = bench.secret(limited().allowed_addresses([network])).await;
    let state = r#""burst";r=100;t=0, "daily";r=1000;t=0"#;
    let answer = send(&app(&bench.layer()), bearing(&key)).await;
    assert_eq!((answer.status, limits(&answer)), (403, pair(POLICY, state)));

    let key = bench.secret(limited()).await;
    let layer = bench.layer().route_limits([limit("route", 5, 16)]);
    assert_eq!(send(&app(&layer), bearing(&key)).await.status, 200);
    let answer = send(&app(&layer.scopes(["a"])), bearing(&key)).await;
    let policy = format!(r#"{POLICY}, "route";q=5;w=16"#);
    let state = r#""burst";r=99;t=16, "daily";r=999;t=1600, "route";r=4;t=16"#;
    assert_eq!(
        (answer.status, limits(&answer)),
        (403, pair(&policy, state))
    );
}

#[tokio::test]
async fn a_429_tells_it_as_it_is_and_never_a_wait_beyond_retry_after() {
    let bench = Bench::new();
    let key = NewKey::named("x").limit(limit("burst", 10, 16));
    let key = bench.secret(key).await;
    let (one, five) = (app(&bench.layer()), app(&bench.layer().cost(5)));
    for _ in 0..6 {
        assert_eq!(send(&one, bearing(&key)).await.status, 200);
        bench.clock.advance(2 * SECOND);
    }
    // 4 are left; the first comes back in 4 seconds, which is enough for 5.
    for (seconds, remaining, wait, retry) in [(0, 4, 4, 4), (3, 4, 1, 1)] {
        bench.clock.advance(seconds * SECOND);
        let answer = send(&five, bearing(&key)).await;
        assert_eq!(answer.status, 429);
        assert_eq!(answer.header("retry-after").unwrap(), retry.to_string());
        let state = format!(r#""burst";r={remaining};t={wait}"#);
        assert_eq!(limits(&answer), pair(r#""burst";q=10;w=16"#, &state));
    }
    // A higher price has to wait longer than for the first that comes back.
    let eight = app(&bench.layer().cost(8));
    let answer = send(&eight, bearing(&key)).await;
    assert_eq!(answer.header("retry-after").unwrap(), "7");
    assert_eq!(limits(&answer).1, r#""burst";r=4;t=1"#);
}

#[tokio::test]
async fn retry_after_is_when_it_succeeds_and_not_a_second_later() {
    let exact = 16 * SECOND;
    for (started, cost) in [
        (Duration::ZERO, 1),
        (Duration::from_millis(250), 1),
        (Duration::from_millis(999), 4),
    ] {
        let bench = Bench::new();
        let key = NewKey::named("x").limit(limit("burst", 4, 16));
        let key = bench.secret(key).await;
        bench.clock.advance(started);
        let app = app(&bench.layer().cost(cost));
        while send(&app, bearing(&key)).await.status == 200 {}
        let denied = send(&app, bearing(&key)).await;
        assert_eq!(denied.header("retry-after").unwrap(), "16", "{started:?}");

        bench.clock.advance(exact.checked_sub(SECOND).unwrap());
        let denied = send(&app, bearing(&key)).await;
        assert_eq!(denied.status, 429);
        assert_eq!(denied.header("retry-after").unwrap(), "1");
        bench.clock.advance(SECOND);
        assert_eq!(send(&app, bearing(&key)).await.status, 200, "{started:?}");
    }
}

#[tokio::test]
async fn retry_after_obeyed_to_the_second_succeeds() {
    let bench = Bench::new();
    let key = NewKey::named("x")
        .limit(limit("burst", 3, 7))
        .limit(limit("more", 7, 60));
    let key = bench.secret(key).await;
    let app = app(&bench.layer());
    for step in 0..50 {
        let answer = send(&app, bearing(&key)).await;
        if answer.status == 429 {
            let seconds = answer.header("retry-after").unwrap().parse().unwrap();
            bench.clock.advance(Duration::from_secs(seconds));
            assert_eq!(
                send(&app, bearing(&key)).await.status,
                200,
                "at step {step}"
            );
        }
        bench.clock.advance(Duration::from_millis(130 * step));
    }
}

#[tokio::test]
async fn defaults_hold_for_keys_without_limits_of_their_own() {
    let bench = Bench::new();
    let (none, own) = (
        bench.secret(NewKey::named("none")).await,
        bench
            .secret(NewKey::named("own").limit(limit("own", 7, 16)))
            .await,
    );
    let app = app(&bench.layer().default_limits([limit("usual", 3, 16)]));
    let answer = send(&app, bearing(&none)).await;
    assert_eq!(
        limits(&answer),
        pair(r#""usual";q=3;w=16"#, r#""usual";r=2;t=16"#)
    );
    let answer = send(&app, bearing(&own)).await;
    assert_eq!(
        limits(&answer),
        pair(r#""own";q=7;w=16"#, r#""own";r=6;t=16"#)
    );
}

#[tokio::test]
async fn limits_of_the_route_stand_after_the_keys() {
    let bench = Bench::new();
    let (none, own) = (
        bench.secret(NewKey::named("none")).await,
        bench
            .secret(NewKey::named("own").limit(limit("own", 7, 16)))
            .await,
    );
    let layer = bench.layer().route_limits([limit("route", 3, 16)]).cost(2);
    let app = app(&layer);
    let answer = send(&app, bearing(&none)).await;
    assert_eq!(
        limits(&answer),
        pair(r#""route";q=3;w=16"#, r#""route";r=1;t=16"#)
    );
    let answer = send(&app, bearing(&own)).await;
    assert_eq!(
        limits(&answer),
        pair(
            r#""own";q=7;w=16, "route";q=3;w=16"#,
            r#""own";r=5;t=16, "route";r=1;t=16"#
        )
    );
    let answer = send(&app, bearing(&own)).await;
    assert_eq!(answer.status, 429);
    assert!(answer.body.contains(r#""violated-policies":["route"]"#));
    assert_eq!(limits(&answer).1, r#""own";r=5;t=16, "route";r=1;t=16"#);
}

#[tokio::test]
async fn the_keys_of_an_owner_share_where_the_layer_says_so() {
    let bench = Bench::new();
    let key = || {
        NewKey::named("x")
            .owner("acme")
            .limit(limit("burst", 9, 16))
    };
    let (first, second) = (bench.secret(key()).await, bench.secret(key()).await);
    let by_owner = app(&bench.layer().limit_by(LimitBy::Owner));
    for (key, state) in [
        (&first, r#""burst";r=8;t=16"#),
        (&second, r#""burst";r=7;t=16"#),
    ] {
        assert_eq!(limits(&send(&by_owner, bearing(key)).await).1, state);
    }
    let by_key = app(&bench.layer());
    let answer = send(&by_key, bearing(&second)).await;
    assert_eq!(limits(&answer).1, r#""burst";r=8;t=16"#);
}

#[tokio::test]
async fn a_changed_limit_is_told_at_once() {
    let bench = Bench::new();
    let issued = bench.issue(limited()).await;
    let app = app(&bench.layer());
    let request = || bearing(issued.secret().expose());
    send(&app, request()).await;
    let update = KeyUpdate::new().limits([limit("burst", 5, 16)]);
    bench
        .keys
        .update(issued.key().record.id, update)
        .await
        .unwrap();
    let answer = send(&app, request()).await;
    assert_eq!(
        limits(&answer),
        pair(r#""burst";q=5;w=16"#, r#""burst";r=3;t=16"#)
    );
}

#[tokio::test]
async fn without_limits_nothing_is_told() {
    let bench = Bench::new();
    let key = bench.secret(NewKey::named("x")).await;
    let layer = bench.layer().legacy_limit_headers();
    for app in [app(&layer), app(&layer.scopes(["a"])), app(&layer.cost(5))] {
        let answer = send(&app, bearing(&key)).await;
        let told = answer
            .headers
            .iter()
            .any(|(name, _)| name.contains("ratelimit"));
        assert!(!told, "{answer:?}");
    }
}

#[tokio::test]
async fn a_key_that_is_not_verified_is_told_nothing_of_limits() {
    let bench = Bench::new();
    let layer = bench
        .layer()
        .route_limits([limit("route", 3, 16)])
        .default_limits([limit("usual", 3, 16)])
        .legacy_limit_headers();
    let app = app(&layer);
    let disabled = bench.issue(limited()).await;
    bench.keys.disable(disabled.key().record.id).await.unwrap();
    for request in [
        get("/", &[]),
        bearing("x"),
        bearing(disabled.secret().expose()),
    ] {
        let answer = send(&app, request).await;
        let told = answer
            .headers
            .iter()
            .any(|(name, _)| name.contains("ratelimit"));
        assert!(!told, "{answer:?}");
    }
}

#[tokio::test]
async fn the_older_headers_tell_the_tightest_limit_on_request() {
    let bench = Bench::new();
    let older = |answer: &Answer| {
        ["limit", "remaining", "reset"].map(|what| {
            answer
                .header(&format!("x-ratelimit-{what}"))
                .unwrap_or_default()
        })
    };
    let key = NewKey::named("x")
        .limit(limit("burst", 5, 16))
        .limit(limit("daily", 7, 1_600));
    let key = bench.secret(key).await;
    assert_eq!(
        older(&send(&app(&bench.layer()), bearing(&key)).await),
        ["", "", ""]
    );

    let layer = bench.layer().legacy_limit_headers();
    let app_with = app(&layer);
    assert_eq!(
        older(&send(&app_with, bearing(&key)).await),
        ["5", "3", "16"]
    );
    let dear = send(&app(&layer.cost(4)), bearing(&key)).await;
    assert_eq!(
        (dear.status, older(&dear)),
        (429, ["5", "3", "16"].map(String::from))
    );
    let refused = send(&app(&layer.scopes(["a"])), bearing(&key)).await;
    assert_eq!(
        (refused.status, older(&refused)),
        (403, ["5", "3", "16"].map(String::from))
    );

    bench.clock.advance(16 * SECOND);
    send(&app_with, bearing(&key)).await;
    send(&app_with, bearing(&key)).await;
    bench.clock.advance(16 * SECOND);
    assert_eq!(
        older(&send(&app_with, bearing(&key)).await),
        ["7", "2", "1568"]
    );
}
