//! Use is counted in memory and written in batches: all of it, and once.

mod counts;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::runtime::Handle;
use tokio::sync::Barrier;
use tower_api_key::testing::{ManualClock, ScriptedStore};
use tower_api_key::{
    ApiKeys, Credential, CreditBalance, CreditGrant, CreditReturn, Credits, EventCursor, EventPage,
    FLUSH_INTERVAL, Issued, Key, KeyChange, KeyDigest, KeyErrorKind, KeyEvent, KeyFilter, KeyId,
    KeyPage, KeyRecord, KeyRepository, KeyStore, MemoryStore, NewKey, StoreError, StoredKey,
    UsageBatch, UsageBucket, UsageDelta,
};

use crate::core_support::{Bench, SECOND, SHUTDOWN, settle, verify};

const HOUR: Duration = Duration::from_hours(1);

/// What is stored of a key's use: (hours since the clock's beginning, allowed, denied).
async fn stored(keys: &ApiKeys, id: KeyId) -> Vec<(i64, u64, u64)> {
    let buckets = keys.usage(id, Timestamp::MIN, Timestamp::MAX).await;
    let origin = 1_767_225_600;
    buckets
        .unwrap()
        .iter()
        .map(|bucket| {
            let second = bucket.start.as_second() - origin;
            assert_eq!(second.rem_euclid(3_600), 0, "a bucket begins with an hour");
            (second / 3_600, bucket.allowed, bucket.denied)
        })
        .collect()
}

#[tokio::test]
async fn what_a_store_does_not_take_is_written_once_it_does() {
    let bench = Bench::new();
    let issued = bench.issue().await;
    let (id, text) = (issued.key().record.id, issued.secret().expose());
    bench.verify(text).await.unwrap();
    bench.store.fail(true);
    for _ in 0..3 {
        let error = bench.keys.flush().await.unwrap_err();
        assert_eq!(error.kind(), KeyErrorKind::Store);
        bench.verify(text).await.unwrap();
        bench.clock.advance(SECOND);
        bench.verify(text).await.unwrap();
    }
    let failed = bench.keys.shutdown(SECOND / 10).await.unwrap_err();
    assert_eq!((failed.uses(), failed.credits()), (7, 0));
    bench.store.fail(false);
    assert_eq!(stored(&bench.keys, id).await, []);
    bench.keys.flush().await.unwrap();
    bench.keys.flush().await.unwrap();
    assert_eq!(stored(&bench.keys, id).await, [(0, 7, 0)]);
    let used = bench.keys.get(id).await.unwrap().last_used_at();
    assert_eq!(used, Some(bench.keys.now()));
}

#[tokio::test]
async fn what_was_written_before_a_failure_is_not_written_again() {
    for fault in [Fault::Error, Fault::Panic] {
        let store = Flaky::default();
        let keys = ApiKeys::builder(store.clone())
            .clock(ManualClock::default())
            .build();
        let mut ids = Vec::new();
        for number in 0..2_500 {
            let new = NewKey::named(format!("{number}")).scopes(["orders:read"]);
            let issued = keys.issue(new).await.unwrap();
            let text = issued.secret().expose();
            verify(keys.verifier(), text).await.unwrap();
            ids.push(issued.key().record.id);
        }
        // The first batch is taken, the second is not.
        *store.fault.lock().unwrap() = Some((2, fault));
        let flush = {
            let keys = keys.clone();
            tokio::spawn(async move { keys.flush().await.is_ok() })
        };
        assert!(!flush.await.unwrap_or(false), "{fault:?}");
        assert_eq!(store.calls.load(Ordering::SeqCst), 2);
        keys.flush().await.unwrap();
        for id in ids {
            assert_eq!(stored(&keys, id).await, [(0, 1, 0)], "{fault:?}");
        }
    }
}

