//! What other instances change.

mod files;
mod publishing;
mod scripted_bus;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;
use tower_api_key::testing::{ManualClock, ScriptedStore};
use tower_api_key::{
    ApiKeys, BusError, DenialKind, DenialReason, InProcessBus, Invalidation, InvalidationBus,
    Issued, KeyDigest, KeyStore, MemoryStore, NewKey, StoreError, StoredKey, Subscription,
};

pub(crate) use self::scripted_bus::ScriptedBus;
use crate::core_support::{NANOSECOND, SECOND, almost, refusal, settle, verify};

const SILENCE: Duration = Duration::from_secs(5);
const STALE: Duration = Duration::from_mins(10);

/// One instance of a service, on a clock and a bus that obey.
struct Instance {
    keys: ApiKeys,
    store: ScriptedStore<MemoryStore>,
    clock: ManualClock,
}

impl Instance {
    fn of(memory: &MemoryStore, bus: impl InvalidationBus) -> Self {
        let (store, clock) = (ScriptedStore::new(memory.clone()), ManualClock::default());
        let builder = ApiKeys::builder(store.clone());
        let keys = builder.clock(clock.clone()).bus(bus).build();
        Self { keys, store, clock }
    }

    async fn issue(&self) -> Issued {
        self.keys
            .issue(NewKey::named("x").scopes(["orders:read"]))
            .await
            .unwrap()
    }

    async fn accepts(&self, issued: &Issued) -> bool {
        verify(self.keys.verifier(), issued.secret().expose())
            .await
            .is_ok()
    }

    /// Waits until the bus has been heard.
    async fn refuses_soon(&self, issued: &Issued) -> bool {
        eventually(async || !self.accepts(issued).await).await
    }
}

