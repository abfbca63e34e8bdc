//! What an instance leases, spends and gives back.

use std::time::Duration;

use futures_util::future::join_all;
use tower_api_key::{DenialKind, DenialReason, NewKey, Verifier};

use super::{admits, issue, left, spend, stored, with};
use crate::core_support::{Bench, NANOSECOND, SECOND, SHUTDOWN, almost, settle};

#[tokio::test]
async fn every_credit_is_spent_and_none_twice() {
    let bench = Bench::new();
    let (id, text) = issue(&bench.keys, with(1_000)).await;
    for number in 0..1_100 {
        assert_eq!(admits(&bench.keys, &text, 1).await, number < 1_000);
    }
    assert_eq!(left(&bench.keys, id).await, 0);
}

#[tokio::test]
async fn a_request_takes_its_cost_or_nothing() {
    let bench = Bench::new();
    let (id, text) = issue(&bench.keys, with(10)).await;
    for (cost, fits, remain) in [
        (4, true, 6),
        (7, false, 6),
        (4, true, 2),
        (3, false, 2),
        (0, true, 2),
        (2, true, 0),
        (1, false, 0),
        (0, true, 0),
    ] {
        assert_eq!(admits(&bench.keys, &text, cost).await, fits, "{cost}");
        assert_eq!(left(&bench.keys, id).await, remain, "{cost}");
    }
    let (_, nothing) = issue(&bench.keys, with(0)).await;
    assert!(!admits(&bench.keys, &nothing, 1).await);
}

#[tokio::test]
async fn what_is_leased_and_what_is_stored_are_one_budget() {
    let bench = Bench::new();
    let (id, text) = issue(&bench.keys, with(1_000)).await;
    for _ in 0..20 {
        assert!(admits(&bench.keys, &text, 1).await);
    }
    let stored = stored(&bench, id).await;
    assert!(stored < 980);
    assert!(!admits(&bench.keys, &text, 981).await);
    // Whether or not it is remembered what the store has.
    assert!(admits(&bench.keys, &text, 980 - 1).await);
    assert!(admits(&bench.keys, &text, 1).await);
    assert!(!admits(&bench.keys, &text, 1).await);
}

#[tokio::test]
async fn a_rush_is_a_handful_of_writes() {
    let bench = Bench::new();
    let (_, text) = issue(&bench.keys, with(1_000_000)).await;
    let before = bench.store.writes();
    for _ in 0..10_000 {
        assert!(admits(&bench.keys, &text, 1).await);
    }
    // 1, 9, 73, … each batch as large as eight before it.
    let writes = bench.store.writes() - before;
    assert!(writes <= 6, "{writes}");
}

#[tokio::test]
async fn steady_use_is_a_write_for_each_interval() {
    let bench = Bench::new();
    let (_, text) = issue(&bench.keys, with(10_000_000)).await;
    let before = bench.store.writes();
    // A hundred a second, for a hundred seconds.
    for _ in 0..10_000 {
        bench.clock.advance(Duration::from_millis(10));
        assert!(admits(&bench.keys, &text, 1).await);
    }
    let writes = bench.store.writes() - before;
    assert!(writes <= 10 + 6, "{writes}");
}

#[tokio::test]
async fn a_lease_is_at_most_an_eighth_of_what_remains() {
    let bench = Bench::new();
    let (id, text) = issue(&bench.keys, with(8_000)).await;
    let mut spent = 0;
    while spent < 8_000 {
        assert!(admits(&bench.keys, &text, 1).await);
        spent += 1;
        let leased = (8_000 - spent) - stored(&bench, id).await;
        let remained = 8_000 - spent + 1;
        assert!(leased <= remained / 7, "{leased} of {remained}");
    }
}

#[tokio::test]
async fn the_second_flush_without_use_gives_back() {
    let bench = Bench::new();
    let (id, text) = issue(&bench.keys, with(1_000)).await;
    for _ in 0..20 {
        assert!(admits(&bench.keys, &text, 1).await);
    }
    let leased = 980 - stored(&bench, id).await;
    assert!(leased > 0);
    bench.keys.flush().await.unwrap();
    assert_eq!(stored(&bench, id).await, 980 - leased, "it was used");
    bench.keys.flush().await.unwrap();
    assert_eq!(stored(&bench, id).await, 980);
    let writes = bench.store.writes();
    bench.keys.flush().await.unwrap();
    assert_eq!(bench.store.writes(), writes, "there is nothing more");
    assert!(admits(&bench.keys, &text, 1).await);
}

#[tokio::test]
async fn the_background_task_gives_back_too() {
    let interval = Duration::from_millis(1);
    let bench = Bench::built(|builder| builder.flush_interval(interval));
    let (id, text) = issue(&bench.keys, with(1_000)).await;
    for _ in 0..20 {
        assert!(admits(&bench.keys, &text, 1).await);
    }
    let until = tokio::time::Instant::now() + Duration::from_secs(10);
    while stored(&bench, id).await < 980 {
        assert!(tokio::time::Instant::now() < until, "it gives nothing back");
        tokio::time::sleep(interval).await;
    }
}

