//! Changes of a budget, and requests that come to nothing.

use std::time::Duration;

use axum::Router;
use axum::routing::get as on_get;
use futures_util::FutureExt;
use tower_api_key::limit::{OutagePolicy, RedisLimiter};
use tower_api_key::{
    ApiKeyLayer, ApiKeys, Attempt, Credits, DenialKind, DenialReason, EventAction, KeyErrorKind,
    KeyUpdate, NewKey, Refill, Requirements,
};

use super::{admits, issue, left, rush, spend, stored, with};
use crate::core_support::{Bench, SHUTDOWN, polled_in_a_shutdown, refusal, settle};
use crate::redis_server::shared_url;
use crate::support::{bearing, limit, send};

#[tokio::test]
async fn a_top_up_works_at_once() {
    let bench = Bench::new();
    let (id, text) = issue(&bench.keys, with(1)).await;
    assert!(admits(&bench.keys, &text, 1).await);
    assert!(!admits(&bench.keys, &text, 1).await);
    let update = |credits| KeyUpdate::new().credits(Credits::new(credits));
    for credits in [2, 2, 1] {
        bench.keys.update(id, update(credits)).await.unwrap();
        for _ in 0..credits {
            assert!(admits(&bench.keys, &text, 1).await);
        }
        assert!(!admits(&bench.keys, &text, 1).await);
    }
    let events = bench.keys.events(id, None, 10).await.unwrap().events;
    let actions: Vec<_> = events.iter().map(|event| event.action).collect();
    let updated = EventAction::Updated;
    assert_eq!(actions, [updated, updated, updated, EventAction::Issued]);
}

#[tokio::test]
async fn a_top_up_elsewhere_works_with_the_bus() {
    let bus = tower_api_key::InProcessBus::new();
    let bench = Bench::built(|builder| builder.bus(bus.clone()));
    let other = ApiKeys::builder(bench.store.clone())
        .clock(bench.clock.clone())
        .bus(bus)
        .build();
    let (id, text) = issue(&bench.keys, with(0)).await;
    settle().await;
    for keys in [&bench.keys, &other] {
        assert!(!admits(keys, &text, 1).await);
    }
    let topped_up = KeyUpdate::new().credits(Credits::new(100));
    bench.keys.update(id, topped_up).await.unwrap();
    settle().await;
    for keys in [&bench.keys, &other] {
        assert!(admits(keys, &text, 1).await);
    }
}

#[tokio::test]
async fn what_was_leased_of_an_older_budget_is_void() {
    let bench = Bench::new();
    let (id, text) = issue(&bench.keys, with(1_000)).await;
    for _ in 0..20 {
        assert!(admits(&bench.keys, &text, 1).await);
    }
    assert!(stored(&bench, id).await < 980);
    let nothing = KeyUpdate::new().credits(Credits::new(0));
    bench.keys.update(id, nothing).await.unwrap();
    assert!(!admits(&bench.keys, &text, 1).await);
    bench.keys.shutdown(SHUTDOWN).await.unwrap();
    assert_eq!(stored(&bench, id).await, 0);
}

#[tokio::test]
async fn a_grant_of_an_older_budget_that_comes_late_is_void() {
    let bench = Bench::new();
    let (id, text) = issue(&bench.keys, with(100)).await;
    let writes = bench.store.writes();
    bench.store.hold_writes(true);
    let first = bench.begin_cost(&text, 3);
    bench.store.written(writes + 1).await;
    let anew = KeyUpdate::new().credits(Credits::new(50));
    bench.elsewhere().update(id, anew).await.unwrap();
    bench.keys.verifier().invalidate(id);
    // It looks the key up, and waits for the answer to the first.
    let second = bench.begin_cost(&text, 2);
    settle().await;
    bench.store.hold_writes(false);
    for request in [first, second] {
        assert!(request.await.unwrap().is_ok());
    }
    assert_eq!(left(&bench.keys, id).await, 45);
}

#[tokio::test]
async fn what_was_taken_of_an_older_budget_is_not_taken_back_into_a_newer() {
    let bench = Bench::new();
    let (id, text) = issue(&bench.keys, with(100)).await;
    let auth = ApiKeyLayer::new(&bench.keys);
    let (keys, other) = (bench.keys.clone(), text.clone());
    let set_anew = axum::middleware::from_fn(move |request, next: axum::middleware::Next| {
        let (keys, text) = (keys.clone(), other.clone());
        async move {
            let anew = KeyUpdate::new().credits(Credits::new(50));
            keys.update(id, anew).await.unwrap();
            assert!(admits(&keys, &text, 1).await);
            next.run(request).await
        }
    });
    let app = Router::new().route("/", on_get(|| async {}));
    let app = app.layer(auth.scopes(["a"])).layer(set_anew);
    let answer = send(&app.layer(auth.cost(9)), bearing(&text)).await;
    assert_eq!(answer.status, 403);
    assert_eq!(left(&bench.keys, id).await, 49);
}

