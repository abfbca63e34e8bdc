//! Limits in answers, where several layers, or a key and a route, have some.

use std::time::Duration;

use axum::Router;
use axum::routing::{get as on_get, post};
use tower::Layer;
use tower_api_key::{ApiKeyLayer, LimitBy, NewKey, RateLimit};

use crate::support::{Answer, Bench, SECOND, bearing, get, limit, send};

/// A request of `path` with this key.
fn of(path: &str, key: &str) -> http::Request<axum::body::Body> {
    get(path, &[("x-api-key", key.as_bytes())])
}

fn wait(answer: &Answer) -> u64 {
    assert_eq!(answer.status, 429, "{answer:?}");
    answer.header("retry-after").unwrap().parse().unwrap()
}

/// The names in a `RateLimit` or `RateLimit-Policy` field, each with its last parameter.
fn fields(answer: &Answer, name: &str) -> Vec<(String, u64)> {
    let field = answer.header(name).unwrap();
    let item = |item: &str| {
        let (name, last) = (item.split(';').next()?, item.rsplit('=').next()?);
        Some((name.trim_matches('"').to_owned(), last.parse().ok()?))
    };
    field.split(", ").map(|text| item(text).unwrap()).collect()
}

fn names(answer: &Answer, name: &str) -> Vec<String> {
    let fields = fields(answer, name);
    fields.into_iter().map(|(name, _)| name).collect()
}

fn violated(answer: &Answer) -> Vec<String> {
    let problem: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    serde_json::from_value(problem["violated-policies"].clone()).unwrap()
}

/// Checks that a request succeeds when the answer says so, and no second before.
async fn obey(bench: &Bench, app: &Router, path: &str, key: &str, answer: &Answer) {
    let wait = Duration::from_secs(wait(answer));
    bench.clock.advance(wait.checked_sub(SECOND).unwrap());
    assert_eq!(
        send(app, of(path, key)).await.status,
        429,
        "too late by a second"
    );
    bench.clock.advance(SECOND);
    assert_eq!(send(app, of(path, key)).await.status, 200, "too early");
}

/// A key of three requests in two seconds, and layers around `/scarce`, where one is admitted a
/// minute.
struct Case {
    bench: Bench,
    key: String,
    outer: ApiKeyLayer,
    scarce: ApiKeyLayer,
}

async fn case() -> Case {
    let bench = Bench::new();
    let key = NewKey::named("x").limit(limit("burst", 3, 2));
    let (key, outer) = (bench.secret(key).await, bench.layer());
    let scarce = outer.route_limits([limit("scarce", 1, 64)]);
    Case {
        bench,
        key,
        outer,
        scarce,
    }
}

fn scarce(case: &Case) -> Router {
    let routes = Router::new()
        .route("/scarce", on_get(|| async {}).layer(case.scarce.clone()))
        .route("/free", on_get(|| async {}).post(|| async {}));
    routes.layer(case.outer.clone())
}

#[tokio::test]
async fn an_outer_denial_counts_in_the_limits_that_the_route_had_before() {
    let case = case().await;
    let (bench, key, app) = (&case.bench, &case.key, scarce(&case));
    // The layers of a route are known once it was reached.
    for path in ["/scarce", "/free", "/free"] {
        assert_eq!(send(&app, of(path, key)).await.status, 200);
    }
    let denied = send(&app, of("/scarce", key)).await;
    assert_eq!(violated(&denied), ["burst", "scarce"]);
    assert_eq!(names(&denied, "ratelimit"), ["burst", "scarce"]);
    assert_eq!(names(&denied, "ratelimit-policy"), ["burst", "scarce"]);
    assert!(wait(&denied) > 60, "{denied:?}");
    // No other route is.
    let free = send(&app, of("/free", key)).await;
    assert!(wait(&free) <= 3, "{free:?}");
    assert_eq!(violated(&free), ["burst"]);
    obey(bench, &app, "/scarce", key, &denied).await;
}

