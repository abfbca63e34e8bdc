//! Stores whose answers may be old: replicas that stand still, and rows that were put back.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tower_api_key::testing::{ManualClock, ScriptedStore};
use tower_api_key::{
    ApiKeys, CacheConfig, DenialReason, Issued, KeyDigest, KeyStore, KeyUpdate, MemoryStore,
    NewKey, OutageKind, StoreError, StoredKey, Verifier,
};

use super::TTL;
use crate::core_support::{Bench, SECOND, outage, refusal, verify};
use crate::invalidation::ScriptedBus;

const LAG: Duration = Duration::from_secs(10);
const SILENCE: Duration = Duration::from_secs(5);

/// A copy of rows, as old as the last time that a test let it replay.
#[derive(Clone, Debug, Default)]
pub(super) struct Replica(Arc<Mutex<HashMap<KeyDigest, StoredKey>>>);

impl Replica {
    pub(super) async fn replay(&self, primary: &MemoryStore, digest: KeyDigest) {
        let row = primary.find(&digest).await.unwrap();
        let mut rows = self.0.lock().unwrap();
        match row {
            Some(row) => drop(rows.insert(digest, row)),
            None => drop(rows.remove(&digest)),
        }
    }
}

#[async_trait]
impl KeyStore for Replica {
    async fn find(&self, digest: &KeyDigest) -> Result<Option<StoredKey>, StoreError> {
        Ok(self.0.lock().unwrap().get(digest).cloned())
    }
}

/// An instance that reads from a replica, and one key that the replica knows.
struct Replicated {
    memory: MemoryStore,
    replica: Replica,
    clock: ManualClock,
    keys: ApiKeys,
    elsewhere: ApiKeys,
    issued: Issued,
}

impl Replicated {
    async fn new(bus: Option<&ScriptedBus>) -> Self {
        let (memory, replica) = (MemoryStore::new(), Replica::default());
        let clock = ManualClock::default();
        let elsewhere = ApiKeys::builder(memory.clone()).clock(clock.clone());
        let elsewhere = elsewhere.build();
        let new = NewKey::named("x").scopes(["orders:read"]);
        let issued = elsewhere.issue(new).await.unwrap();
        let digest = issued.key().credentials[0].digest;
        replica.replay(&memory, digest).await;
        let store = ScriptedStore::new(memory.clone()).replica(replica.clone());
        let config = CacheConfig::default()
            .ttl(TTL)
            .replica_lag(LAG)
            .max_bus_silence(SILENCE);
        let mut builder = ApiKeys::builder(store).clock(clock.clone()).cache(config);
        if let Some(bus) = bus {
            builder = builder.bus(bus.clone());
        }
        let keys = builder.build();
        if let Some(bus) = bus {
            bus.heard(1).await;
        }
        Self {
            memory,
            replica,
            clock,
            keys,
            elsewhere,
            issued,
        }
    }

    async fn verify(&self) -> Result<tower_api_key::Verified, tower_api_key::Denial> {
        verify(self.keys.verifier(), self.issued.secret().expose()).await
    }

    /// Lets time pass while the bus works.
    async fn pass(&self, time: Duration, bus: &ScriptedBus) {
        self.clock.advance(time);
        // The first answers a question that was asked before the time passed.
        bus.prove().await;
        bus.prove().await;
    }
}

#[tokio::test]
async fn a_replica_that_stands_still_revives_no_key_in_the_process_that_revoked_it() {
    let replicated = Replicated::new(None).await;
    let id = replicated.issued.key().record.id;
    replicated.verify().await.unwrap();
    replicated.keys.revoke(id).await.unwrap();
    for _ in 0..10 {
        let outcome = replicated.verify().await;
        assert_eq!(refusal(outcome), DenialReason::Revoked);
        replicated.clock.advance(TTL.max(LAG) * 2);
    }
    // Without having been read since, as well.
    let replicated = Replicated::new(None).await;
    let id = replicated.issued.key().record.id;
    replicated.keys.revoke(id).await.unwrap();
    replicated.clock.advance(TTL.max(LAG) * 2);
    let outcome = replicated.verify().await;
    assert_eq!(refusal(outcome), DenialReason::Revoked);
}

#[tokio::test]
async fn a_replica_that_stands_still_revives_no_key_that_was_revoked_elsewhere() {
    // The bus has carried the change, or was lost when it was made.
    for is_carried in [true, false] {
        let bus = ScriptedBus::new();
        let replicated = Replicated::new(Some(&bus)).await;
        let id = replicated.issued.key().record.id;
        replicated.verify().await.unwrap();
        replicated.elsewhere.revoke(id).await.unwrap();
        if is_carried {
            bus.say(&id.to_string()).await;
        } else {
            bus.fail().await;
        }
        // Nobody asks for it in the time for which all is read from the primary.
        for _ in 0..10 {
            replicated.pass(TTL.max(LAG) * 2, &bus).await;
            let outcome = replicated.verify().await;
            assert_eq!(refusal(outcome), DenialReason::Revoked);
        }
    }
}

#[tokio::test]
async fn a_key_that_is_read_from_a_replica_is_as_old_as_the_last_proof_of_the_bus() {
    let bus = ScriptedBus::new();
    let replicated = Replicated::new(Some(&bus)).await;
    replicated.verify().await.unwrap();
    replicated.pass(2 * TTL, &bus).await;
    let id = replicated.issued.key().record.id;
    // No message of it has arrived, and the replica lacks it too.
    replicated.elsewhere.revoke(id).await.unwrap();
    replicated.clock.advance(SILENCE.saturating_sub(SECOND));
    replicated.verify().await.unwrap();
    replicated.clock.advance(SECOND);
    let outcome = replicated.verify().await;
    assert_eq!(refusal(outcome), DenialReason::Revoked);
}

