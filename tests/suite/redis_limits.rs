//! Limits that several instances share over a real Redis, through the whole middleware.

use std::time::Duration;

use axum::Router;
use axum::routing::get as on_get;
use tower_api_key::limit::{LimiterOutage, OutagePolicy, RedisLimiter};
use tower_api_key::testing::ManualClock;
use tower_api_key::{
    ApiKeyLayer, ApiKeys, Attempt, DenialKind, DenialReason, Issued, MemoryStore, NewKey,
    Requirements,
};

use crate::core_support::{SECOND, settle, verify};
use crate::redis_server::{RedisServer, shared_url};
use crate::support::{Bench, bearing, limit, send};

/// Long enough for a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(10);

async fn limiter(url: &str, policy: OutagePolicy) -> RedisLimiter {
    let limiter = RedisLimiter::builder(url).deadline(PATIENCE);
    limiter.on_outage(policy).connect().await.unwrap()
}

/// An instance of a service, with a limiter and a cache of its own.
async fn instance(memory: &MemoryStore) -> ApiKeys {
    let limiter = limiter(&shared_url(), OutagePolicy::Deny).await;
    ApiKeys::builder(memory.clone())
        .redis_limiter(limiter)
        .build()
}

async fn bench_on(server: &RedisServer, policy: OutagePolicy) -> Bench {
    let limiter = limiter(&server.url(), policy).await;
    Bench::with(|builder| builder.redis_limiter(limiter))
}

fn protected(layer: &ApiKeyLayer) -> Router {
    Router::new().route("/", on_get(|| async {}).layer(layer.clone()))
}

fn with_quota(quota: u64) -> NewKey {
    NewKey::named("x")
        .scopes(["orders:read"])
        .limit(limit("hour", quota, 3_600))
}

fn text(issued: &Issued) -> &str {
    issued.secret().expose()
}

#[tokio::test]
async fn instances_admit_one_quota_together_and_tell_what_is_left() {
    let memory = MemoryStore::new();
    let (one, other) = (instance(&memory).await, instance(&memory).await);
    let issued = one.issue(with_quota(5)).await.unwrap();
    let apps = [&one, &other].map(|keys| protected(&ApiKeyLayer::new(keys)));
    for turn in 0..5 {
        let answer = send(&apps[turn % 2], bearing(text(&issued))).await;
        assert_eq!(answer.status, 200);
        let told = answer.header("ratelimit").unwrap();
        assert!(
            told.starts_with(&format!("\"hour\";r={};t=", 4 - turn)),
            "{told}"
        );
    }
    for app in &apps {
        let answer = send(app, bearing(text(&issued))).await;
        assert_eq!((answer.status, &*answer.code()), (429, "rate_limited"));
        let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
        assert!((3_500..=3_600).contains(&wait), "{wait}");
    }
}

/// A fleet that is started, or restarted, in an outage of Redis.
#[tokio::test]
async fn an_instance_that_starts_while_redis_is_down_finds_it_later() {
    let mut server = RedisServer::start().await;
    server.kill();
    let bench = bench_on(&server, OutagePolicy::Deny).await;
    let issued = bench.issue(with_quota(5)).await;
    let app = protected(&bench.layer());
    for _ in 0..20 {
        // Without Redis this policy lets nothing through.
        assert_eq!(send(&app, bearing(text(&issued))).await.status, 503);
        bench.clock.advance(SECOND);
    }
    server.restart().await;
    let mut tries = 0;
    while send(&app, bearing(text(&issued))).await.status != 200 {
        tries += 1;
        assert!(tries < 1_000, "it does not find Redis");
        tokio::time::sleep(Duration::from_millis(20)).await;
        bench.clock.advance(SECOND);
    }
}

#[tokio::test]
async fn what_can_never_work_is_an_error_at_once() {
    let server = RedisServer::start().await;
    let wrong_user = shared_url().replacen("://", "://nobody:wrong@", 1);
    for url in [
        "http://localhost/",
        "redis://",
        "redis://localhost/x",
        &wrong_user,
    ] {
        let connected = RedisLimiter::builder(url).connect().await;
        assert!(connected.is_err(), "{url}");
    }
    let braces = RedisLimiter::builder(&server.url()).key_prefix("{}");
    assert!(braces.connect().await.is_err());
}