#[tokio::test]
async fn an_outer_denial_waits_no_longer_where_the_inner_limit_has_room() {
    let case = case().await;
    let (bench, app) = (&case.bench, scarce(&case));
    assert_eq!(send(&app, of("/scarce", &case.key)).await.status, 200);
    // Another key, at the route that the first one made known.
    let key = bench
        .secret(NewKey::named("y").limit(limit("burst", 3, 2)))
        .await;
    for _ in 0..3 {
        assert_eq!(send(&app, of("/free", &key)).await.status, 200);
    }
    let denied = send(&app, of("/scarce", &key)).await;
    assert_eq!(violated(&denied), ["burst"]);
    assert_eq!(names(&denied, "ratelimit"), ["burst", "scarce"]);
    assert!(wait(&denied) <= 3, "{denied:?}");
    obey(bench, &app, "/scarce", &key, &denied).await;
}

#[tokio::test]
async fn what_no_request_has_reached_is_not_known() {
    let case = case().await;
    let (key, app) = (&case.key, scarce(&case));
    for _ in 0..3 {
        assert_eq!(send(&app, of("/free", key)).await.status, 200);
    }
    let denied = send(&app, of("/scarce", key)).await;
    assert_eq!(names(&denied, "ratelimit"), ["burst"]);
    assert!(wait(&denied) <= 3, "{denied:?}");
}

#[tokio::test]
async fn routes_are_known_by_method_and_pattern() {
    let case = case().await;
    let Case { key, scarce, .. } = &case;
    let routes = Router::new()
        .route("/orders/{id}", on_get(|| async {}).layer(scarce.clone()))
        .route("/orders/{id}", post(|| async {}));
    let nested = Router::new().nest("/v1", routes).layer(case.outer.clone());
    for path in ["/v1/orders/1", "/v1/none", "/v1/none"] {
        send(&nested, of(path, key)).await;
    }
    let denied = send(&nested, of("/v1/orders/2", key)).await;
    assert_eq!(violated(&denied), ["burst", "scarce"]);
    let mut other = of("/v1/orders/2", key);
    *other.method_mut() = http::Method::POST;
    assert_eq!(violated(&send(&nested, other).await), ["burst"]);
}

#[tokio::test]
async fn a_layer_outside_of_the_router_knows_routes_by_their_path() {
    let case = case().await;
    let Case { key, scarce, .. } = &case;
    let routes = Router::new()
        .route("/a", on_get(|| async {}).layer(scarce.clone()))
        .fallback(|| async {})
        .layer(tower::layer::util::Identity::new());
    let app = case.outer.layer(Router::new().nest("/v1", routes));
    for path in ["/v1/a", "/v1/b", "/v1/b"] {
        assert_eq!(send(&app, of(path, key)).await.status, 200);
    }
    let denied = send(&app, of("/v1/a?x=1", key)).await;
    assert_eq!(violated(&denied), ["burst", "scarce"]);
    assert_eq!(violated(&send(&app, of("/v1/b", key)).await), ["burst"]);
}

#[tokio::test]
async fn every_layer_counts_in_those_within_it_and_no_other() {
    let case = case().await;
    let (bench, key, auth) = (&case.bench, &case.key, &case.outer);
    let nested = |layers: &[&ApiKeyLayer]| {
        let app = Router::new().fallback(|| async {});
        let layers = layers.iter().rev();
        layers.fold(app, |app, layer| app.layer((*layer).clone()))
    };
    let middle = auth.route_limits([limit("middle", 1, 16)]);
    let owner = case.scarce.limit_by(LimitBy::Owner);
    let app = nested(&[auth, &middle, &owner]);
    assert_eq!(send(&app, of("/", key)).await.status, 200);
    // The middle one refuses it: the outer one has room.
    let denied = send(&app, of("/", key)).await;
    assert_eq!(violated(&denied), ["middle", "scarce"]);
    assert!(wait(&denied) > 60, "{denied:?}");
    obey(bench, &app, "/", key, &denied).await;
    // The same layers in another stack are others.
    let shallow = nested(&[&middle]);
    assert_eq!(send(&shallow, of("/", key)).await.status, 429);
    bench.clock.advance(20 * SECOND);
    assert_eq!(send(&shallow, of("/", key)).await.status, 200);
    let denied = send(&shallow, of("/", key)).await;
    assert_eq!(violated(&denied), ["middle"]);
}

