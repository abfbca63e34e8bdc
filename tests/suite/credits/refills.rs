//! Refills, at the edges of days and months.

use jiff::{SignedDuration, Timestamp};
use tower_api_key::testing::ManualClock;
use tower_api_key::{ApiKeys, Credits, MemoryStore, NewKey, Refill};

use super::{admits, issue, left, spend};
use crate::core_support::SHUTDOWN;

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn keys_at(start: &str) -> (ManualClock, ApiKeys) {
    let clock = ManualClock::new(time(start));
    let keys = ApiKeys::builder(MemoryStore::new()).clock(clock.clone());
    (clock, keys.build())
}

fn advance_to(clock: &ManualClock, now: Timestamp, then: Timestamp) {
    let passed = (then.as_nanosecond() - now.as_nanosecond()).try_into();
    clock.advance(std::time::Duration::from_nanos(passed.unwrap()));
}

#[tokio::test]
async fn a_refill_comes_with_the_day_or_month_to_the_nanosecond() {
    let (daily, monthly) = (Refill::daily(3), Refill::monthly(3));
    for (refill, start, edge) in [
        (daily, "2026-03-28T23:00:00Z", "2026-03-29T00:00:00Z"),
        (daily, "2028-02-28T00:00:00Z", "2028-02-29T00:00:00Z"),
        (
            daily,
            "2026-12-31T00:00:00.000000001Z",
            "2027-01-01T00:00:00Z",
        ),
        (monthly, "2026-01-31T12:00:00Z", "2026-02-01T00:00:00Z"),
        (monthly, "2026-02-01T00:00:00Z", "2026-03-01T00:00:00Z"),
        (monthly, "2028-02-29T23:59:59Z", "2028-03-01T00:00:00Z"),
        (monthly, "2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z"),
    ] {
        let (clock, keys) = keys_at(start);
        let (id, text) = issue(&keys, NewKey::named("x").credits(Credits::refilled(refill))).await;
        for _ in 0..3 {
            assert!(admits(&keys, &text, 1).await, "{start}");
        }
        let denial = spend(&keys, &text, 1).await.unwrap_err();
        let wait = time(edge).duration_since(time(start)).unsigned_abs();
        assert_eq!(denial.retry_after(), Some(wait), "{start}");
        let almost = time(edge) - SignedDuration::from_nanos(1);
        advance_to(&clock, time(start), almost);
        assert!(!admits(&keys, &text, 1).await, "{almost}");
        assert_eq!(left(&keys, id).await, 0);
        advance_to(&clock, almost, time(edge));
        for number in 0..4 {
            assert_eq!(admits(&keys, &text, 1).await, number < 3, "{edge}");
        }
    }
}

#[tokio::test]
async fn a_refill_sets_and_does_not_add() {
    let (clock, keys) = keys_at("2026-01-01T12:00:00Z");
    let credits = Credits::refilled(Refill::daily(100)).remaining(1_000);
    let (id, text) = issue(&keys, NewKey::named("x").credits(credits)).await;
    // A good part of them is leased, and worth nothing tomorrow.
    for _ in 0..100 {
        assert!(admits(&keys, &text, 1).await);
    }
    assert_eq!(left(&keys, id).await, 900);
    clock.advance(std::time::Duration::from_hours(12));
    let mut admitted = 0;
    while admits(&keys, &text, 1).await {
        admitted += 1;
    }
    assert_eq!(admitted, 100);
    // Some days later, and still no more.
    clock.advance(std::time::Duration::from_hours(72));
    assert_eq!(left(&keys, id).await, 100);
    assert!(admits(&keys, &text, 60).await);
    keys.shutdown(SHUTDOWN).await.unwrap();
    assert_eq!(left(&keys, id).await, 40);
}

#[tokio::test]
async fn what_was_taken_yesterday_is_not_given_back_today() {
    let (clock, keys) = keys_at("2026-01-01T12:00:00Z");
    let credits = Credits::refilled(Refill::daily(100)).remaining(1_000);
    let (id, text) = issue(&keys, NewKey::named("x").credits(credits)).await;
    for _ in 0..100 {
        assert!(admits(&keys, &text, 1).await);
    }
    clock.advance(std::time::Duration::from_hours(12));
    keys.shutdown(SHUTDOWN).await.unwrap();
    assert_eq!(left(&keys, id).await, 100);
    assert!(admits(&keys, &text, 100).await);
    assert!(!admits(&keys, &text, 1).await);
}