/// They go by the clock of Redis, whatever their own ones say.
#[tokio::test]
async fn instances_whose_clocks_are_an_hour_apart_admit_one_quota() {
    let memory = MemoryStore::new();
    let (clock, behind) = (ManualClock::default(), ManualClock::default());
    clock.advance(SECOND * 3_600);
    let mut apps = Vec::new();
    for clock in [&clock, &behind] {
        let limiter = limiter(&shared_url(), OutagePolicy::Deny).await;
        let builder = ApiKeys::builder(memory.clone()).clock(clock.clone());
        apps.push(builder.redis_limiter(limiter).build());
    }
    let issued = apps[0].issue(with_quota(10)).await.unwrap();
    let mut admitted = 0;
    for turn in 0..40 {
        let verified = verify(apps[turn % 2].verifier(), text(&issued)).await;
        admitted += u32::from(verified.is_ok());
        // An hour later on one clock, the whole window has passed by it.
        if turn == 20 {
            clock.advance(SECOND * 3_900);
        }
    }
    assert_eq!(admitted, 10);
}

#[tokio::test]
async fn what_is_refused_for_its_scope_asks_nobody_and_costs_nothing() {
    let limiter = limiter(&shared_url(), OutagePolicy::Deny).await;
    let bench = Bench::with(|builder| builder.redis_limiter(limiter.clone()));
    let issued = bench.issue(with_quota(2)).await;
    let lacking = protected(&bench.layer().scopes(["orders:write"]));
    let answer = send(&lacking, bearing(text(&issued))).await;
    assert_eq!((answer.status, limiter.calls()), (403, 0));
    assert_eq!(answer.header("ratelimit").unwrap(), "\"hour\";r=2;t=0");
    let granted = protected(&bench.layer());
    let answer = send(&granted, bearing(text(&issued))).await;
    assert_eq!((answer.status, limiter.calls()), (200, 1));
    let answer = send(&lacking, bearing(text(&issued))).await;
    let told = answer.header("ratelimit").unwrap();
    assert!(told.starts_with("\"hour\";r=1;t="), "{told}");
}