#[tokio::test]
async fn an_inner_cost_is_counted_in() {
    let bench = Bench::new();
    let key = bench
        .secret(NewKey::named("x").limit(limit("burst", 10, 16)))
        .await;
    let auth = bench.layer();
    let routes = Router::new()
        .route("/dear", on_get(|| async {}).layer(auth.cost(5)))
        .route("/never", on_get(|| async {}).layer(auth.cost(10)))
        .route("/cheap", on_get(|| async {}));
    let app = routes.layer(auth.clone());
    assert_eq!(send(&app, of("/never", &key)).await.status, 429);
    assert_eq!(send(&app, of("/dear", &key)).await.status, 200);
    for _ in 0..4 {
        bench.clock.advance(2 * SECOND);
        assert_eq!(send(&app, of("/cheap", &key)).await.status, 200);
    }
    // Six have to come back, which is when the first request leaves; and for that of one as well.
    let denied = send(&app, of("/dear", &key)).await;
    assert!(wait(&denied) <= 9, "{denied:?}");
    let never = send(&app, of("/never", &key)).await;
    assert_eq!((never.status, never.header("retry-after")), (429, None));
    assert!(never.body.contains("cannot succeed"), "{never:?}");
    obey(&bench, &app, "/dear", &key, &denied).await;
    // Now all but four were used lately, and the one of the cheap ones comes back long before six
    // do.
    for _ in 0..4 {
        send(&app, of("/cheap", &key)).await;
    }
    let denied = send(&app, of("/dear", &key)).await;
    let cheap = send(&app, of("/cheap", &key)).await;
    assert!(wait(&cheap) < wait(&denied), "{cheap:?} {denied:?}");
    obey(&bench, &app, "/dear", &key, &denied).await;
}

#[tokio::test]
async fn a_stack_that_changes_is_known_as_it_was_last() {
    let case = case().await;
    let (bench, key) = (&case.bench, &case.key);
    let with = case.outer.layer(
        Router::new()
            .fallback(|| async {})
            .layer(case.scarce.clone()),
    );
    let other = case.outer.route_limits([limit("other", 9, 64)]);
    let without = case
        .outer
        .layer(Router::new().fallback(|| async {}).layer(other));
    let spent = async |app: &_| {
        bench.clock.advance(200 * SECOND);
        send(app, of("/", key)).await;
        for _ in 0..2 {
            send(&without, of("/elsewhere", key)).await;
        }
        names(&send(app, of("/", key)).await, "ratelimit")
    };
    assert_eq!(spent(&with).await, ["burst", "scarce"]);
    assert_eq!(spent(&without).await, ["burst", "other"]);
    assert_eq!(spent(&with).await, ["burst", "scarce"]);
}

#[tokio::test]
async fn no_limit_of_a_refusal_resets_later_than_the_request_may_come_again() {
    let bench = Bench::new();
    let key = NewKey::named("x")
        .limit(limit("burst", 2, 16))
        .limit(RateLimit::per_day(1_000));
    let key = bench.secret(key).await;
    let layer = bench.layer().legacy_limit_headers();
    let inner = layer.route_limits([limit("route", 9, 3_600)]);
    let app = Router::new()
        .fallback(|| async {})
        .layer(inner)
        .layer(layer);
    for _ in 0..2 {
        let answer = send(&app, bearing(&key)).await;
        assert!(fields(&answer, "ratelimit").iter().any(|(_, t)| *t > 3_000));
    }
    let denied = send(&app, bearing(&key)).await;
    let wait = wait(&denied);
    let resets = fields(&denied, "ratelimit");
    assert_eq!(resets.len(), 3);
    for (name, reset) in resets {
        assert!(reset <= wait, "{name}: {reset} > {wait}");
    }
    let legacy: u64 = denied.header("x-ratelimit-reset").unwrap().parse().unwrap();
    assert!(legacy <= wait);
}