#[tokio::test]
async fn other_changes_leave_the_budget_alone() {
    let bench = Bench::new();
    let (id, text) = issue(&bench.keys, with(10)).await;
    assert!(admits(&bench.keys, &text, 4).await);
    bench
        .keys
        .update(id, KeyUpdate::new().name("renamed"))
        .await
        .unwrap();
    bench.keys.rotate(id, Duration::from_mins(1)).await.unwrap();
    bench.keys.disable(id).await.unwrap();
    bench.keys.enable(id).await.unwrap();
    assert_eq!(left(&bench.keys, id).await, 6);
    assert!(admits(&bench.keys, &text, 6).await);
    assert!(!admits(&bench.keys, &text, 1).await);
}

#[tokio::test]
async fn all_secrets_of_a_key_have_one_budget() {
    let bench = Bench::new();
    let (id, text) = issue(&bench.keys, with(10)).await;
    let rotated = bench.keys.rotate(id, Duration::from_mins(1)).await.unwrap();
    let second = super::text(&rotated);
    for number in 0..12 {
        let text = if number % 2 == 0 { &text } else { second };
        assert_eq!(admits(&bench.keys, text, 1).await, number < 10);
    }
}

#[tokio::test]
async fn a_budget_can_be_given_and_taken_away() {
    let bench = Bench::new();
    let (id, text) = issue(&bench.keys, NewKey::named("x")).await;
    assert_eq!(bench.keys.credits(id).await.unwrap(), None);
    for _ in 0..3 {
        assert!(admits(&bench.keys, &text, 1_000).await);
    }
    let given = KeyUpdate::new().credits(Credits::new(1));
    bench.keys.update(id, given).await.unwrap();
    assert!(admits(&bench.keys, &text, 1).await);
    assert!(!admits(&bench.keys, &text, 1).await);
    let taken = KeyUpdate::new().credits(None);
    bench.keys.update(id, taken).await.unwrap();
    assert!(admits(&bench.keys, &text, 1_000).await);
    assert_eq!(bench.keys.credits(id).await.unwrap(), None);
}

#[tokio::test]
async fn a_budget_taken_away_unheard_is_noticed_at_the_next_question() {
    let bench = Bench::new();
    let (id, text) = issue(&bench.keys, with(1)).await;
    assert!(admits(&bench.keys, &text, 1).await);
    let taken = KeyUpdate::new().credits(None);
    // There is no bus between the two.
    bench.elsewhere().update(id, taken).await.unwrap();
    let denial = spend(&bench.keys, &text, 1).await.unwrap_err();
    assert_eq!(denial.kind(), DenialKind::Unavailable);
    assert!(admits(&bench.keys, &text, 1_000).await);
}

#[tokio::test]
async fn budgets_out_of_range_are_refused_by_name() {
    let bench = Bench::new();
    let over = Credits::MAX + 1;
    for (credits, field) in [
        (Credits::new(over), "credits.remaining"),
        (Credits::refilled(Refill::daily(0)), "credits.refill.amount"),
        (
            Credits::refilled(Refill::monthly(over)).remaining(0),
            "credits.refill.amount",
        ),
    ] {
        let new = NewKey::named("x").credits(credits);
        let error = bench.keys.issue(new).await.unwrap_err();
        assert_eq!(error.kind(), KeyErrorKind::Invalid);
        assert_eq!(error.field(), Some(field));
    }
    let most = Credits::refilled(Refill::daily(Credits::MAX));
    let (_, text) = issue(&bench.keys, NewKey::named("x").credits(most)).await;
    assert!(admits(&bench.keys, &text, Credits::MAX).await);
}

#[tokio::test]
async fn refused_requests_take_no_credits() {
    let bench = Bench::new();
    let key = with(10).limit(limit("burst", 2, 16));
    let (id, text) = issue(&bench.keys, key).await;
    let verify = async |needs: Requirements| {
        let attempt = Attempt::new(&text);
        bench.keys.verifier().verify(attempt, &needs).await
    };
    let scoped = verify(Requirements::new().scopes(["a"])).await;
    assert_eq!(refusal(scoped), DenialReason::Scope);
    let of_test = verify(Requirements::new().environments(["test"])).await;
    assert_eq!(refusal(of_test), DenialReason::Environment);
    let costly = verify(Requirements::new().cost(3)).await;
    assert_eq!(refusal(costly), DenialReason::Cost);
    assert_eq!(left(&bench.keys, id).await, 10);
    for _ in 0..2 {
        assert!(admits(&bench.keys, &text, 1).await);
    }
    for _ in 0..20 {
        let denied = spend(&bench.keys, &text, 1).await;
        assert_eq!(refusal(denied), DenialReason::Quota);
    }
    assert_eq!(left(&bench.keys, id).await, 8);
}

