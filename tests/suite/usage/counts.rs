//! The counts of use: by key, secret and hour.

use std::time::Duration;

use jiff::Timestamp;
use tower_api_key::{Attempt, DenialReason, NewKey, RateLimit, Requirements};

use super::{HOUR, stored};
use crate::core_support::{Bench, NANOSECOND, SECOND, SHUTDOWN, almost, refusal, unknown_key};

#[tokio::test]
async fn no_request_writes() {
    let bench = Bench::new();
    let issued = bench.issue().await;
    let text = issued.secret().expose();
    for _ in 0..1_000 {
        bench.verify(text).await.unwrap();
        refusal(bench.verify(unknown_key().expose()).await);
        bench.clock.advance(10 * SECOND);
    }
    assert_eq!(bench.store.writes(), 1, "that of the key itself");
    bench.keys.flush().await.unwrap();
    assert_eq!(bench.store.writes(), 2);
}

#[tokio::test]
async fn a_flush_writes_the_totals_of_all_keys_at_once() {
    let bench = Bench::new();
    let (first, second) = (bench.issue().await, bench.issue().await);
    for _ in 0..7 {
        bench.verify(first.secret().expose()).await.unwrap();
    }
    for _ in 0..3 {
        bench.verify(second.secret().expose()).await.unwrap();
    }
    bench.keys.flush().await.unwrap();
    assert_eq!(bench.store.writes(), 3);
    assert_eq!(
        stored(&bench.keys, first.key().record.id).await,
        [(0, 7, 0)]
    );
    assert_eq!(
        stored(&bench.keys, second.key().record.id).await,
        [(0, 3, 0)]
    );
    // With nothing to write nothing is written.
    bench.keys.flush().await.unwrap();
    bench.keys.shutdown(SHUTDOWN).await.unwrap();
    assert_eq!(bench.store.writes(), 3);
    let last_hour = bench
        .keys
        .usage(
            first.key().record.id,
            Timestamp::UNIX_EPOCH,
            bench.keys.now(),
        )
        .await;
    assert_eq!(last_hour.unwrap(), [], "up to, but without, the end");
}

#[tokio::test]
async fn each_hour_has_its_own_counts() {
    let bench = Bench::new();
    let issued = bench.issue().await;
    let (id, text) = (issued.key().record.id, issued.secret().expose());
    let verify = async |times: usize| {
        for _ in 0..times {
            bench.verify(text).await.unwrap();
        }
    };
    bench.clock.advance(almost(HOUR));
    verify(2).await;
    // Between two flushes.
    bench.clock.advance(NANOSECOND);
    verify(3).await;
    bench.keys.flush().await.unwrap();
    assert_eq!(stored(&bench.keys, id).await, [(0, 2, 0), (1, 3, 0)]);
    // After a flush, in the same hour and in others.
    verify(4).await;
    for _ in 0..3 {
        bench.clock.advance(2 * HOUR);
        verify(1).await;
    }
    // A clock that is set back counts for the hour that it shows.
    bench.clock.set_wall(bench.keys.now() - 2 * HOUR);
    verify(1).await;
    bench.keys.flush().await.unwrap();
    let expected = [(0, 2, 0), (1, 7, 0), (3, 1, 0), (5, 2, 0), (7, 1, 0)];
    assert_eq!(stored(&bench.keys, id).await, expected);
    let used = bench.keys.get(id).await.unwrap().last_used_at();
    assert_eq!(
        used,
        Some(bench.keys.now() + 2 * HOUR),
        "it never moves back"
    );
}

#[tokio::test]
async fn a_refused_request_counts_and_is_a_use_if_the_secret_was_good() {
    let bench = Bench::new();
    let new = NewKey::named("billing").scopes(["orders:read"]);
    let new = new.limit(RateLimit::per_hour(1));
    let issued = bench.keys.issue(new).await.unwrap();
    let (id, text) = (issued.key().record.id, issued.secret().expose());
    let used = async || {
        bench.keys.flush().await.unwrap();
        bench.keys.get(id).await.unwrap().last_used_at()
    };
    bench.verify(text).await.unwrap();
    assert_eq!(used().await, Some(bench.keys.now()));

    bench.clock.advance(SECOND);
    assert_eq!(refusal(bench.verify(text).await), DenialReason::Quota);
    assert_eq!(used().await, Some(bench.keys.now()));

    bench.clock.advance(SECOND);
    let needs = Requirements::new().scopes(["orders:write"]);
    let outcome = bench.keys.verifier().verify(Attempt::new(text), &needs);
    assert_eq!(refusal(outcome.await), DenialReason::Scope);
    let last = bench.keys.now();
    assert_eq!(used().await, Some(last));

    // A secret that is no good is refused, and not used.
    bench.clock.advance(SECOND);
    bench.keys.disable(id).await.unwrap();
    assert_eq!(refusal(bench.verify(text).await), DenialReason::Disabled);
    bench.keys.enable(id).await.unwrap();
    bench.keys.rotate(id, Duration::ZERO).await.unwrap();
    assert_eq!(refusal(bench.verify(text).await), DenialReason::Expired);
    bench.keys.revoke(id).await.unwrap();
    assert_eq!(refusal(bench.verify(text).await), DenialReason::Revoked);
    assert_eq!(used().await, Some(last));
    assert_eq!(stored(&bench.keys, id).await, [(0, 1, 5)]);
}

#[tokio::test]
async fn each_credential_tells_when_it_was_last_used() {
    let bench = Bench::new();
    let old = bench.issue().await;
    let id = old.key().record.id;
    let began = bench.keys.now();
    let new = bench.keys.rotate(id, 10 * SECOND).await.unwrap();
    let used = async || {
        bench.keys.flush().await.unwrap();
        let key = bench.keys.get(id).await.unwrap();
        assert_eq!(key.credentials.len(), 2);
        [0, 1].map(|place| key.credentials[place].last_used_at)
    };
    assert_eq!(used().await, [None, None]);
    bench.clock.advance(SECOND);
    bench.verify(old.secret().expose()).await.unwrap();
    assert_eq!(used().await, [Some(began + SECOND), None]);
    bench.clock.advance(SECOND);
    bench.verify(new.secret().expose()).await.unwrap();
    let expected = [Some(began + SECOND), Some(began + 2 * SECOND)];
    assert_eq!(used().await, expected);
    bench.clock.advance(8 * SECOND);
    let outcome = bench.verify(old.secret().expose()).await;
    assert_eq!(refusal(outcome), DenialReason::Expired);
    assert_eq!(used().await, expected, "it had ended");
    assert_eq!(stored(&bench.keys, id).await, [(0, 2, 1)]);
}
