//! A store that has more to do than it can, which is not one that is down.

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;
use tower_api_key::testing::ManualClock;
use tower_api_key::{
    ApiKeys, CacheConfig, DenialReason, Issued, KeyDigest, KeyId, KeyStore, MemoryStore, NewKey,
    OutageKind, StoreError, StoredKey, Verifier,
};

use super::TTL;
use crate::core_support::{Bench, SECOND, outage, refusal, settle, unknown_key, verify};
use crate::invalidation::ScriptedBus;

/// So long each lookup takes.
const SLOW: Duration = Duration::from_millis(1_200);
const DEADLINE: Duration = Duration::from_secs(2);

/// Answers each lookup, after a while.
#[derive(Clone, Debug)]
struct SlowStore(MemoryStore);

#[async_trait]
impl KeyStore for SlowStore {
    async fn find(&self, digest: &KeyDigest) -> Result<Option<StoredKey>, StoreError> {
        tokio::time::sleep(SLOW).await;
        self.0.find(digest).await
    }
}

/// An instance that makes one lookup at a time, and keys that it knows.
struct Busy {
    verifier: Verifier,
    clock: ManualClock,
    elsewhere: ApiKeys,
    issued: Vec<Issued>,
}

impl Busy {
    async fn new(bus: Option<&ScriptedBus>) -> Self {
        let (memory, clock) = (MemoryStore::new(), ManualClock::default());
        let elsewhere = ApiKeys::builder(memory.clone()).clock(clock.clone());
        let elsewhere = elsewhere.build();
        let config = CacheConfig::default()
            .ttl(TTL)
            .max_bus_silence(TTL)
            .max_lookups(1)
            .lookup_deadline(DEADLINE);
        let mut builder = Verifier::builder(SlowStore(memory))
            .clock(clock.clone())
            .cache(config);
        if let Some(bus) = bus {
            builder = builder.bus(bus.clone());
        }
        let verifier = builder.build_verifier();
        if let Some(bus) = bus {
            bus.heard(1).await;
        }
        let mut issued = Vec::new();
        for _ in 0..3 {
            let new = NewKey::named("x").scopes(["orders:read"]);
            let key = elsewhere.issue(new).await.unwrap();
            verify(&verifier, key.secret().expose()).await.unwrap();
            issued.push(key);
        }
        Self {
            verifier,
            clock,
            elsewhere,
            issued,
        }
    }

    fn id(&self, key: usize) -> KeyId {
        self.issued[key].key().record.id
    }

    fn begin(
        &self,
        text: &str,
    ) -> tokio::task::JoinHandle<Result<tower_api_key::Verified, tower_api_key::Denial>> {
        let (verifier, text) = (self.verifier.clone(), text.to_owned());
        tokio::spawn(async move { verify(&verifier, &text).await })
    }

    fn begin_key(
        &self,
        key: usize,
    ) -> tokio::task::JoinHandle<Result<tower_api_key::Verified, tower_api_key::Denial>> {
        self.begin(self.issued[key].secret().expose())
    }
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_made_up_keys_marks_no_store_as_down() {
    let busy = Busy::new(None).await;
    busy.clock.advance(TTL);
    busy.elsewhere.revoke(busy.id(0)).await.unwrap();
    let flood: Vec<_> = (0..20)
        .map(|_| busy.begin(unknown_key().expose()))
        .collect();
    for stranger in flood {
        let denial = stranger.await.unwrap().unwrap_err();
        assert!(matches!(
            denial.reason(),
            DenialReason::Unknown | DenialReason::Store
        ));
    }
    // Most of them have waited for their turn in vain, and the store has answered all that it was
    // asked.
    let reason = refusal(busy.begin_key(0).await.unwrap());
    assert_eq!(reason, DenialReason::Revoked);
    busy.begin_key(1).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_known_key_is_read_before_the_flood_that_came_first() {
    let busy = Busy::new(None).await;
    busy.clock.advance(TTL);
    busy.elsewhere.revoke(busy.id(0)).await.unwrap();
    let flood: Vec<_> = (0..100)
        .map(|_| busy.begin(unknown_key().expose()))
        .collect();
    settle().await;
    tokio::time::sleep(SLOW.saturating_sub(Duration::from_millis(100))).await;
    // The first stranger is about to be done; a hundred are in the queue.
    let began = Instant::now();
    let reason = refusal(busy.begin_key(0).await.unwrap());
    assert_eq!(reason, DenialReason::Revoked);
    assert!(began.elapsed() < DEADLINE, "{:?}", began.elapsed());
    for stranger in flood {
        stranger.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_that_could_not_be_read_because_others_were_is_not_served_from_before() {
    let busy = Busy::new(None).await;
    busy.clock.advance(TTL);
    for key in 0..3 {
        busy.elsewhere.revoke(busy.id(key)).await.unwrap();
    }
    let began = Instant::now();
    let [first, second, third] = [0, 1, 2].map(|key| busy.begin_key(key));
    assert_eq!(refusal(first.await.unwrap()), DenialReason::Revoked);
    // It is being read, but not in time; and the third is not even being read.
    assert_eq!(outage(second.await.unwrap()), OutageKind::Deadline);
    assert_eq!(outage(third.await.unwrap()), OutageKind::Deadline);
    assert!(began.elapsed() < DEADLINE + SECOND, "{:?}", began.elapsed());
    tokio::time::sleep(SLOW).await;
    let second = busy.begin_key(1).await.unwrap();
    assert_eq!(refusal(second), DenialReason::Revoked, "it was read");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_is_down_also_for_keys_whose_turn_has_not_come() {
    let config = CacheConfig::default().ttl(TTL).max_lookups(1);
    let bench = Bench::cached(config.lookup_deadline(DEADLINE));
    let issued = super::issue_many(&bench, 5).await;
    for key in &issued {
        bench.verify(key.secret().expose()).await.unwrap();
    }
    bench.store.hold_lookups(true);
    bench.clock.advance(TTL);
    let began = Instant::now();
    let waiting: Vec<_> = issued
        .iter()
        .map(|key| bench.begin(key.secret().expose()))
        .collect();
    for verification in waiting {
        verification.await.unwrap().unwrap();
    }
    assert!(began.elapsed() < DEADLINE + SECOND, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_key_that_the_bus_vouches_for_is_served_though_others_are_read() {
    let bus = ScriptedBus::new();
    let busy = Busy::new(Some(&bus)).await;
    busy.clock.advance(TTL);
    // The first answers a question that was asked before the time passed.
    bus.prove().await;
    bus.prove().await;
    let [first, second, third] = [0, 1, 2].map(|key| busy.begin_key(key));
    for key in [first, second, third] {
        key.await.unwrap().unwrap();
    }

    // Not so without a proof.
    tokio::time::sleep(2 * SLOW).await;
    busy.clock.advance(TTL);
    let [first, second, third] = [0, 1, 2].map(|key| busy.begin_key(key));
    first.await.unwrap().unwrap();
    for key in [second, third] {
        assert_eq!(outage(key.await.unwrap()), OutageKind::Deadline);
    }
}