#[tokio::test]
async fn what_an_inner_layer_refuses_is_taken_back_from_redis() {
    let memory = MemoryStore::new();
    let (here, there) = (instance(&memory).await, instance(&memory).await);
    let issued = here.issue(with_quota(2)).await.unwrap();
    let auth = ApiKeyLayer::new(&here);
    let app = Router::new()
        .fallback(|| async {})
        .layer(auth.scopes(["orders:write"]))
        .layer(auth);
    for _ in 0..5 {
        assert_eq!(send(&app, bearing(text(&issued))).await.status, 403);
    }
    // Not waited for, so it takes a moment until another instance sees the last of it.
    let both = || async {
        let needs = Requirements::new().cost(2);
        let attempt = Attempt::new(text(&issued));
        there.verifier().verify(attempt, &needs).await.is_ok()
    };
    let until = tokio::time::Instant::now() + PATIENCE;
    while !both().await {
        assert!(tokio::time::Instant::now() < until, "it stays charged");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn an_inner_layer_asks_for_limits_of_its_own() {
    let memory = MemoryStore::new();
    let keys = instance(&memory).await;
    let issued = keys.issue(with_quota(100)).await.unwrap();
    let auth = ApiKeyLayer::new(&keys);
    // Whose name no other run of this test has.
    let name = format!("route-{}", std::process::id());
    let route = auth.route_limits([limit(&name, 2, 3_600)]);
    let app = Router::new().fallback(|| async {}).layer(route).layer(auth);
    let mut statuses = [0; 3];
    for status in &mut statuses {
        *status = send(&app, bearing(text(&issued))).await.status;
    }
    assert_eq!(statuses, [200, 200, 429]);
}

#[tokio::test]
async fn without_redis_requests_are_unavailable_where_the_policy_denies() {
    let mut server = RedisServer::start().await;
    let bench = bench_on(&server, OutagePolicy::Deny).await;
    let issued = bench.issue(with_quota(100)).await;
    let app = protected(&bench.layer());
    assert_eq!(send(&app, bearing(text(&issued))).await.status, 200);
    server.kill();
    let answer = send(&app, bearing(text(&issued))).await;
    assert_eq!((answer.status, &*answer.code()), (503, "unavailable"));
    assert_eq!(answer.header("retry-after").as_deref(), Some("1"));
    let policy = answer.header("ratelimit-policy").unwrap();
    assert_eq!(policy, "\"hour\";q=100;w=3600", "it is a verified key's");
    let denial = verify(bench.keys.verifier(), text(&issued))
        .await
        .unwrap_err();
    assert_eq!(denial.kind(), DenialKind::Unavailable);
    assert_eq!(denial.reason(), DenialReason::Limiter);
    assert_eq!(denial.key_id(), Some(issued.key().record.id));
    let source = std::error::Error::source(&denial).unwrap();
    assert!(source.is::<LimiterOutage>(), "{source}");
    // A key without limits needs no limiter.
    let free = bench.issue(NewKey::named("free")).await;
    assert_eq!(send(&app, bearing(text(&free))).await.status, 200);
    assert_eq!(bench.used(&issued).await, (1, 2));
}

#[tokio::test]
async fn without_redis_each_instance_admits_its_share() {
    let mut server = RedisServer::start().await;
    let bench = bench_on(&server, OutagePolicy::Local { percent: 20 }).await;
    let issued = bench.issue(with_quota(100)).await;
    server.kill();
    let app = protected(&bench.layer());
    let mut admitted = 0;
    for _ in 0..50 {
        let status = send(&app, bearing(text(&issued))).await.status;
        assert!([200, 429].contains(&status), "{status}");
        admitted += u32::from(status == 200);
    }
    assert_eq!(admitted, 20);
}

/// A limit of a day, and an outage of a second.
#[tokio::test]
async fn an_outage_tells_to_wait_a_second_unless_the_quota_was_used_up_before() {
    let mut server = RedisServer::start().await;
    let bench = bench_on(&server, OutagePolicy::Local { percent: 20 }).await;
    let key = || NewKey::named("x").limit(limit("day", 10, 86_400));
    let (with_room, used_up) = (bench.issue(key()).await, bench.issue(key()).await);
    let app = protected(&bench.layer());
    for (issued, requests) in [(&with_room, 9), (&used_up, 10)] {
        for _ in 0..requests {
            assert_eq!(send(&app, bearing(text(issued))).await.status, 200);
        }
    }
    server.kill();
    // Longer than a denial is repeated without asking.
    bench.clock.advance(SECOND * 60);
    let retry = async |issued| {
        let answer = send(&app, bearing(text(issued))).await;
        assert_eq!(answer.status, 429);
        let state = answer.header("ratelimit").unwrap();
        let retry: u64 = answer.header("retry-after").unwrap().parse().unwrap();
        let reset: u64 = state.rsplit('=').next().unwrap().parse().unwrap();
        assert!(reset <= retry, "{state}, and to retry after {retry}");
        retry
    };
    assert_eq!(retry(&with_room).await, 1);
    let wait = retry(&used_up).await;
    assert!((86_200..=86_340).contains(&wait), "{wait}");
}

/// A key that ends while Redis thinks is refused, and has cost nothing.
#[tokio::test]
async fn a_key_that_ends_while_redis_is_asked_is_refused() {
    let server = RedisServer::start().await;
    let bench = bench_on(&server, OutagePolicy::Deny).await;
    let ends = bench.keys.now() + SECOND;
    let issued = bench.issue(with_quota(1).expires_at(ends)).await;
    let free = Requirements::new().cost(0);
    let attempt = Attempt::new(text(&issued));
    assert!(bench.keys.verifier().verify(attempt, &free).await.is_ok());
    server.hang(true);
    let (verifier, secret) = (bench.keys.verifier().clone(), text(&issued).to_owned());
    let asked = tokio::spawn(async move { verify(&verifier, &secret).await });
    settle().await;
    assert!(!asked.is_finished(), "it waits for Redis");
    bench.clock.advance(SECOND);
    server.hang(false);
    let denial = asked.await.unwrap().unwrap_err();
    assert_eq!(denial.reason(), DenialReason::Expired);
    bench.clock.set_wall(ends - SECOND);
    verify(bench.keys.verifier(), text(&issued)).await.unwrap();
}