#[tokio::test]
async fn shutdown_gives_back_all() {
    let bench = Bench::new();
    let (id, text) = issue(&bench.keys, with(1_000)).await;
    let (other, another) = issue(&bench.keys, with(1_000)).await;
    for _ in 0..20 {
        assert!(admits(&bench.keys, &text, 1).await);
        assert!(admits(&bench.keys, &another, 3).await);
    }
    bench.keys.shutdown(SHUTDOWN).await.unwrap();
    assert_eq!(stored(&bench, id).await, 980);
    assert_eq!(stored(&bench, other).await, 940);
}

#[tokio::test]
async fn a_shutdown_says_how_many_credits_were_not_taken_back() {
    let bench = Bench::new();
    let (id, text) = issue(&bench.keys, with(1_000)).await;
    for _ in 0..20 {
        assert!(admits(&bench.keys, &text, 1).await);
    }
    let leased = 980 - stored(&bench, id).await;
    assert!(leased > 0);
    bench.store.fail(true);
    let failed = bench.keys.shutdown(SECOND / 10).await.unwrap_err();
    assert_eq!((failed.uses(), failed.credits()), (20, leased));
}

#[tokio::test]
async fn shutdown_waits_for_a_lease_that_is_under_way() {
    let bench = Bench::new();
    let (id, text) = issue(&bench.keys, with(1_000)).await;
    assert!(admits(&bench.keys, &text, 1).await);
    let writes = bench.store.writes();
    bench.store.hold_writes(true);
    let waiting = bench.begin_cost(&text, 100);
    bench.store.written(writes + 1).await;
    waiting.abort();
    let keys = bench.keys.clone();
    let shutdown = tokio::spawn(async move { keys.shutdown(SHUTDOWN).await });
    settle().await;
    bench.store.hold_writes(false);
    shutdown.await.unwrap().unwrap();
    assert_eq!(stored(&bench, id).await, 999);
}