#[tokio::test]
async fn a_shutdown_waits_for_the_flush_under_way() {
    let bench = Bench::new();
    let issued = bench.issue().await;
    let (id, text) = (issued.key().record.id, issued.secret().expose());
    bench.verify(text).await.unwrap();
    bench.store.hold_writes(true);
    let flush = {
        let keys = bench.keys.clone();
        tokio::spawn(async move { keys.flush().await })
    };
    bench.store.written(2).await;
    bench.verify(text).await.unwrap();
    let shutdown = {
        let keys = bench.keys.clone();
        tokio::spawn(async move { keys.shutdown(SHUTDOWN).await })
    };
    settle().await;
    assert!(!shutdown.is_finished());
    bench.store.hold_writes(false);
    shutdown.await.unwrap().unwrap();
    assert!(flush.is_finished());
    flush.await.unwrap().unwrap();
    assert_eq!(stored(&bench.keys, id).await, [(0, 2, 0)]);
}

#[tokio::test]
async fn a_shutdown_writes_what_the_flush_under_way_could_not() {
    let bench = Bench::new();
    let issued = bench.issue().await;
    let (id, text) = (issued.key().record.id, issued.secret().expose());
    bench.verify(text).await.unwrap();
    let store = Flaky {
        memory: bench.memory.clone(),
        ..Flaky::default()
    };
    *store.fault.lock().unwrap() = Some((1, Fault::Error));
    let held = ScriptedStore::new(store);
    let keys = ApiKeys::builder(held.clone())
        .clock(bench.clock.clone())
        .build();
    verify(keys.verifier(), text).await.unwrap();
    held.hold_writes(true);
    let flush = {
        let keys = keys.clone();
        tokio::spawn(async move { keys.flush().await.is_err() })
    };
    held.written(1).await;
    let shutdown = {
        let keys = keys.clone();
        tokio::spawn(async move { keys.shutdown(SHUTDOWN).await })
    };
    settle().await;
    assert_eq!(held.writes(), 1, "one flush at a time");
    held.hold_writes(false);
    shutdown.await.unwrap().unwrap();
    assert!(flush.await.unwrap());
    assert_eq!(stored(&keys, id).await, [(0, 1, 0)]);
}

/// The store has written the batch, and the connection breaks before it says so.
#[tokio::test]
async fn a_batch_whose_answer_was_lost_counts_once() {
    let bench = Bench::new();
    let (first, second) = (bench.issue().await, bench.issue().await);
    let text = |issued: &tower_api_key::Issued| issued.secret().expose().to_owned();
    bench.verify(&text(&first)).await.unwrap();
    for round in 1..=3 {
        bench.store.hold_writes(true);
        let written = bench.store.writes() + 1;
        let flush = {
            let keys = bench.keys.clone();
            tokio::spawn(async move { keys.flush().await })
        };
        bench.store.written(written).await;
        bench.store.fail(true);
        bench.store.hold_writes(false);
        assert!(flush.await.unwrap().is_err(), "round {round}");
        bench.store.fail(false);
        // What is counted meanwhile, in the same hour and of the same key too, is not in it.
        bench.verify(&text(&first)).await.unwrap();
        bench.verify(&text(&second)).await.unwrap();
    }
    bench.keys.shutdown(SHUTDOWN).await.unwrap();
    let (first, second) = (first.key().record.id, second.key().record.id);
    assert_eq!(stored(&bench.keys, first).await, [(0, 4, 0)]);
    assert_eq!(stored(&bench.keys, second).await, [(0, 3, 0)]);
}

/// A store in memory would keep the id of every batch otherwise.
#[tokio::test(start_paused = true)]
async fn a_batch_is_known_again_for_a_day() {
    let bench = Bench::new();
    let issued = bench.issue().await;
    let key = issued.key();
    let hour = bench.keys.now().as_second() / 3_600 * 3_600;
    let batch = UsageBatch::new(vec![UsageDelta {
        key: key.record.id,
        credential: key.credentials[0].digest,
        hour: Timestamp::from_second(hour).unwrap(),
        allowed: 1,
        denied: 0,
        last_used_at: None,
    }]);
    for (passed, counted) in [(Duration::ZERO, 1), (24 * HOUR, 1), (SECOND, 2)] {
        tokio::time::advance(passed).await;
        bench.memory.record_usage(&batch).await.unwrap();
        assert_eq!(stored(&bench.keys, key.record.id).await, [(0, counted, 0)]);
    }
}