#[tokio::test]
async fn too_few_credits_charge_no_limit() {
    let bench = Bench::new();
    let key = with(1).limit(limit("burst", 100, 16));
    let (_, text) = issue(&bench.keys, key).await;
    assert!(admits(&bench.keys, &text, 1).await);
    for _ in 0..10 {
        let denial = spend(&bench.keys, &text, 1).await.unwrap_err();
        assert_eq!(denial.kind(), DenialKind::CreditsExhausted);
        let (_, status) = denial.limits().iter().next().unwrap();
        assert_eq!(status.remaining(), 99);
    }
}

#[tokio::test]
async fn a_key_that_ends_while_it_waits_is_not_charged() {
    let bench = Bench::new();
    let end = bench.keys.now() + jiff::SignedDuration::from_secs(1);
    let (id, text) = issue(&bench.keys, with(10).expires_at(end)).await;
    let writes = bench.store.writes();
    bench.store.hold_writes(true);
    let request = bench.begin_cost(&text, 3);
    bench.store.written(writes + 1).await;
    bench.clock.advance(Duration::from_secs(1));
    bench.store.hold_writes(false);
    assert_eq!(refusal(request.await.unwrap()), DenialReason::Expired);
    assert_eq!(left(&bench.keys, id).await, 10);
}

#[tokio::test]
async fn a_request_that_goes_away_while_a_limit_is_asked_gives_back() {
    let limiter = RedisLimiter::builder(&shared_url()).on_outage(OutagePolicy::Deny);
    let limiter = limiter.connect().await.unwrap();
    let bench = Bench::built(|builder| builder.redis_limiter(limiter));
    let key = with(1_000).limit(limit("hour", 1_000, 3_600));
    let (id, text) = issue(&bench.keys, key).await;
    while rush(&bench.keys, &text, 1) == 0 && spend(&bench.keys, &text, 1).await.is_ok() {
        let leased = left(&bench.keys, id).await - stored(&bench, id).await;
        if leased > 20 {
            break;
        }
    }
    let before = left(&bench.keys, id).await;
    // Each is on its way to Redis when it is dropped.
    for _ in 0..10 {
        assert!(spend(&bench.keys, &text, 1).now_or_never().is_none());
    }
    assert_eq!(left(&bench.keys, id).await, before);
}

fn nested(layers: [&ApiKeyLayer; 2]) -> Router {
    let [outer, inner] = layers.map(Clone::clone);
    let app = Router::new().route("/", on_get(|| async {}));
    app.layer(inner).layer(outer)
}

#[tokio::test]
async fn nested_layers_charge_once_and_their_own_cost_on_top() {
    let bench = Bench::new();
    let auth = ApiKeyLayer::new(&bench.keys);
    let five = auth.cost(5);
    for (app, taken) in [
        (nested([&auth, &auth]), 1),
        (nested([&five, &five]), 5),
        (nested([&five, &auth]), 5),
        (nested([&auth, &five]), 6),
        (nested([&five, &auth.cost(2)]), 7),
        (nested([&auth.cost(0), &auth]), 0),
    ] {
        let (id, text) = issue(&bench.keys, with(100)).await;
        assert_eq!(send(&app, bearing(&text)).await.status, 200);
        assert_eq!(left(&bench.keys, id).await, 100 - taken);
    }
}

#[tokio::test]
async fn what_a_nested_layer_refuses_costs_no_credits() {
    let bench = Bench::new();
    let auth = ApiKeyLayer::new(&bench.keys);
    let narrow = auth.route_limits([limit("route", 1, 16)]).cost(2);
    for (inner, status) in [
        (auth.scopes(["a"]), 403),
        (auth.environments(["test"]), 401),
        (narrow, 429),
        (auth.cost(100), 429),
    ] {
        let (id, text) = issue(&bench.keys, with(100)).await;
        let app = nested([&auth.cost(3), &inner]);
        let answer = send(&app, bearing(&text)).await;
        assert_eq!(answer.status, status, "{answer:?}");
        assert_eq!(left(&bench.keys, id).await, 100, "{answer:?}");
    }
}

/// As with lookups, nobody is left to wait for a call that cannot begin any more.
#[test]
fn a_call_that_begins_while_the_runtime_shuts_down_fails() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (bench, text) = runtime.block_on(async {
        let bench = Bench::new();
        let (_, text) = issue(&bench.keys, with(10)).await;
        assert!(admits(&bench.keys, &text, 1).await);
        (bench, text)
    });
    let (keys, same) = (bench.keys.clone(), text.clone());
    let ended = tokio::runtime::Runtime::new().unwrap();
    let spending = async move { spend(&keys, &same, 5).await };
    let denial = polled_in_a_shutdown(ended, spending).unwrap_err();
    assert_eq!(denial.kind(), DenialKind::Unavailable);
    // Nothing was taken, and the next request makes a call of its own.
    assert!(runtime.block_on(admits(&bench.keys, &text, 9)));
}
