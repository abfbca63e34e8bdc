//! What works while the store does not.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;
use tower_api_key::testing::{ManualClock, ScriptedStore};
use tower_api_key::{
    CacheConfig, DenialReason, KeyDigest, KeyHasher, KeyStore, MemoryStore, NewKey, OutageKind,
    Pepper, StoreError, StoredKey, Verifier,
};

use super::{STALE, TTL, issue_many};
use crate::core_support::{
    Bench, NANOSECOND, SECOND, almost, outage, refusal, settle, unknown_key, verify,
};

#[tokio::test]
async fn a_store_that_fails_is_an_outage_and_no_denial() {
    let bench = Bench::new();
    let issued = bench.issue().await;
    bench.store.fail(true);
    for text in [issued.secret(), &unknown_key()] {
        let outcome = bench.verify(text.expose()).await;
        assert_eq!(outage(outcome), OutageKind::Store);
    }
    bench.store.fail(false);
    bench.verify(issued.secret().expose()).await.unwrap();
}

#[tokio::test]
async fn a_known_key_survives_an_outage_for_the_stated_time() {
    let config = CacheConfig::default().ttl(TTL).stale_if_error(STALE);
    let bench = Bench::cached(config);
    let issued = bench.issue().await;
    let text = issued.secret().expose();
    bench.verify(text).await.unwrap();
    bench.store.fail(true);
    for advance in [TTL, SECOND, almost(STALE.saturating_sub(SECOND))] {
        bench.clock.advance(advance);
        for _ in 0..3 {
            bench.verify(text).await.unwrap();
        }
    }
    bench.clock.advance(NANOSECOND);
    assert_eq!(outage(bench.verify(text).await), OutageKind::Store);
    bench.store.fail(false);
    bench.verify(text).await.unwrap();
}

#[tokio::test]
async fn an_expired_key_does_not_survive_in_an_outage() {
    let bench = Bench::cached(CacheConfig::default().ttl(TTL).stale_if_error(STALE));
    let end = bench.keys.now() + 2 * TTL;
    let new = NewKey::named("billing").scopes(["orders:read"]);
    let issued = bench.keys.issue(new.expires_at(end)).await.unwrap();
    let text = issued.secret().expose();
    bench.verify(text).await.unwrap();
    bench.store.fail(true);
    bench.clock.advance(almost(2 * TTL));
    bench.verify(text).await.unwrap();
    bench.clock.advance(NANOSECOND);
    assert_eq!(refusal(bench.verify(text).await), DenialReason::Expired);
}

#[tokio::test(start_paused = true)]
async fn known_keys_do_not_wait_for_a_store_that_hangs() {
    let config = CacheConfig::default().ttl(TTL).stale_if_error(STALE);
    let bench = Bench::cached(config.lookup_deadline(2 * SECOND));
    let issued = issue_many(&bench, 2).await;
    let [text, other] = [0, 1].map(|key| issued[key].secret().expose());
    bench.verify(text).await.unwrap();
    bench.verify(other).await.unwrap();
    bench.store.hold_lookups(true);
    bench.clock.advance(TTL);
    let began = Instant::now();
    bench.verify(text).await.unwrap();
    assert!(began.elapsed() >= 2 * SECOND, "the first one finds it out");
    assert_eq!(bench.store.lookups(), 3);

    for round in 1..=3 {
        // Until a second has passed, nobody asks.
        let began = Instant::now();
        for _ in 0..100 {
            bench.verify(text).await.unwrap();
            bench.verify(other).await.unwrap();
        }
        assert_eq!(began.elapsed(), Duration::ZERO);
        assert_eq!(bench.store.lookups(), 2 + round);

        // Then one does, and the others still do not wait.
        bench.clock.advance(SECOND);
        let waiting: Vec<_> = (0..10)
            .flat_map(|_| [bench.begin(text), bench.begin(other)])
            .collect();
        settle().await;
        assert_eq!(bench.store.lookups(), 3 + round);
        let waits = waiting.iter().filter(|task| !task.is_finished()).count();
        assert_eq!(waits, 1);
        for verification in waiting {
            verification.await.unwrap().unwrap();
        }
    }

    // It recovers by itself.
    bench.store.hold_lookups(false);
    bench.clock.advance(SECOND);
    bench.verify(text).await.unwrap();
    let lookups = bench.store.lookups();
    for _ in 0..10 {
        bench.verify(text).await.unwrap();
        bench.verify(other).await.unwrap();
    }
    assert_eq!(
        bench.store.lookups(),
        lookups + 1,
        "the other one is read anew at once, and both are fresh then"
    );
}