/// A connection that a firewall has dropped: the store never answers again.
#[tokio::test(start_paused = true)]
async fn a_shutdown_gives_up_a_call_without_an_answer_and_tries_again() {
    for stuck in ["the flush under way", "its own"] {
        let (keys, store, issued) = stuck_once().await;
        if stuck == "the flush under way" {
            let keys = keys.clone();
            tokio::spawn(async move { keys.flush().await });
            settle().await;
            assert_eq!(store.calls.load(Ordering::SeqCst), 1);
        }
        keys.shutdown(10 * SECOND).await.unwrap();
        let id = issued.key().record.id;
        assert_eq!(stored(&keys, id).await, [(0, 1, 0)], "{stuck}");
    }
}

/// Keys that were used once, over a store that does not answer the first time.
async fn stuck_once() -> (ApiKeys, Flaky, Issued) {
    let store = Flaky::default();
    *store.fault.lock().unwrap() = Some((1, Fault::Hang));
    let builder = ApiKeys::builder(store.clone());
    let keys = builder.clock(ManualClock::default()).build();
    let new = NewKey::named("x").scopes(["orders:read"]);
    let issued = keys.issue(new).await.unwrap();
    let verified = verify(keys.verifier(), issued.secret().expose()).await;
    verified.unwrap();
    (keys, store, issued)
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_ends_by_its_deadline_and_tells_what_it_could_not_write() {
    let store = Flaky::default();
    let keys = ApiKeys::builder(store.clone())
        .clock(ManualClock::default())
        .build();
    let mut secrets = Vec::new();
    for number in 0..2_500 {
        let new = NewKey::named(format!("{number}")).scopes(["orders:read"]);
        let issued = keys.issue(new).await.unwrap();
        secrets.push(issued.secret().clone());
    }
    let use_all = async || {
        for secret in &secrets {
            verify(keys.verifier(), secret.expose()).await.unwrap();
        }
    };
    use_all().await;
    // A thousand are written, and then none.
    *store.fault.lock().unwrap() = Some((2, Fault::Hang));
    let flush = {
        let keys = keys.clone();
        tokio::spawn(async move { keys.flush().await })
    };
    settle().await;
    *store.fault.lock().unwrap() = Some((Flaky::EACH, Fault::Hang));
    use_all().await;
    let shutdown = tokio::time::timeout(61 * SECOND, keys.shutdown(SHUTDOWN)).await;
    let failed = shutdown.expect("it ends").unwrap_err();
    assert_eq!((failed.uses(), failed.credits()), (4_000, 0));
    assert!(flush.await.unwrap().is_err());

    // Nothing is lost as long as the process is there.
    *store.fault.lock().unwrap() = None;
    keys.shutdown(SHUTDOWN).await.unwrap();
    let mut allowed = 0;
    for key in &store.memory.list(&all()).await.unwrap().keys {
        let hours = stored(&keys, key.record.id).await;
        allowed += hours.iter().map(|(_, allowed, _)| allowed).sum::<u64>();
    }
    assert_eq!(allowed, 5_000);
}

/// As when one table is locked: what can be written is.
#[tokio::test(start_paused = true)]
async fn credits_are_given_back_although_the_store_takes_no_use() {
    let store = Flaky::default();
    let builder = ApiKeys::builder(store.clone());
    let keys = builder.clock(ManualClock::default()).build();
    let new = NewKey::named("x").scopes(["orders:read"]);
    let issued = keys.issue(new.credits(Credits::new(1_000))).await.unwrap();
    let id = issued.key().record.id;
    for _ in 0..2 {
        let verified = verify(keys.verifier(), issued.secret().expose()).await;
        verified.unwrap();
    }
    *store.fault.lock().unwrap() = Some((Flaky::EACH, Fault::Hang));
    let left = async || store.credits(&[id]).await.unwrap()[0].1.remaining;
    assert!(left().await < 998, "some are leased");
    let failed = keys.shutdown(10 * SECOND).await.unwrap_err();
    assert_eq!((failed.uses(), failed.credits()), (2, 0));
    assert_eq!(left().await, 998);
}

fn all() -> KeyFilter {
    let mut all = KeyFilter::default();
    all.limit = usize::MAX - 1;
    all
}

#[tokio::test]
async fn a_flush_goes_on_without_whoever_asked_for_it() {
    let bench = Bench::new();
    let issued = bench.issue().await;
    let (id, text) = (issued.key().record.id, issued.secret().expose());
    bench.verify(text).await.unwrap();
    bench.store.hold_writes(true);
    let flush = {
        let keys = bench.keys.clone();
        tokio::spawn(async move { keys.flush().await })
    };
    bench.store.written(2).await;
    flush.abort();
    assert!(flush.await.unwrap_err().is_cancelled());
    bench.verify(text).await.unwrap();
    bench.store.hold_writes(false);
    bench.keys.shutdown(SHUTDOWN).await.unwrap();
    assert_eq!(stored(&bench.keys, id).await, [(0, 2, 0)]);
}

#[tokio::test(start_paused = true)]
async fn use_is_written_every_ten_seconds_until_the_shutdown() {
    assert_eq!(FLUSH_INTERVAL, 10 * SECOND);
    let bench = Bench::new();
    let issued = bench.issue().await;
    let (id, text) = (issued.key().record.id, issued.secret().expose());
    let instant = Duration::from_millis(1);
    tokio::time::sleep(instant).await;
    for round in 1..=3 {
        bench.verify(text).await.unwrap();
        tokio::time::sleep((10 * SECOND).saturating_sub(2 * instant)).await;
        assert_eq!(stored(&bench.keys, id).await.len(), usize::from(round > 1));
        tokio::time::sleep(2 * instant).await;
        assert_eq!(stored(&bench.keys, id).await, [(0, round, 0)]);
    }
    // A store that fails is tried again the next time.
    bench.verify(text).await.unwrap();
    bench.store.fail(true);
    tokio::time::sleep(10 * SECOND).await;
    bench.store.fail(false);
    tokio::time::sleep(10 * SECOND).await;
    assert_eq!(stored(&bench.keys, id).await, [(0, 4, 0)]);

    bench.keys.shutdown(SHUTDOWN).await.unwrap();
    bench.verify(text).await.unwrap();
    let writes = bench.store.writes();
    tokio::time::sleep(100 * SECOND).await;
    assert_eq!(bench.store.writes(), writes);
    bench.keys.shutdown(SHUTDOWN).await.unwrap();
    assert_eq!(stored(&bench.keys, id).await, [(0, 5, 0)]);
}

#[tokio::test(start_paused = true)]
async fn the_task_that_writes_ends_with_the_keys_and_holds_no_store_of_theirs() {
    let store = Arc::new(MemoryStore::new());
    let keys = ApiKeys::builder(Arc::clone(&store))
        .flush_interval(SECOND)
        .build();
    let clone = keys.clone();
    drop(keys);
    tokio::time::sleep(5 * SECOND).await;
    assert!(Arc::strong_count(&store) > 1);
    drop(clone);
    assert_eq!(Arc::strong_count(&store), 1, "at once");
    let tasks = || Handle::current().metrics().num_alive_tasks();
    assert_eq!(tasks(), 1);
    tokio::time::sleep(2 * SECOND).await;
    assert_eq!(tasks(), 0);
    let keys = ApiKeys::builder(Arc::clone(&store)).build();
    keys.shutdown(SHUTDOWN).await.unwrap();
    drop(keys);
    settle().await;
    assert_eq!(Arc::strong_count(&store), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_counted_during_flushes_is_counted_once() {
    let bench = Bench::new();
    let issued = bench.issue().await;
    let id = issued.key().record.id;
    let (threads, rounds) = (4, 1_000);
    let together = Arc::new(Barrier::new(threads + 1));
    let counting: Vec<_> = (0..threads)
        .map(|thread| {
            let (bench, text) = (bench.clone(), issued.secret().clone());
            let together = Arc::clone(&together);
            tokio::spawn(async move {
                together.wait().await;
                for round in 0..rounds {
                    bench.verify(text.expose()).await.unwrap();
                    if thread == 0 && round % 100 == 0 {
                        bench.clock.advance(HOUR / 4);
                    }
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    together.wait().await;
    while counting.iter().any(|thread| !thread.is_finished()) {
        bench.keys.flush().await.unwrap();
    }
    for thread in counting {
        thread.await.unwrap();
    }
    bench.keys.shutdown(SHUTDOWN).await.unwrap();
    let counted: u64 = stored(&bench.keys, id)
        .await
        .iter()
        .map(|(_, allowed, _)| allowed)
        .sum();
    assert_eq!(counted, u64::try_from(threads * rounds).unwrap());
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    Error,
    /// No answer, ever.
    Hang,
    Panic,
}

/// A store that does not take one of the batches of use.
#[derive(Clone, Debug, Default)]
struct Flaky {
    memory: MemoryStore,
    /// Which call of `record_usage`, from 1, and what becomes of it.
    fault: Arc<Mutex<Option<(usize, Fault)>>>,
    calls: Arc<AtomicUsize>,
}

impl Flaky {
    /// The number that stands for each call.
    const EACH: usize = 0;
}

#[async_trait]
impl KeyStore for Flaky {
    async fn find(&self, digest: &KeyDigest) -> Result<Option<StoredKey>, StoreError> {
        self.memory.find(digest).await
    }
}

#[async_trait]
impl KeyRepository for Flaky {
    async fn insert(
        &self,
        record: &KeyRecord,
        credential: &Credential,
        event: &KeyEvent,
    ) -> Result<(), StoreError> {
        self.memory.insert(record, credential, event).await
    }

    async fn get(&self, id: KeyId) -> Result<Option<Key>, StoreError> {
        self.memory.get(id).await
    }

    async fn list(&self, filter: &KeyFilter) -> Result<KeyPage, StoreError> {
        self.memory.list(filter).await
    }

    async fn apply(&self, change: &KeyChange) -> Result<bool, StoreError> {
        self.memory.apply(change).await
    }

    async fn record_usage(&self, batch: &UsageBatch) -> Result<(), StoreError> {
        let call = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        let fault = *self.fault.lock().unwrap();
        match fault.filter(|(faulty, _)| [call, Self::EACH].contains(faulty)) {
            None => self.memory.record_usage(batch).await,
            Some((_, Fault::Error)) => Err(StoreError::unavailable("the test says so")),
            Some((_, Fault::Hang)) => std::future::pending().await,
            Some((_, Fault::Panic)) => panic!("the test says so"),
        }
    }

    async fn usage(
        &self,
        id: KeyId,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<Vec<UsageBucket>, StoreError> {
        self.memory.usage(id, from, to).await
    }

    async fn events(
        &self,
        id: KeyId,
        before: Option<EventCursor>,
        limit: usize,
    ) -> Result<EventPage, StoreError> {
        self.memory.events(id, before, limit).await
    }

    async fn take_credits(
        &self,
        id: KeyId,
        at_least: u64,
        at_most: u64,
        now: Timestamp,
    ) -> Result<Option<CreditGrant>, StoreError> {
        self.memory.take_credits(id, at_least, at_most, now).await
    }

    async fn give_back_credits(&self, returns: &[CreditReturn]) -> Result<(), StoreError> {
        self.memory.give_back_credits(returns).await
    }

    async fn credits(&self, ids: &[KeyId]) -> Result<Vec<(KeyId, CreditBalance)>, StoreError> {
        self.memory.credits(ids).await
    }
}
