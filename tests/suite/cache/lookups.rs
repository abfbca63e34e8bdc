//! How the store is asked: once for all, a few at a time, and not for long.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Barrier;
use tokio::time::Instant;
use tower_api_key::testing::ScriptedStore;
use tower_api_key::{
    ApiKeys, CacheConfig, DenialReason, MemoryStore, NewKey, OutageKind, Verifier,
};

use super::issue_many;
use crate::core_support::{
    Bench, SECOND, outage, polled_in_a_shutdown, refusal, settle, unknown_key, verify,
};

#[tokio::test]
async fn a_thousand_cold_verifications_are_one_lookup() {
    let bench = Bench::new();
    let issued = bench.issue().await;
    bench.store.hold_lookups(true);
    let waiting: Vec<_> = (0..1_000)
        .map(|_| bench.begin(issued.secret().expose()))
        .collect();
    bench.store.begun(1).await;
    settle().await;
    bench.store.hold_lookups(false);
    for verification in waiting {
        verification.await.unwrap().unwrap();
    }
    assert_eq!(bench.store.lookups(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_thousand_cold_verifications_on_many_threads_are_one_lookup() {
    let bench = Bench::new();
    let issued = bench.issue().await;
    let together = Arc::new(Barrier::new(1_000));
    let waiting: Vec<_> = (0..1_000)
        .map(|_| {
            let (bench, text) = (bench.clone(), issued.secret().clone());
            let together = Arc::clone(&together);
            tokio::spawn(async move {
                together.wait().await;
                bench.verify(text.expose()).await
            })
        })
        .collect();
    for verification in waiting {
        verification.await.unwrap().unwrap();
    }
    assert_eq!(bench.store.lookups(), 1);
}

#[tokio::test]
async fn a_lookup_outlives_the_request_that_started_it() {
    let bench = Bench::new();
    let issued = bench.issue().await;
    bench.store.hold_lookups(true);
    let first = bench.begin(issued.secret().expose());
    bench.store.begun(1).await;
    let others: Vec<_> = (0..10)
        .map(|_| bench.begin(issued.secret().expose()))
        .collect();
    settle().await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    bench.store.hold_lookups(false);
    for verification in others {
        verification.await.unwrap().unwrap();
    }
    assert_eq!(bench.store.lookups(), 1);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_left_of_requests_that_all_went_away() {
    // One lookup at a time and none that waits: what leaked would stand in the way of the next.
    let config = CacheConfig::default().max_lookups(1).max_waiting_lookups(1);
    let memory = Arc::new(MemoryStore::new());
    let store = ScriptedStore::new(Arc::clone(&memory));
    let issued = ApiKeys::builder(Arc::clone(&memory))
        .build()
        .issue(NewKey::named("billing").scopes(["orders:read"]))
        .await
        .unwrap();
    let verifier = Verifier::builder(store.clone())
        .cache(config)
        .build_verifier();
    let begin = |text: &str| {
        let (verifier, text) = (verifier.clone(), text.to_owned());
        tokio::spawn(async move { verify(&verifier, &text).await })
    };

    store.hold_lookups(true);
    let text = issued.secret().expose();
    let gone: Vec<_> = (0..10).map(|_| begin(text)).collect();
    store.begun(1).await;
    settle().await;
    for verification in gone {
        verification.abort();
        assert!(verification.await.unwrap_err().is_cancelled());
    }
    store.hold_lookups(false);
    settle().await;
    verify(&verifier, text).await.unwrap();
    assert_eq!(store.lookups(), 1, "what was found for nobody is kept");

    // The same for a lookup that no answer ever comes to.
    store.hold_lookups(true);
    let gone = begin(unknown_key().expose());
    store.begun(2).await;
    gone.abort();
    tokio::time::sleep(2 * SECOND + Duration::from_millis(1)).await;
    store.hold_lookups(false);
    let unknown = unknown_key();
    assert_eq!(
        refusal(verify(&verifier, unknown.expose()).await),
        DenialReason::Unknown
    );

    drop((verifier, store));
    // The task that writes use ends, and with it the last hold on the store.
    tokio::time::sleep(11 * SECOND).await;
    assert_eq!(Arc::strong_count(&memory), 1);
}

#[tokio::test]
async fn lookups_in_flight_are_capped_and_the_others_wait_their_turn() {
    let bench = Bench::cached(CacheConfig::default().max_lookups(4));
    let issued = issue_many(&bench, 20).await;
    bench.store.hold_lookups(true);
    let waiting: Vec<_> = issued
        .iter()
        .map(|key| bench.begin(key.secret().expose()))
        .collect();
    bench.store.begun(4).await;
    settle().await;
    assert_eq!(bench.store.lookups(), 4);
    bench.store.hold_lookups(false);
    for verification in waiting {
        verification.await.unwrap().unwrap();
    }
    assert_eq!(bench.store.lookups(), 20);
}

#[tokio::test(start_paused = true)]
async fn a_lookup_ends_at_its_deadline_also_while_it_waits_for_its_turn() {
    let config = CacheConfig::default()
        .max_lookups(4)
        .lookup_deadline(3 * SECOND);
    let bench = Bench::cached(config);
    let issued = issue_many(&bench, 6).await;
    bench.store.hold_lookups(true);
    let began = Instant::now();
    let waiting: Vec<_> = issued
        .iter()
        .map(|key| bench.begin(key.secret().expose()))
        .collect();
    for verification in waiting {
        assert_eq!(outage(verification.await.unwrap()), OutageKind::Deadline);
    }
    let waited = began.elapsed();
    assert!(waited >= 3 * SECOND && waited < 4 * SECOND, "{waited:?}");
    // Whoever waited for a turn may get one in the instant in which all of them end.
    bench.store.hold_lookups(false);
    for key in &issued {
        bench.verify(key.secret().expose()).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn too_many_waiting_lookups_are_an_outage_at_once() {
    let config = CacheConfig::default().max_lookups(1).max_waiting_lookups(2);
    let bench = Bench::cached(config);
    let issued = issue_many(&bench, 3).await;
    let text = |key: usize| issued[key].secret().expose();
    bench.store.hold_lookups(true);
    // Those who wait for the same key are one lookup.
    let waiting: Vec<_> = [0, 0, 0, 1, 1, 1]
        .map(|key| bench.begin(text(key)))
        .into_iter()
        .collect();
    bench.store.begun(1).await;
    settle().await;
    let began = Instant::now();
    assert_eq!(outage(bench.verify(text(2)).await), OutageKind::Overloaded);
    assert_eq!(began.elapsed(), Duration::ZERO);
    bench.store.hold_lookups(false);
    for verification in waiting {
        verification.await.unwrap().unwrap();
    }
    bench.verify(text(2)).await.unwrap();
}

/// Whoever waits for such a request would otherwise keep the runtime from ending.
#[test]
fn a_lookup_that_begins_while_the_runtime_shuts_down_fails() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let bench = runtime.block_on(async { Bench::new() });
    let verifier = bench.keys.verifier().clone();
    for _ in 0..2 {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let (verifier, text) = (verifier.clone(), unknown_key());
        let verification = async move { verify(&verifier, text.expose()).await };
        let outcome = polled_in_a_shutdown(runtime, verification);
        assert_eq!(outage(outcome), OutageKind::Store);
    }
    // None of it is left behind.
    let outcome = runtime.block_on(bench.verify(unknown_key().expose()));
    assert_eq!(refusal(outcome), DenialReason::Unknown);
}