#[tokio::test]
async fn an_invalidated_key_is_not_served_in_an_outage() {
    let bench = Bench::new();
    let issued = issue_many(&bench, 2).await;
    let texts = [0, 1].map(|key| issued[key].secret().expose());
    for text in texts {
        bench.verify(text).await.unwrap();
    }
    bench.keys.revoke(issued[0].key().record.id).await.unwrap();
    let verifier = bench.keys.verifier();
    verifier.invalidate(issued[1].key().record.id);
    bench.store.fail(true);
    for _ in 0..3 {
        for text in texts {
            assert_eq!(outage(bench.verify(text).await), OutageKind::Store);
        }
        bench.clock.advance(SECOND);
    }
    bench.store.fail(false);
    assert_eq!(refusal(bench.verify(texts[0]).await), DenialReason::Revoked);
    bench.verify(texts[1]).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_key_of_an_older_pepper_survives_an_outage_too() {
    let pepper = |id| Pepper::new(id, &[id.len().try_into().unwrap(); 32]).unwrap();
    let bench = Bench::built(|builder| {
        let hasher = KeyHasher::peppered(pepper("older"));
        builder.hasher(hasher)
    });
    let issued = bench.issue().await;
    let store = ScriptedStore::new(bench.memory.clone());
    let verifier = Verifier::builder(store.clone())
        .clock(bench.clock.clone())
        .hasher(KeyHasher::peppered(pepper("new")).accept(pepper("older")))
        .build_verifier();
    let text = issued.secret().expose();
    verify(&verifier, text).await.unwrap();
    assert_eq!(store.lookups(), 2, "one for each pepper");

    // Longer than a miss is remembered.
    bench.clock.advance(30 * SECOND);
    store.hold_lookups(true);
    let began = Instant::now();
    verify(&verifier, text).await.unwrap();
    assert_eq!(store.lookups(), 2, "a hit is a hit under any pepper");
    assert_eq!(began.elapsed(), Duration::ZERO);

    bench.clock.advance(TTL);
    verify(&verifier, text).await.unwrap();
    let began = Instant::now();
    for _ in 0..10 {
        verify(&verifier, text).await.unwrap();
    }
    assert_eq!(
        began.elapsed(),
        Duration::ZERO,
        "the store is known to hang"
    );
    bench.clock.advance(SECOND);
    verify(&verifier, text).await.unwrap();
}

#[tokio::test]
async fn the_hottest_keys_survive_an_outage_also_in_a_full_cache() {
    // Hits in the table in front are not seen by the cache behind it, which drops the entry.
    let bench = Bench::cached(CacheConfig::default().capacity(0));
    let issued = bench.issue().await;
    let text = issued.secret().expose();
    bench.verify(text).await.unwrap();
    for _ in 0..1_000 {
        refusal(bench.verify(unknown_key().expose()).await);
        bench.verify(text).await.unwrap();
    }
    bench.store.fail(true);
    bench.clock.advance(TTL);
    bench.verify(text).await.unwrap();
}

#[tokio::test]
async fn a_row_that_cannot_be_read_is_an_outage_of_that_key_only() {
    let bench = Bench::new();
    let issued = issue_many(&bench, 2).await;
    let store = Faulty::new(&bench.memory);
    let verifier = store.verifier(&bench.clock);
    let [broken, sound] = [0, 1].map(|key| issued[key].secret().expose());
    store.set(broken, Fault::Corrupt);
    verify(&verifier, sound).await.unwrap();
    for _ in 0..3 {
        let outcome = verify(&verifier, broken).await;
        assert_eq!(outage(outcome), OutageKind::Store);
    }
    // The store is not taken to be down: a known key is read anew at its TTL.
    let before = store.lookups();
    bench.clock.advance(TTL);
    verify(&verifier, sound).await.unwrap();
    assert_eq!(store.lookups(), before + 1);
    store.heal();
    verify(&verifier, broken).await.unwrap();
}

#[tokio::test]
async fn a_store_that_panics_is_an_outage_and_the_cache_recovers() {
    let bench = Bench::new();
    let issued = bench.issue().await;
    let text = issued.secret().expose();
    let store = Faulty::new(&bench.memory);
    let verifier = store.verifier(&bench.clock);
    store.set(text, Fault::Panic);
    for _ in 0..100 {
        let outcome = verify(&verifier, text).await;
        assert_eq!(outage(outcome), OutageKind::Store);
    }
    store.heal();
    verify(&verifier, text).await.unwrap();
    // And for a known key it is like any other failure.
    store.set(text, Fault::Panic);
    bench.clock.advance(TTL);
    verify(&verifier, text).await.unwrap();
}

#[tokio::test]
async fn a_row_that_is_gone_is_gone_also_in_an_outage() {
    let bench = Bench::new();
    let issued = bench.issue().await;
    let text = issued.secret().expose();
    let store = Faulty::new(&bench.memory);
    let verifier = store.verifier(&bench.clock);
    verify(&verifier, text).await.unwrap();
    store.set(text, Fault::Gone);
    bench.clock.advance(TTL);
    assert_eq!(
        refusal(verify(&verifier, text).await),
        DenialReason::Unknown
    );
    store.set(text, Fault::Unavailable);
    bench.clock.advance(TTL);
    assert_eq!(outage(verify(&verifier, text).await), OutageKind::Store);
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    Corrupt,
    Gone,
    Panic,
    Unavailable,
}

/// A store with one digest that something is the matter with.
#[derive(Clone, Debug)]
struct Faulty {
    memory: MemoryStore,
    fault: Arc<Mutex<Option<(KeyDigest, Fault)>>>,
    lookups: Arc<AtomicUsize>,
}

impl Faulty {
    fn new(memory: &MemoryStore) -> Self {
        Self {
            memory: memory.clone(),
            fault: Arc::default(),
            lookups: Arc::default(),
        }
    }

    fn verifier(&self, clock: &ManualClock) -> Verifier {
        Verifier::builder(self.clone())
            .clock(clock.clone())
            .build_verifier()
    }

    fn set(&self, text: &str, fault: Fault) {
        *self.fault.lock().unwrap() = Some((KeyDigest::sha256(text), fault));
    }

    fn heal(&self) {
        *self.fault.lock().unwrap() = None;
    }

    fn lookups(&self) -> usize {
        self.lookups.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl KeyStore for Faulty {
    async fn find(&self, digest: &KeyDigest) -> Result<Option<StoredKey>, StoreError> {
        self.lookups.fetch_add(1, Ordering::SeqCst);
        let fault = *self.fault.lock().unwrap();
        match fault.filter(|(faulty, _)| faulty == digest) {
            None => self.memory.find(digest).await,
            Some((_, Fault::Corrupt)) => Err(StoreError::corrupt("key_1", "half a row")),
            Some((_, Fault::Gone)) => Ok(None),
            Some((_, Fault::Panic)) => panic!("the test says so"),
            Some((_, Fault::Unavailable)) => Err(StoreError::unavailable("the test says so")),
        }
    }
}