#[tokio::test]
async fn a_replica_that_lacks_a_known_key_is_behind() {
    let replicated = Replicated::new(None).await;
    let digest = replicated.issued.key().credentials[0].digest;
    replicated.verify().await.unwrap();
    replicated.replica.0.lock().unwrap().clear();
    replicated.clock.advance(TTL);
    replicated.verify().await.unwrap();
    // A row that is gone is gone.
    let replica = ScriptedStore::new(MemoryStore::new()).replica(replicated.replica.clone());
    assert!(replica.find_latest(&digest).await.unwrap().is_none());
    let verifier = Verifier::builder(replica).build_verifier();
    let text = replicated.issued.secret().expose();
    assert_eq!(
        refusal(verify(&verifier, text).await),
        DenialReason::Unknown
    );
}

#[tokio::test]
async fn a_replica_that_has_caught_up_is_believed() {
    let replicated = Replicated::new(None).await;
    let record = &replicated.issued.key().record;
    replicated.verify().await.unwrap();
    let update = KeyUpdate::new().scopes(["orders:list"]);
    replicated.keys.update(record.id, update).await.unwrap();
    let digest = replicated.issued.key().credentials[0].digest;
    replicated.clock.advance(2 * TTL);
    assert_eq!(refusal(replicated.verify().await), DenialReason::Scope);
    let update = KeyUpdate::new().scopes(["orders:*"]);
    replicated
        .elsewhere
        .update(record.id, update)
        .await
        .unwrap();
    replicated.replica.replay(&replicated.memory, digest).await;
    replicated.clock.advance(2 * TTL);
    replicated.verify().await.unwrap();
}

#[tokio::test]
async fn a_change_that_one_secret_shows_holds_for_the_others_of_the_key() {
    // There is no bus.
    let bench = Bench::new();
    let first = bench.issue().await;
    let id = first.key().record.id;
    let second = bench.keys.rotate(id, TTL * 10).await.unwrap();
    for text in [first.secret(), second.secret()] {
        bench.verify(text.expose()).await.unwrap();
    }
    bench.clock.advance(TTL / 2);
    bench.verify(second.secret().expose()).await.unwrap();
    let third = bench.elsewhere().rotate(id, TTL * 10).await.unwrap();
    bench.elsewhere().disable(id).await.unwrap();
    for text in [&third, &first, &second] {
        let outcome = bench.verify(text.secret().expose()).await;
        assert_eq!(refusal(outcome), DenialReason::Disabled);
    }
    // And what is changed back is seen as well.
    bench.elsewhere().enable(id).await.unwrap();
    bench.clock.advance(TTL);
    for text in [&first, &second] {
        bench.verify(text.secret().expose()).await.unwrap();
    }
}

/// Answers with the one row that it is given, and has no other way to be asked.
#[derive(Clone, Debug, Default)]
struct OneRow(Arc<Mutex<Option<StoredKey>>>);

#[async_trait]
impl KeyStore for OneRow {
    async fn find(&self, _: &KeyDigest) -> Result<Option<StoredKey>, StoreError> {
        Ok(self.0.lock().unwrap().clone())
    }
}

#[tokio::test]
async fn a_row_older_than_one_seen_before_is_an_outage() {
    let bench = Bench::new();
    let issued = bench.issue().await;
    let digest = issued.key().credentials[0].digest;
    let text = issued.secret().expose();
    let row = bench.memory.find(&digest).await.unwrap().unwrap();
    bench.keys.disable(row.record.id).await.unwrap();
    let newer = bench.memory.find(&digest).await.unwrap().unwrap();
    let store = OneRow::default();
    let verifier = Verifier::builder(store.clone()).clock(bench.clock.clone());
    let verifier = verifier.build_verifier();
    let answer = async |row: &StoredKey| {
        *store.0.lock().unwrap() = Some(row.clone());
        verifier.invalidate(row.record.id);
        verify(&verifier, text).await
    };
    answer(&row).await.unwrap();
    for _ in 0..3 {
        assert_eq!(refusal(answer(&newer).await), DenialReason::Disabled);
        assert_eq!(outage(answer(&row).await), OutageKind::Store);
        bench.clock.advance(TTL * 10);
    }
}

#[tokio::test]
async fn the_row_of_another_credential_is_an_outage_and_no_pass() {
    let bench = Bench::new();
    let (asked, other) = (bench.issue().await, bench.issue().await);
    let row = async |issued: &Issued| {
        let digest = issued.key().credentials[0].digest;
        bench.memory.find(&digest).await.unwrap().unwrap()
    };
    let (own, others) = (row(&asked).await, row(&other).await);
    // Of another key, and of the same key under another secret.
    let mut of_same_key = own.clone();
    of_same_key.credential.digest = others.credential.digest;
    for wrong in [others, of_same_key] {
        let store = OneRow::default();
        let verifier = Verifier::builder(store.clone()).clock(bench.clock.clone());
        let verifier = verifier.build_verifier();
        *store.0.lock().unwrap() = Some(wrong);
        let (log, _guard) = crate::log::Log::capture();
        let text = asked.secret().expose();
        let outcome = verify(&verifier, text).await;
        assert_eq!(outage(outcome), OutageKind::Store);
        let told = log.take();
        assert!(told.contains("another credential"), "{told}");
        assert!(!told.contains(&text[16..]), "{told}");
        // Nothing of it is kept, and one bad row is no outage of the store.
        *store.0.lock().unwrap() = Some(own.clone());
        verify(&verifier, text).await.unwrap();
    }
}