#[tokio::test]
async fn a_clock_that_is_set_back_brings_no_second_refill() {
    let (clock, keys) = keys_at("2026-01-31T23:00:00Z");
    let credits = Credits::refilled(Refill::monthly(5));
    let (_, text) = issue(&keys, NewKey::named("x").credits(credits)).await;
    assert!(admits(&keys, &text, 5).await);
    clock.advance(std::time::Duration::from_hours(1));
    assert!(admits(&keys, &text, 5).await);
    for wall in [
        "2026-01-31T23:30:00Z",
        "2026-02-01T00:00:00Z",
        "2026-02-28T23:59:59Z",
    ] {
        clock.set_wall(time(wall));
        clock.advance(std::time::Duration::from_millis(999));
        assert!(!admits(&keys, &text, 1).await, "{wall}");
    }
    clock.set_wall(time("2026-03-01T00:00:00Z"));
    assert!(admits(&keys, &text, 5).await);
}

#[tokio::test]
async fn instances_whose_clocks_differ_share_one_refill() {
    let start = time("2026-01-01T23:59:58Z");
    let store = MemoryStore::new();
    let [(slow_clock, slow), (fast_clock, fast)] = [(); 2].map(|()| {
        let clock = ManualClock::new(start);
        let keys = ApiKeys::builder(store.clone()).clock(clock.clone());
        (clock, keys.build())
    });
    let credits = Credits::refilled(Refill::daily(100)).remaining(1_000);
    let (id, text) = issue(&slow, NewKey::named("x").credits(credits)).await;
    for _ in 0..100 {
        assert!(admits(&slow, &text, 1).await);
    }
    let leased = left(&slow, id).await - left(&fast, id).await;
    assert!(leased > 0);
    fast_clock.advance(std::time::Duration::from_secs(2));
    assert!(admits(&fast, &text, 1).await);
    let mut admitted = 1;
    // To the slow one it is still yesterday, and what it leased then is good.
    while admits(&slow, &text, 1).await {
        admitted += 1;
    }
    fast_clock.advance(std::time::Duration::from_secs(1));
    while admits(&fast, &text, 1).await {
        admitted += 1;
    }
    assert_eq!(admitted, leased + 100);
    slow_clock.advance(std::time::Duration::from_secs(3));
    assert!(!admits(&slow, &text, 1).await, "no second refill");
    assert_eq!(left(&slow, id).await, 0);
}

#[tokio::test]
async fn a_clock_that_was_ahead_for_one_request_cancels_no_refill() {
    for (refill, ahead, next) in [
        (
            Refill::daily(5),
            "2027-05-15T12:00:00Z",
            "2026-05-16T00:00:00Z",
        ),
        (
            Refill::monthly(5),
            "2036-01-15T12:00:00Z",
            "2026-06-01T00:00:00Z",
        ),
    ] {
        let now = "2026-05-15T12:00:00Z";
        let (clock, keys) = keys_at(now);
        let credits = Credits::refilled(refill);
        let (id, text) = issue(&keys, NewKey::named("x").credits(credits)).await;
        clock.set_wall(time(ahead));
        assert!(admits(&keys, &text, 1).await);
        clock.set_wall(time(now));
        while admits(&keys, &text, 1).await {
            clock.advance(std::time::Duration::from_secs(2));
        }
        assert_eq!(left(&keys, id).await, 0);
        clock.set_wall(time(next));
        clock.advance(std::time::Duration::from_secs(2));
        assert_eq!(left(&keys, id).await, 5);
        assert!(admits(&keys, &text, 5).await);
        assert!(!admits(&keys, &text, 1).await);
    }
}

#[tokio::test]
async fn a_clock_that_stays_ahead_brings_one_refill_and_not_one_for_each_request() {
    let (now, ahead) = (time("2026-05-15T12:00:00Z"), time("2027-05-15T12:00:00Z"));
    let store = MemoryStore::new();
    let instances = [now, ahead].map(|wall| {
        let clock = ManualClock::new(wall);
        let keys = ApiKeys::builder(store.clone()).clock(clock.clone());
        (clock, keys.build())
    });
    let credits = Credits::refilled(Refill::daily(100));
    let (_, text) = issue(&instances[0].1, NewKey::named("x").credits(credits)).await;
    let mut admitted = 0;
    for _ in 0..1_000 {
        for (clock, keys) in &instances {
            admitted += u64::from(admits(keys, &text, 1).await);
            // What is remembered of too few credits is forgotten by then.
            clock.advance(std::time::Duration::from_secs(1));
        }
    }
    assert!((100..=200).contains(&admitted), "{admitted}");
}

#[tokio::test]
async fn a_cost_above_the_refill_is_told_to_be_hopeless() {
    let (_, keys) = keys_at("2026-01-01T12:00:00Z");
    let credits = Credits::refilled(Refill::daily(5)).remaining(1);
    let (_, text) = issue(&keys, NewKey::named("x").credits(credits)).await;
    let denial = spend(&keys, &text, 5).await.unwrap_err();
    assert!(denial.retry_after().is_some());
    let denial = spend(&keys, &text, 6).await.unwrap_err();
    assert_eq!(denial.retry_after(), None);
    assert_eq!(denial.reason(), tower_api_key::DenialReason::Cost);
}