#[tokio::test]
async fn shutdown_waits_for_a_return_that_is_under_way() {
    let bench = Bench::new();
    let (_, text) = issue(&bench.keys, with(1_000)).await;
    for _ in 0..20 {
        assert!(admits(&bench.keys, &text, 1).await);
    }
    bench.keys.flush().await.unwrap();
    let writes = bench.store.writes();
    bench.store.hold_writes(true);
    // The background task gives back what an idle key has leased.
    let keys = bench.keys.clone();
    let returning = tokio::spawn(async move { keys.flush().await });
    bench.store.written(writes + 1).await;
    let keys = bench.keys.clone();
    let shutdown = tokio::spawn(async move { keys.shutdown(SHUTDOWN).await });
    settle().await;
    assert!(!shutdown.is_finished(), "the process would end now");
    bench.store.hold_writes(false);
    shutdown.await.unwrap().unwrap();
    assert!(returning.is_finished());
    returning.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_crash_loses_at_most_what_was_leased() {
    let bench = Bench::new();
    let (id, text) = issue(&bench.keys, with(800)).await;
    let crashing = bench.elsewhere();
    for _ in 0..50 {
        assert!(admits(&crashing, &text, 1).await);
    }
    drop(crashing);
    let remain = stored(&bench, id).await;
    assert!((650..750).contains(&remain), "{remain}");
    let mut admitted = 0;
    while admits(&bench.keys, &text, 1).await {
        admitted += 1;
    }
    assert_eq!(admitted, remain);
}

#[tokio::test]
async fn requests_that_wait_share_one_call() {
    let bench = Bench::new();
    let (id, text) = issue(&bench.keys, with(1_000)).await;
    assert!(admits(&bench.keys, &text, 1).await);
    let writes = bench.store.writes();
    bench.store.hold_writes(true);
    let requests: Vec<_> = (0..100).map(|_| bench.begin_cost(&text, 1)).collect();
    settle().await;
    assert_eq!(bench.store.writes(), writes + 1);
    bench.store.hold_writes(false);
    for outcome in join_all(requests).await {
        assert!(outcome.unwrap().is_ok());
    }
    assert_eq!(left(&bench.keys, id).await, 899);
    let calls = bench.store.writes() - writes;
    assert!(calls <= 3, "{calls}");
}

#[tokio::test]
async fn a_request_that_goes_away_while_it_waits_takes_nothing() {
    let bench = Bench::new();
    let (id, text) = issue(&bench.keys, with(100)).await;
    let writes = bench.store.writes();
    bench.store.hold_writes(true);
    let request = bench.begin_cost(&text, 30);
    bench.store.written(writes + 1).await;
    request.abort();
    bench.store.hold_writes(false);
    settle().await;
    assert_eq!(left(&bench.keys, id).await, 100);
    assert!(admits(&bench.keys, &text, 100).await);
}

#[tokio::test]
async fn a_store_that_is_down_is_an_outage_unless_the_lease_covers() {
    let bench = Bench::new();
    let (id, text) = issue(&bench.keys, with(1_000)).await;
    for _ in 0..20 {
        assert!(admits(&bench.keys, &text, 1).await);
    }
    let leased = 980 - stored(&bench, id).await;
    bench.store.fail(true);
    for _ in 0..leased {
        assert!(admits(&bench.keys, &text, 1).await);
    }
    let denial = spend(&bench.keys, &text, 1).await.unwrap_err();
    assert_eq!(denial.kind(), DenialKind::Unavailable);
    assert_eq!(denial.reason(), DenialReason::Store);
    assert_eq!(denial.retry_after(), Some(SECOND));
    assert!(std::error::Error::source(&denial).is_some());
    assert!(admits(&bench.keys, &text, 0).await, "it needs none");
    bench.store.fail(false);
    assert!(admits(&bench.keys, &text, 1).await);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_is_an_outage_after_the_deadline() {
    let bench = Bench::new();
    let (_, text) = issue(&bench.keys, with(1_000)).await;
    assert!(admits(&bench.keys, &text, 1).await);
    bench.store.hold_writes(true);
    let denial = spend(&bench.keys, &text, 1).await.unwrap_err();
    assert_eq!(denial.kind(), DenialKind::Unavailable);
    bench.store.hold_writes(false);
    assert!(admits(&bench.keys, &text, 1).await);
}

#[tokio::test]
async fn a_failed_return_is_lost_and_not_tried_again() {
    let bench = Bench::new();
    let (id, text) = issue(&bench.keys, with(1_000)).await;
    for _ in 0..20 {
        assert!(admits(&bench.keys, &text, 1).await);
    }
    let leased = 980 - stored(&bench, id).await;
    bench.keys.flush().await.unwrap();
    // What the store answers is an error, but it was done.
    let writes = bench.store.writes();
    bench.store.hold_writes(true);
    let keys = bench.keys.clone();
    let flush = tokio::spawn(async move { keys.flush().await });
    bench.store.written(writes + 1).await;
    bench.store.fail(true);
    bench.store.hold_writes(false);
    assert!(flush.await.unwrap().is_err());
    bench.store.fail(false);
    bench.keys.flush().await.unwrap();
    bench.keys.shutdown(SHUTDOWN).await.unwrap();
    assert_eq!(stored(&bench, id).await, 980, "{leased} once");
}

#[tokio::test]
async fn exhaustion_is_remembered_for_a_second() {
    let bench = Bench::new();
    let (_, text) = issue(&bench.keys, with(1)).await;
    let elsewhere = bench.elsewhere();
    assert!(admits(&elsewhere, &text, 1).await);
    assert!(!admits(&bench.keys, &text, 1).await);
    let writes = bench.store.writes();
    bench.clock.advance(almost(SECOND));
    for _ in 0..100 {
        assert!(!admits(&bench.keys, &text, 1).await);
    }
    assert_eq!(bench.store.writes(), writes);
    bench.clock.advance(NANOSECOND);
    assert!(!admits(&bench.keys, &text, 1).await);
    assert_eq!(bench.store.writes(), writes + 1);
}

#[tokio::test]
async fn whoever_waited_long_for_an_answer_hears_it() {
    let bench = Bench::new();
    let (_, text) = issue(&bench.keys, with(0)).await;
    let writes = bench.store.writes();
    bench.store.hold_writes(true);
    let request = bench.begin_cost(&text, 1);
    bench.store.written(writes + 1).await;
    bench.clock.advance(2 * SECOND);
    bench.store.hold_writes(false);
    let denial = request.await.unwrap().unwrap_err();
    assert_eq!(denial.kind(), DenialKind::CreditsExhausted);
    assert_eq!(bench.store.writes(), writes + 1);
}

#[tokio::test]
async fn a_verifier_that_only_reads_lets_no_such_key_pass() {
    let bench = Bench::new();
    let (_, text) = issue(&bench.keys, with(1_000)).await;
    let free = bench.keys.issue(NewKey::named("free")).await.unwrap();
    let verifier = Verifier::builder(bench.memory.clone())
        .clock(bench.clock.clone())
        .build_verifier();
    let needs = tower_api_key::Requirements::new();
    let verify = async |text: &str| {
        let attempt = tower_api_key::Attempt::new(text);
        verifier.verify(attempt, &needs).await
    };
    let denial = verify(&text).await.unwrap_err();
    assert_eq!(denial.kind(), DenialKind::Unavailable);
    assert!(verify(super::text(&free)).await.is_ok());
}