#[tokio::test]
async fn limits_of_one_name_are_told_apart() {
    let bench = Bench::new();
    let key = NewKey::named("x")
        .limit(limit("burst", 1, 16))
        .limit(limit("day", 9, 1_600));
    let key = bench.secret(key).await;
    let auth = bench.layer();
    let route = |quota, seconds| auth.route_limits([limit("burst", quota, seconds)]);
    let one = Router::new().fallback(|| async {}).layer(route(5, 32));
    let answer = send(&one, bearing(&key)).await;
    let wanted = ["burst", "day", "burst:route"];
    assert_eq!(names(&answer, "ratelimit-policy"), wanted);
    assert_eq!(names(&answer, "ratelimit"), wanted);
    let denied = send(&one, bearing(&key)).await;
    assert_eq!(names(&denied, "ratelimit-policy"), wanted);
    assert_eq!(names(&denied, "ratelimit"), wanted);
    assert_eq!(violated(&denied), ["burst"]);

    // A route's own, in a body as in the fields.
    bench.clock.advance(100 * SECOND);
    let tight = Router::new()
        .fallback(|| async {})
        .layer(route(1, 64))
        .layer(route(9, 32));
    assert_eq!(send(&tight, bearing(&key)).await.status, 200);
    bench.clock.advance(20 * SECOND);
    let denied = send(&tight, bearing(&key)).await;
    let wanted = ["burst", "day", "burst:route", "burst:route:2"];
    assert_eq!(names(&denied, "ratelimit-policy"), wanted);
    assert_eq!(names(&denied, "ratelimit"), wanted);
    assert_eq!(violated(&denied), ["burst:route:2"]);

    // Where the key has no such limit, the route's keeps its name.
    let plain = bench.secret(NewKey::named("x")).await;
    let answer = send(&tight, bearing(&plain)).await;
    assert_eq!(names(&answer, "ratelimit"), ["burst", "burst:2"]);
    let denied = send(&tight, bearing(&plain)).await;
    assert_eq!(violated(&denied), ["burst:2"]);
}

#[tokio::test]
async fn the_fields_are_no_longer_than_intermediaries_take() {
    let bench = Bench::new();
    let (auth, longest) = (bench.layer(), RateLimit::MAX_QUOTA);
    let limits = |layer: usize, quota| {
        (0..8_usize).map(move |index| limit(&format!("{layer}{index:0>63}"), quota, 31_622_400))
    };
    let new = limits(9, longest).fold(NewKey::named("x"), NewKey::limit);
    let key = bench.secret(new).await;
    let app = Router::new().fallback(|| async {});
    // The innermost one is exceeded by the second request.
    let app = (0..8).rev().fold(app, |app, layer| {
        let quota = if layer == 7 { 1 } else { longest };
        app.layer(auth.route_limits(limits(layer, quota)))
    });
    for status in [200, 429] {
        let answer = send(&app, bearing(&key)).await;
        assert_eq!(answer.status, status);
        let policies = names(&answer, "ratelimit-policy");
        assert_eq!(policies.len(), 16);
        assert_eq!(policies, names(&answer, "ratelimit"));
        let length = |(name, value): &(String, String)| name.len() + value.len() + 4;
        let length: usize = answer.headers.iter().map(length).sum();
        assert!(length <= 4_096, "{length}");
        if status == 429 {
            // Those that are the cause are not left out.
            let violated = violated(&answer);
            assert_eq!(violated.len(), 8);
            assert!(violated.iter().all(|name| policies.contains(name)));
        }
    }
}
