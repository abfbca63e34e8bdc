//! Layers inside of layers.

use axum::Router;
use axum::extract::Request;
use axum::routing::get as on_get;
use http::HeaderName;
use tower::{Layer, Service};
use tower_api_key::{
    ApiKeyLayer, ApiKeys, CredentialSources, KeyPrincipal, LimitBy, MemoryStore, NewKey, RateLimit,
};

use crate::support::{Answer, Bench, SECOND, bearing, get, limit, panic_message, send};

async fn whose(principal: Option<KeyPrincipal>) -> String {
    principal.map_or("nobody".into(), |principal| principal.name().into())
}

/// A handler in these layers, the outermost first.
fn nested<'a>(
    layers: impl IntoIterator<Item = &'a ApiKeyLayer, IntoIter: DoubleEndedIterator>,
) -> Router {
    let app = Router::new().fallback(whose);
    layers
        .into_iter()
        .rev()
        .fold(app, |app, layer| app.layer(layer.clone()))
}

#[track_caller]
fn told(answer: &Answer, status: u16, policy: &str, state: &str) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(answer.header("ratelimit-policy").as_deref(), Some(policy));
    assert_eq!(answer.header("ratelimit").as_deref(), Some(state));
}

#[tokio::test]
async fn a_request_is_verified_counted_and_charged_once() {
    let bench = Bench::new();
    let key = NewKey::named("x")
        .scopes(["a"])
        .limit(limit("burst", 9, 16));
    let issued = bench.issue(key).await;
    let auth = bench.layer();
    let app = nested([&auth, &auth.scopes(["a"]), &auth]);
    let answer = send(&app, bearing(issued.secret().expose())).await;
    told(&answer, 200, r#""burst";q=9;w=16"#, r#""burst";r=8;t=16"#);
    assert_eq!(bench.store.lookups(), 1);
    assert_eq!(bench.used(&issued).await, (1, 0));
}

#[tokio::test]
async fn scopes_add_up() {
    let bench = Bench::new();
    let auth = bench.layer();
    let app = nested([&auth.scopes(["a"]), &auth.scopes(["b"])]);
    for (scopes, missing) in [
        (&["a", "b"][..], None),
        (&["a"], Some("b")),
        (&["b"], Some("a")),
    ] {
        let key = NewKey::named("x").scopes(scopes.iter().copied());
        let issued = bench.issue(key).await;
        let answer = send(&app, bearing(issued.secret().expose())).await;
        let Some(missing) = missing else {
            assert_eq!((answer.status, bench.used(&issued).await), (200, (1, 0)));
            continue;
        };
        assert_eq!(answer.status, 403);
        assert_eq!(
            answer.header("www-authenticate").unwrap(),
            format!(r#"Bearer realm="api", error="insufficient_scope", scope="{missing}""#)
        );
        // Refused is refused, whichever layer it was.
        assert_eq!(bench.used(&issued).await, (0, 1));
    }
}

#[tokio::test]
async fn a_key_without_limits_is_told_none_by_any_layer() {
    let bench = Bench::new();
    let key = bench.secret(NewKey::named("x")).await;
    let auth = bench.layer().legacy_limit_headers();
    for app in [nested([&auth, &auth]), nested([&auth, &auth.scopes(["a"])])] {
        let answer = send(&app, bearing(&key)).await;
        let limits = answer
            .headers
            .iter()
            .any(|(name, _)| name.contains("ratelimit"));
        assert!(!limits, "{answer:?}");
    }
}

#[tokio::test]
async fn an_inner_cost_comes_on_top_and_the_answer_has_one_list() {
    let bench = Bench::new();
    let key = NewKey::named("x")
        .limit(limit("burst", 100, 16))
        .limit(limit("daily", 1_000, 1_600));
    let key = bench.secret(key).await;
    let auth = bench.layer();
    let app = nested([&auth, &auth.cost(10), &auth, &auth.cost(5), &auth]);
    let policy = r#""burst";q=100;w=16, "daily";q=1000;w=1600"#;
    let state = r#""burst";r=84;t=16, "daily";r=984;t=1600"#;
    told(&send(&app, bearing(&key)).await, 200, policy, state);
}

#[tokio::test]
async fn an_inner_limit_comes_on_top() {
    let bench = Bench::new();
    let key = bench
        .secret(NewKey::named("x").limit(limit("burst", 9, 16)))
        .await;
    let auth = bench.layer();
    let (outer, inner) = (
        auth.route_limits([limit("all", 8, 16)]),
        auth.route_limits([limit("one", 7, 16)]),
    );
    let answer = send(&nested([&outer, &inner]), bearing(&key)).await;
    told(
        &answer,
        200,
        r#""burst";q=9;w=16, "all";q=8;w=16, "one";q=7;w=16"#,
        r#""burst";r=8;t=16, "all";r=7;t=16, "one";r=6;t=16"#,
    );
}

#[tokio::test]
async fn what_a_layer_has_from_the_one_around_it_is_charged_once() {
    let bench = Bench::new();
    let key = bench
        .secret(NewKey::named("x").limit(limit("burst", 99, 16)))
        .await;
    let auth = bench.layer();
    let outer = auth.cost(5).route_limits([limit("all", 88, 16)]);
    let policy = r#""burst";q=99;w=16, "all";q=88;w=16"#;
    let app = nested([&outer, &outer.scopes([""; 0]), &outer]);
    let answer = send(&app, bearing(&key)).await;
    told(
        &answer,
        200,
        policy,
        r#""burst";r=94;t=16, "all";r=83;t=16"#,
    );
    // A cost of its own comes on top of all, also if it is the same number.
    let app = nested([&outer, &outer.cost(5)]);
    let answer = send(&app, bearing(&key)).await;
    told(
        &answer,
        200,
        policy,
        r#""burst";r=84;t=16, "all";r=73;t=16"#,
    );
}

#[tokio::test]
async fn limits_that_only_look_alike_are_told_apart() {
    let bench = Bench::new();
    let key = bench
        .secret(NewKey::named("x").limit(limit("burst", 9, 16)))
        .await;
    let auth = bench.layer();
    let one = nested([&auth]);
    for _ in 0..4 {
        send(&one, bearing(&key)).await;
    }
    let app = nested([&auth, &auth.route_limits([limit("burst", 9, 16)])]);
    let answer = send(&app, bearing(&key)).await;
    told(
        &answer,
        200,
        r#""burst";q=9;w=16, "burst:route";q=9;w=16"#,
        r#""burst";r=4;t=16, "burst:route";r=8;t=16"#,
    );
}

#[tokio::test]
async fn defaults_of_an_inner_layer_hold_though_the_outer_one_limits_its_route() {
    let bench = Bench::new();
    let key = bench.secret(NewKey::named("x")).await;
    let auth = bench.layer();
    let outer = auth.route_limits([limit("route", 9, 16)]);
    let app = nested([&outer, &auth, &auth.default_limits([limit("usual", 5, 16)])]);
    told(
        &send(&app, bearing(&key)).await,
        200,
        r#""route";q=9;w=16, "usual";q=5;w=16"#,
        r#""route";r=8;t=16, "usual";r=4;t=16"#,
    );
}

#[tokio::test]
async fn an_inner_429_charges_nothing() {
    let bench = Bench::new();
    let issued = bench
        .issue(NewKey::named("x").limit(limit("burst", 9, 16)))
        .await;
    let auth = bench.layer();
    let inner = auth.route_limits([limit("wide", 9, 1_600), limit("tight", 1, 16)]);
    let app = nested([&auth, &inner]);
    let policy = r#""burst";q=9;w=16, "wide";q=9;w=1600, "tight";q=1;w=16"#;
    let request = || bearing(issued.secret().expose());
    let state = r#""burst";r=8;t=16, "wide";r=8;t=1600, "tight";r=0;t=16"#;
    told(&send(&app, request()).await, 200, policy, state);

    bench.clock.advance(SECOND);
    let answer = send(&app, request()).await;
    let state = r#""burst";r=8;t=15, "wide";r=8;t=15, "tight";r=0;t=15"#;
    told(&answer, 429, policy, state);
    assert_eq!(answer.header("retry-after").unwrap(), "15");
    assert!(answer.body.contains(r#""violated-policies":["tight"]"#));
    assert_eq!(answer.header("cache-control").unwrap(), "no-store");
    assert_eq!(bench.used(&issued).await, (1, 1));
}

#[tokio::test]
async fn an_inner_403_tells_the_limits_of_both_layers() {
    let bench = Bench::new();
    let key = bench
        .secret(NewKey::named("x").limit(limit("burst", 9, 16)))
        .await;
    let auth = bench.layer();
    let inner = auth.scopes(["a"]).route_limits([limit("one", 7, 16)]);
    let answer = send(&nested([&auth, &inner]), bearing(&key)).await;
    told(
        &answer,
        403,
        r#""burst";q=9;w=16, "one";q=7;w=16"#,
        r#""burst";r=9;t=0, "one";r=7;t=0"#,
    );
}

/// The units of a limit that the answer says are left.
fn left(answer: &Answer) -> String {
    answer.header("ratelimit").unwrap()
}

#[tokio::test]
async fn what_an_inner_layer_refuses_costs_nothing_of_any_layer() {
    let bench = Bench::new();
    let key = NewKey::named("x")
        .owner("acme")
        .environment("test")
        .limit(limit("burst", 9, 16));
    let issued = bench.issue(key).await;
    let request = || bearing(issued.secret().expose());
    let auth = bench.layer();
    let route = |name| auth.route_limits([limit(name, 9, 16)]);
    let (outer, middle) = (route("outer"), route("middle").cost(2));
    for (inner, status) in [
        (auth.environments(["live"]), 401),
        (auth.scopes(["a"]), 403),
        (auth.cost(7), 429),
        (auth.cost(7).limit_by(LimitBy::Owner), 200),
        (auth.cost(10).limit_by(LimitBy::Owner), 429),
    ] {
        let app = nested([&outer, &middle, &inner]);
        assert_eq!(send(&app, request()).await.status, status);
        // The three limits of the two layers, and of this one 3 + 2 + 7 where it let it through.
        let answer = send(&nested([&outer, &middle]), request()).await;
        let after = if status == 200 {
            r#""burst";r=3;t=16, "outer";r=7;t=16, "middle";r=5;t=16"#
        } else {
            r#""burst";r=6;t=16, "outer";r=8;t=16, "middle";r=7;t=16"#
        };
        assert_eq!((status, left(&answer)), (status, after.to_owned()));
        bench.clock.advance(18 * SECOND);
    }
    let (allowed, refused) = bench.used(&issued).await;
    assert_eq!((allowed, refused), (6, 4));
}

#[tokio::test]
async fn what_nested_layers_ask_of_one_limit_is_one_cost() {
    let bench = Bench::new();
    let key = bench
        .secret(NewKey::named("x").limit(limit("burst", 9, 16)))
        .await;
    let auth = bench.layer();
    let policy = r#""burst";q=9;w=16"#;
    // Ten of nine: no waiting helps.
    let app = nested([&auth, &auth.cost(9)]);
    let answer = send(&app, bearing(&key)).await;
    told(&answer, 429, policy, r#""burst";r=9;t=0"#);
    assert_eq!(answer.header("retry-after"), None);
    // Nine of nine, when one is used: that one has to leave.
    send(&nested([&auth]), bearing(&key)).await;
    bench.clock.advance(SECOND);
    let app = nested([&auth, &auth.cost(8)]);
    let answer = send(&app, bearing(&key)).await;
    told(&answer, 429, policy, r#""burst";r=8;t=15"#);
    assert_eq!(answer.header("retry-after").unwrap(), "15");
    bench.clock.advance(15 * SECOND);
    told(
        &send(&app, bearing(&key)).await,
        200,
        policy,
        r#""burst";r=0;t=16"#,
    );
}

#[tokio::test]
async fn a_refusal_is_taken_back_once_though_it_was_asked_for_twice() {
    let bench = Bench::new();
    let issued = bench
        .issue(NewKey::named("x").limit(limit("burst", 9, 16)))
        .await;
    let auth = bench.layer();
    // Something between the layers that tries again what was refused.
    let inner = nested([&auth.scopes(["a"])]);
    let again = tower::service_fn(move |request: Request| {
        let mut inner = inner.clone();
        async move {
            let mut second = bearing("");
            *second.headers_mut() = request.headers().clone();
            *second.extensions_mut() = request.extensions().clone();
            inner.call(request).await?;
            inner.call(second).await
        }
    });
    let app = auth.layer(again);
    let request = || bearing(issued.secret().expose());
    for _ in 0..3 {
        send(&nested([&auth]), request()).await;
    }
    for _ in 0..2 {
        let answer = send(&app, request()).await;
        told(&answer, 403, r#""burst";q=9;w=16"#, r#""burst";r=6;t=16"#);
    }
    assert_eq!(bench.used(&issued).await, (3, 2));
}

#[tokio::test]
async fn an_inner_401_is_the_answer_that_any_bad_key_gets() {
    let bench = Bench::new();
    let auth = bench.layer();
    let app = nested([&auth.accept_prefixes(["pk"]), &auth.environments(["live"])]);
    let limited = || NewKey::named("x").limit(limit("burst", 9, 16));
    let of_test = bench.secret(limited().environment("test")).await;
    let public = bench.secret(limited().prefix("pk")).await;
    let unknown = send(&app, get("/", &[("x-api-key", b"x")])).await;
    assert_eq!((unknown.status, &*unknown.code()), (401, "invalid_key"));
    for key in [&of_test, &public] {
        let answer = send(&app, get("/", &[("x-api-key", key.as_bytes())])).await;
        assert_eq!(answer, unknown);
        assert_eq!(send(&app, bearing(key)).await, unknown);
    }
}

#[tokio::test]
async fn a_hook_on_an_inner_layer_loses_no_limits() {
    let bench = Bench::new();
    let key = bench
        .secret(NewKey::named("x").limit(limit("burst", 9, 16)))
        .await;
    let auth = bench.layer();
    let inner = auth.cost(10).on_denial(|_, _, answer| {
        let mut fresh = http::Response::new("own".into());
        *fresh.status_mut() = answer.status();
        fresh
    });
    let answer = send(&nested([&auth, &inner]), bearing(&key)).await;
    told(&answer, 429, r#""burst";q=9;w=16"#, r#""burst";r=9;t=0"#);
    assert_eq!(answer.body, "own");
}

#[tokio::test]
async fn an_outer_layer_that_is_optional_does_not_open_an_inner_one() {
    let bench = Bench::new();
    let key = bench.secret(NewKey::named("x")).await;
    let auth = bench.layer();
    let app = nested([&auth.optional(), &auth]);
    let answer = send(&app, get("/", &[])).await;
    assert_eq!(answer.code(), "missing_key");
    assert_eq!(send(&app, bearing(&key)).await.body, "x");
    let app = nested([&auth, &auth.optional()]);
    assert_eq!(send(&app, get("/", &[])).await.status, 401);
    assert_eq!(send(&app, bearing(&key)).await.body, "x");
}

#[tokio::test]
async fn an_inner_layer_that_passes_preflights_keeps_the_outer_ones_principal() {
    let bench = Bench::new();
    let key = bench.secret(NewKey::named("x")).await;
    let auth = bench.layer();
    let bearer = format!("Bearer {key}");
    let lines: &[(&str, &[u8])] = &[
        ("origin", b"https://example.com"),
        ("access-control-request-method", b"PUT"),
        ("authorization", bearer.as_bytes()),
    ];
    let mut preflight = get("/", lines);
    *preflight.method_mut() = http::Method::OPTIONS;
    let app = nested([&auth, &auth.allow_preflight()]);
    assert_eq!(send(&app, preflight).await.body, "x");
}

/// Other keys, which come in a header of their own.
async fn others() -> (ApiKeyLayer, String) {
    let keys = ApiKeys::builder(MemoryStore::new()).build();
    let key = NewKey::named("foreign").limit(RateLimit::per_minute(5));
    let issued = keys.issue(key).await.unwrap();
    let header = HeaderName::from_static("x-other-key");
    let layer = ApiKeyLayer::new(&keys).sources(CredentialSources::none().header(header));
    (layer, issued.secret().expose().to_owned())
}

#[tokio::test]
async fn other_keys_open_nothing() {
    let bench = Bench::new();
    let ours = bench.secret(NewKey::named("ours")).await;
    let (foreign, theirs) = others().await;
    let own = ("x-api-key", ours.as_bytes());
    let other = ("x-other-key", theirs.as_bytes());
    let auth = bench.layer();

    let app = nested([&foreign, &auth]);
    assert_eq!(send(&app, get("/", &[other])).await.code(), "missing_key");
    assert_eq!(send(&app, get("/", &[own])).await.code(), "missing_key");
    assert_eq!(send(&app, get("/", &[own, other])).await.body, "ours");
    let app = nested([&auth, &foreign]);
    assert_eq!(send(&app, get("/", &[own, other])).await.body, "foreign");

    // Not even where no key is needed: the handler would take it for one of ours.
    let app = nested([&foreign, &auth.optional()]);
    assert_eq!(send(&app, get("/", &[other])).await.body, "nobody");
    let app = nested([&foreign, &auth.allow_preflight()]);
    let lines: &[(&str, &[u8])] = &[
        ("origin", b"https://example.com"),
        ("access-control-request-method", b"PUT"),
        other,
    ];
    let mut preflight = get("/", lines);
    *preflight.method_mut() = http::Method::OPTIONS;
    assert_eq!(send(&app, preflight).await.body, "nobody");
}

#[tokio::test]
async fn layers_of_two_services_each_tell_their_limits() {
    let bench = Bench::new();
    let ours = bench
        .secret(NewKey::named("ours").limit(limit("burst", 9, 16)))
        .await;
    let (foreign, theirs) = others().await;
    let auth = bench.layer();
    let lines = [
        ("x-api-key", ours.as_bytes()),
        ("x-other-key", theirs.as_bytes()),
    ];
    let answer = send(&nested([&foreign, &auth, &auth.cost(2)]), get("/", &lines)).await;
    assert_eq!(answer.status, 200);
    let policy = answer.header("ratelimit-policy").unwrap();
    assert_eq!(policy, r#""burst";q=9;w=16, "minute";q=5;w=60"#);
    let state = answer.header("ratelimit").unwrap();
    assert!(
        state.starts_with(r#""burst";r=6;t=16, "minute";r=4;t="#),
        "{state}"
    );
    assert_eq!(answer.header("vary").unwrap(), "X-API-Key, x-other-key");
}

#[tokio::test]
async fn a_handler_in_an_inner_layer_sees_one_principal() {
    let bench = Bench::new();
    let key = bench.secret(NewKey::named("x").scopes(["a"])).await;
    let auth = bench.layer();
    let handler = async |request: Request| {
        let principal = request.extensions().get::<KeyPrincipal>().unwrap();
        principal.require("a").is_ok().to_string()
    };
    let app = Router::new()
        .route("/", on_get(handler).layer(auth.scopes(["a"])))
        .layer(auth);
    assert_eq!(send(&app, bearing(&key)).await.body, "true");
}

#[tokio::test]
async fn what_is_wrong_with_a_layer_is_said_by_name_when_it_is_built() {
    let bench = Bench::new();
    let auth = bench.layer();
    for scope in ["orders:", "", "a b", "orders:*", "*"] {
        let message = panic_message(|| drop(auth.scopes(["fine", scope])));
        assert!(message.contains(&format!("{scope:?}")), "{message}");
    }
    let message = panic_message(|| drop(auth.accept_prefixes(["pk", "rk"])));
    assert!(message.contains(r#""rk""#), "{message}");
    let message = panic_message(|| drop(auth.environments(["live", "staging"])));
    assert!(message.contains(r#""staging""#), "{message}");
    for realm in ["a\"b", "a\\b", "ä", "a\nb"] {
        let message = panic_message(|| drop(auth.realm(realm)));
        assert!(message.contains(&format!("{realm:?}")), "{message}");
    }
    let twice = [limit("a", 1, 1), limit("a", 2, 2)];
    let message = panic_message(|| drop(auth.route_limits(twice)));
    assert!(message.contains("same name"), "{message}");
}

#[tokio::test]
async fn a_limit_that_counts_for_the_owner_is_another_one() {
    let bench = Bench::new();
    let auth = bench.layer().route_limits([limit("exports", 3, 60)]);
    let app = nested([&auth, &auth.limit_by(LimitBy::Owner)]);
    let mut admitted = 0;
    for _ in 0..5 {
        let key = bench.secret(NewKey::named("x").owner("acme")).await;
        for _ in 0..3 {
            let answer = send(&app, bearing(&key)).await;
            admitted += u32::from(answer.status == 200);
        }
    }
    assert_eq!(admitted, 3);
}