/// Whether it comes true while other tasks run.
async fn eventually(condition: impl AsyncFn() -> bool) -> bool {
    for _ in 0..2_000 {
        if condition().await {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    false
}

#[tokio::test]
async fn what_one_instance_changes_holds_on_the_other() {
    let (memory, bus) = (MemoryStore::new(), InProcessBus::new());
    let (here, there) = (
        Instance::of(&memory, bus.clone()),
        Instance::of(&memory, bus),
    );
    let issued = here.issue().await;
    let id = issued.key().record.id;
    assert!(there.accepts(&issued).await);
    here.keys.disable(id).await.unwrap();
    assert!(there.refuses_soon(&issued).await);
    here.keys.enable(id).await.unwrap();
    assert!(eventually(async || there.accepts(&issued).await).await);
    let rotated = here.keys.rotate(id, Duration::ZERO).await.unwrap();
    assert!(there.refuses_soon(&issued).await);
    assert!(there.accepts(&rotated).await);
    there.keys.revoke(id).await.unwrap();
    assert!(here.refuses_soon(&rotated).await);
}

#[tokio::test]
async fn a_rotation_ends_secrets_by_each_instances_own_clock_and_a_revocation_at_once() {
    let (memory, bus) = (MemoryStore::new(), InProcessBus::new());
    let here = Instance::of(&memory, bus.clone());
    let behind = Instance::of(&memory, bus);
    let issued = here.issue().await;
    let id = issued.key().record.id;
    behind.clock.set_wall(here.keys.now() - 2 * SECOND);
    assert!(behind.accepts(&issued).await);

    let lookups = behind.store.lookups();
    let rotated = here.keys.rotate(id, Duration::ZERO).await.unwrap();
    assert!(!here.accepts(&issued).await);
    let heard = async || behind.accepts(&issued).await && behind.store.lookups() > lookups;
    assert!(eventually(heard).await);
    behind.clock.advance(almost(2 * SECOND));
    assert!(behind.accepts(&issued).await, "its clock is not there yet");
    behind.clock.advance(NANOSECOND);
    assert!(!behind.accepts(&issued).await);

    behind.clock.set_wall(here.keys.now() - 2 * SECOND);
    assert!(behind.accepts(&rotated).await);
    here.keys.disable(id).await.unwrap();
    assert!(behind.refuses_soon(&rotated).await);
    here.keys.enable(id).await.unwrap();
    assert!(eventually(async || behind.accepts(&rotated).await).await);
    here.keys.revoke(id).await.unwrap();
    assert!(behind.refuses_soon(&rotated).await);
}

#[tokio::test]
async fn a_key_that_was_unknown_here_works_once_it_was_issued_there() {
    let (memory, bus) = (MemoryStore::new(), ScriptedBus::new());
    let here = Instance::of(&memory, bus.clone());
    bus.heard(1).await;
    let elsewhere = ApiKeys::builder(MemoryStore::new()).build();
    let issued = elsewhere
        .issue(NewKey::named("x").scopes(["orders:read"]))
        .await
        .unwrap();
    assert_eq!(
        refusal(verify(here.keys.verifier(), issued.secret().expose()).await),
        DenialReason::Unknown
    );
    // The same credential, stored by another instance.
    let (record, credential) = (&issued.key().record, &issued.key().credentials[0]);
    copy(&elsewhere, &memory, &issued).await;
    assert!(!here.accepts(&issued).await, "the miss is remembered");
    let tag = tower_api_key::DigestTag::of(&credential.digest);
    bus.say(&format!("{} {tag}", record.id)).await;
    assert!(here.accepts(&issued).await);
}

/// Puts an issued key into another store.
async fn copy(keys: &ApiKeys, memory: &MemoryStore, issued: &Issued) {
    let key = issued.key();
    let events = keys.events(key.record.id, None, 1).await.unwrap();
    let event = events.events[0].clone();
    tower_api_key::KeyRepository::insert(memory, &key.record, &key.credentials[0], &event)
        .await
        .unwrap();
}

#[tokio::test]
async fn an_instance_forgets_after_it_has_subscribed() {
    let (memory, bus) = (MemoryStore::new(), ScriptedBus::new());
    bus.open(false);
    let here = Instance::of(&memory, bus.clone());
    let elsewhere = ApiKeys::builder(memory.clone()).build();
    let issued = here.issue().await;
    assert!(here.accepts(&issued).await);
    elsewhere.revoke(issued.key().record.id).await.unwrap();
    settle().await;
    assert!(here.accepts(&issued).await, "nobody has told it");
    bus.open(true);
    bus.heard(1).await;
    assert!(!here.accepts(&issued).await);
}

#[tokio::test(start_paused = true)]
async fn an_instance_forgets_when_it_has_subscribed_again() {
    let (memory, bus) = (MemoryStore::new(), ScriptedBus::new());
    let here = Instance::of(&memory, bus.clone());
    let elsewhere = ApiKeys::builder(memory.clone()).build();
    bus.heard(1).await;
    let issued = here.issue().await;
    bus.heard(2).await;
    assert!(here.accepts(&issued).await);
    elsewhere.revoke(issued.key().record.id).await.unwrap();
    assert!(here.accepts(&issued).await);
    bus.fail().await;
    assert!(!here.accepts(&issued).await);
    assert_eq!(bus.subscriptions(), 2);
}

#[tokio::test]
async fn a_silent_bus_makes_an_instance_read_every_key_again() {
    let (memory, bus) = (MemoryStore::new(), ScriptedBus::new());
    let here = Instance::of(&memory, bus.clone());
    bus.heard(1).await;
    let issued = here.issue().await;
    bus.heard(2).await;
    assert!(here.accepts(&issued).await);
    here.clock.advance(almost(SILENCE));
    assert!(here.accepts(&issued).await);
    assert_eq!(here.store.lookups(), 1);

    // Nobody tells of this.
    let elsewhere = ApiKeys::builder(memory).clock(here.clock.clone()).build();
    elsewhere.disable(issued.key().record.id).await.unwrap();
    here.clock.advance(NANOSECOND);
    assert!(!here.accepts(&issued).await);
    elsewhere.enable(issued.key().record.id).await.unwrap();
    here.clock.advance(almost(SILENCE));
    assert!(!here.accepts(&issued).await, "read a moment ago");
    here.clock.advance(NANOSECOND);
    assert!(here.accepts(&issued).await);

    // With the store gone as well, what was known is used for the time that outages have.
    here.store.fail(true);
    here.clock.advance(STALE);
    assert!(here.accepts(&issued).await);
    here.clock.advance(Duration::from_mins(1));
    let refused = verify(here.keys.verifier(), issued.secret().expose()).await;
    assert_eq!(refused.unwrap_err().kind(), DenialKind::Unavailable);
}

#[tokio::test]
async fn proofs_keep_the_trust_in_what_was_read_long_ago() {
    let (memory, bus) = (MemoryStore::new(), ScriptedBus::new());
    let here = Instance::of(&memory, bus.clone());
    bus.heard(1).await;
    let issued = here.issue().await;
    bus.heard(2).await;
    assert!(here.accepts(&issued).await);
    for _ in 0..5 {
        here.clock.advance(SILENCE);
        // The first answers a question that was asked before the time passed.
        bus.prove().await;
        bus.prove().await;
        assert!(here.accepts(&issued).await);
    }
    assert_eq!(here.store.lookups(), 1);
    here.clock.advance(SILENCE);
    bus.prove().await;
    assert!(here.accepts(&issued).await);
    assert_eq!(here.store.lookups(), 2, "it proved what was long ago");
    // A message is no proof: it may have been under way for long.
    here.clock.advance(SILENCE);
    bus.say(
        &Instance::of(&MemoryStore::new(), InProcessBus::new())
            .issue()
            .await
            .key()
            .record
            .id
            .to_string(),
    )
    .await;
    assert!(here.accepts(&issued).await);
    assert_eq!(here.store.lookups(), 3);
}

#[tokio::test]
async fn of_several_buses_all_are_heard_and_the_first_is_trusted() {
    let (memory, first, second) = (MemoryStore::new(), ScriptedBus::new(), ScriptedBus::new());
    let (store, clock) = (ScriptedStore::new(memory.clone()), ManualClock::default());
    let builder = ApiKeys::builder(store.clone()).clock(clock.clone());
    let keys = builder.bus(first.clone()).bus(second.clone()).build();
    let here = Instance { keys, store, clock };
    let both_heard = async |times| {
        first.heard(times).await;
        second.heard(times).await;
    };
    both_heard(1).await;
    let issued = here.issue().await;
    both_heard(2).await;
    let id = issued.key().record.id;
    assert_eq!(first.published(), second.published());
    assert_eq!(first.published().len(), 1);
    assert!(here.accepts(&issued).await);

    // What a bus beside the first has lost, the first has told.
    second.fail().await;
    assert!(here.accepts(&issued).await);
    assert_eq!(here.store.lookups(), 1);
    // Its silence means nothing, and its proofs neither.
    here.clock.advance(SILENCE);
    first.prove().await;
    first.prove().await;
    assert!(here.accepts(&issued).await);
    assert_eq!(here.store.lookups(), 1);
    here.clock.advance(SILENCE);
    second.prove().await;
    second.prove().await;
    assert!(here.accepts(&issued).await);
    assert_eq!(here.store.lookups(), 2, "the first is silent");

    // Both are listened to.
    let elsewhere = ApiKeys::builder(memory).clock(here.clock.clone()).build();
    for bus in [&first, &second] {
        elsewhere.disable(id).await.unwrap();
        bus.say(&id.to_string()).await;
        assert!(!here.accepts(&issued).await);
        elsewhere.enable(id).await.unwrap();
        bus.say(&id.to_string()).await;
        assert!(here.accepts(&issued).await);
    }
}

#[tokio::test]
async fn a_deaf_instance_listens_to_nobody_and_tells_all_the_same() {
    let (memory, bus) = (MemoryStore::new(), ScriptedBus::new());
    let keys = ApiKeys::builder(memory).bus(bus.clone()).deaf().build();
    keys.issue(NewKey::named("x")).await.unwrap();
    settle().await;
    assert_eq!((bus.subscriptions(), bus.published().len()), (0, 1));
}

#[tokio::test]
async fn a_listener_that_lags_behind_forgets_everything() {
    let (memory, bus) = (MemoryStore::new(), InProcessBus::new());
    let mut slow = bus.subscribe().await.unwrap();
    let here = Instance::of(&memory, bus);
    let id = here.issue().await.key().record.id;
    for _ in 0..600 {
        here.keys.disable(id).await.unwrap();
        here.keys.enable(id).await.unwrap();
    }
    let soon = Instant::now() + SECOND;
    let first = slow.next(soon).await.unwrap();
    assert_eq!(first, Some(Invalidation::Everything));
}

/// A proxy without a server behind it takes every connection and ends it at once.
#[tokio::test(start_paused = true)]
async fn a_bus_that_ends_each_subscription_is_subscribed_to_once_a_second() {
    #[derive(Clone, Debug, Default)]
    struct Ending(Arc<AtomicUsize>);

    #[async_trait]
    impl InvalidationBus for Ending {
        async fn subscribe(&self) -> Result<Box<dyn Subscription>, BusError> {
            self.0.fetch_add(1, Ordering::SeqCst);
            Ok(Box::new(self.clone()))
        }
    }

    #[async_trait]
    impl Subscription for Ending {
        async fn next(&mut self, _: Instant) -> Result<Option<Invalidation>, BusError> {
            Err(BusError::new("the test says so"))
        }
    }

    let bus = Ending::default();
    let here = Instance::of(&MemoryStore::new(), bus.clone());
    tokio::time::sleep(Duration::from_mins(1)).await;
    // Every one of them has all keys read again.
    let subscriptions = bus.0.load(Ordering::SeqCst);
    assert!((60..=70).contains(&subscriptions), "{subscriptions}");
    drop(here);
}

#[tokio::test]
async fn a_key_is_read_from_the_primary_for_a_while_after_a_change() {
    const LAG: Duration = Duration::from_mins(1);
    let store = Replicated::default();
    let (clock, bus) = (ManualClock::default(), ScriptedBus::new());
    let keys = ApiKeys::builder(MemoryStore::new()).build();
    let verifier = tower_api_key::Verifier::builder(store.clone())
        .clock(clock.clone())
        .bus(bus.clone())
        .build_verifier();
    let issued = keys
        .issue(NewKey::named("x").scopes(["orders:read"]))
        .await
        .unwrap();
    let asked = async || {
        _ = verify(&verifier, issued.secret().expose()).await;
        let counts = [&store.primary, &store.replica];
        counts.map(|count| count.swap(0, Ordering::Relaxed))
    };
    let pass = async |time| {
        clock.advance(time);
        // The first answers a question that was asked before the time passed.
        bus.prove().await;
        bus.prove().await;
    };
    // To subscribe is to forget everything, so all may have changed.
    bus.heard(1).await;
    assert_eq!(asked().await, [1, 0]);
    pass(LAG).await;
    assert_eq!(asked().await, [0, 1]);
    let tag = tower_api_key::DigestTag::of(&issued.key().credentials[0].digest);
    bus.say(&format!("{} {tag}", issued.key().record.id)).await;
    assert_eq!(asked().await, [1, 0]);
    pass(almost(LAG)).await;
    assert_eq!(asked().await, [1, 0]);
    pass(LAG).await;
    assert_eq!(asked().await, [0, 1]);
}

/// Its replica has stood still.
#[derive(Debug)]
struct Lagging {
    primary: MemoryStore,
    replica: StoredKey,
}

#[async_trait]
impl KeyStore for Lagging {
    async fn find(&self, _: &KeyDigest) -> Result<Option<StoredKey>, StoreError> {
        Ok(Some(self.replica.clone()))
    }

    async fn find_latest(&self, digest: &KeyDigest) -> Result<Option<StoredKey>, StoreError> {
        self.primary.find(digest).await
    }
}

#[tokio::test]
async fn a_replica_that_lags_brings_no_revoked_key_back() {
    let (memory, clock, bus) = (
        MemoryStore::new(),
        ManualClock::default(),
        ScriptedBus::new(),
    );
    let elsewhere = ApiKeys::builder(memory.clone())
        .clock(clock.clone())
        .build();
    let new = || NewKey::named("x").scopes(["orders:read"]);
    let reading = async |issued: &Issued| {
        let digest = &issued.key().credentials[0].digest;
        Lagging {
            primary: memory.clone(),
            replica: memory.find(digest).await.unwrap().unwrap(),
        }
    };
    let accepts = async |verifier: &tower_api_key::Verifier, issued: &Issued| {
        verify(verifier, issued.secret().expose()).await.is_ok()
    };

    // Told by its id alone, which is all that an application knows.
    let issued = elsewhere.issue(new()).await.unwrap();
    let builder = tower_api_key::Verifier::builder(reading(&issued).await);
    let verifier = builder.clock(clock.clone()).build_verifier();
    assert!(accepts(&verifier, &issued).await);
    elsewhere.revoke(issued.key().record.id).await.unwrap();
    verifier.invalidate(issued.key().record.id);
    assert!(!accepts(&verifier, &issued).await);

    // Not told at all, because the bus is silent.
    let issued = elsewhere.issue(new()).await.unwrap();
    let builder = tower_api_key::Verifier::builder(reading(&issued).await);
    let verifier = builder
        .clock(clock.clone())
        .bus(bus.clone())
        .build_verifier();
    bus.heard(1).await;
    // Past the time after the subscription in which all is read from the primary.
    clock.advance(Duration::from_mins(2));
    bus.prove().await;
    bus.prove().await;
    assert!(accepts(&verifier, &issued).await);
    elsewhere.revoke(issued.key().record.id).await.unwrap();
    clock.advance(SILENCE);
    assert!(!accepts(&verifier, &issued).await);
}

/// Knows no key, and counts who is asked.
#[derive(Clone, Debug, Default)]
struct Replicated {
    primary: Arc<AtomicUsize>,
    replica: Arc<AtomicUsize>,
}

#[async_trait]
impl KeyStore for Replicated {
    async fn find(&self, _: &KeyDigest) -> Result<Option<StoredKey>, StoreError> {
        self.replica.fetch_add(1, Ordering::Relaxed);
        Ok(None)
    }

    async fn find_latest(&self, _: &KeyDigest) -> Result<Option<StoredKey>, StoreError> {
        self.primary.fetch_add(1, Ordering::Relaxed);
        Ok(None)
    }
}
