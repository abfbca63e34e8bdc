//! What other instances change.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use sqlx::{AssertSqlSafe, SqlitePool};
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;
use tower_api_key::testing::{ManualClock, ScriptedStore};
use tower_api_key::{
    ApiKeys, BusError, DenialKind, DenialReason, InProcessBus, Invalidation, InvalidationBus,
    Issued, KeyDigest, KeyStore, KeyUpdate, MemoryStore, NewKey, SqliteStore, StoreError,
    StoredKey, Subscription,
};

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

#[tokio::test(start_paused = true)]
async fn what_could_not_be_published_is_made_up_for() {
    let (memory, bus) = (MemoryStore::new(), ScriptedBus::new());
    let here = Instance::of(&memory, bus.clone());
    bus.refuse_to_publish(true);
    let issued = here.issue().await;
    let id = issued.key().record.id;
    for _ in 0..20 {
        // One of them fails while another is being made up for.
        tokio::time::sleep(SECOND / 4).await;
        here.keys.disable(id).await.unwrap();
        here.keys.enable(id).await.unwrap();
    }
    here.keys.revoke(id).await.unwrap();
    assert!(bus.published().is_empty());
    bus.refuse_to_publish(false);
    assert!(eventually(async || !bus.published().is_empty()).await);
    assert_eq!(bus.published(), ["*"]);
    tokio::time::sleep(SECOND * 10).await;
    assert_eq!(bus.published(), ["*"], "once is enough");
}

#[tokio::test]
async fn a_change_that_could_not_be_published_says_so_until_it_is() {
    let (memory, bus) = (MemoryStore::new(), ScriptedBus::new());
    let here = Instance::of(&memory, bus.clone());
    let there = Instance::of(&memory, bus.clone());
    let issued = here.issue().await;
    assert!(issued.is_propagated());
    let id = issued.key().record.id;
    assert!(there.accepts(&issued).await);

    // Only this instance is cut off: to the other one the bus is as good as ever.
    bus.refuse_to_publish(true);
    let rename = || KeyUpdate::new().name("renamed");
    assert!(
        !here
            .keys
            .update(id, rename())
            .await
            .unwrap()
            .is_propagated()
    );
    assert!(!here.keys.disable(id).await.unwrap().is_propagated());
    assert!(!here.keys.enable(id).await.unwrap().is_propagated());
    let rotated = here.keys.rotate(id, Duration::ZERO).await.unwrap();
    assert!(!rotated.is_propagated());
    let digest = KeyDigest::sha256("elsewhere");
    let imported = here.keys.import(NewKey::named("x"), digest, "").await;
    assert!(!imported.unwrap().is_propagated());
    let revoked = here.keys.revoke(id).await.unwrap();
    assert!(!revoked.is_propagated() && revoked.record.revoked_at.is_some());
    assert!(!here.accepts(&rotated).await);
    assert!(there.accepts(&issued).await, "it cannot know yet");
    // It changes nothing any more, and the others do not know it any better.
    assert!(!here.keys.revoke(id).await.unwrap().is_propagated());

    // The same call again is how to notify them, also on another instance.
    bus.refuse_to_publish(false);
    let again = there.keys.revoke(id).await.unwrap();
    assert!(again.is_propagated());
    assert_eq!(*again, *revoked);
    assert!(
        bus.published()
            .iter()
            .any(|text| text.starts_with(&id.to_string()))
    );
    assert!(there.refuses_soon(&issued).await);
}

#[tokio::test]
async fn a_change_is_propagated_when_the_bus_that_is_trusted_has_it() {
    let buses = || (ScriptedBus::new(), ScriptedBus::new());
    for (first_refuses, second_refuses) in [(false, true), (true, false), (false, false)] {
        let (first, second) = buses();
        first.refuse_to_publish(first_refuses);
        second.refuse_to_publish(second_refuses);
        let builder = ApiKeys::builder(MemoryStore::new()).bus(first).bus(second);
        let issued = builder.build().issue(NewKey::named("x")).await.unwrap();
        assert_eq!(issued.is_propagated(), !first_refuses);
    }
    let alone = ApiKeys::builder(MemoryStore::new()).build();
    let issued = alone.issue(NewKey::named("x")).await.unwrap();
    assert!(issued.is_propagated(), "there is nobody else");
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

#[tokio::test]
async fn what_another_process_changes_in_a_file_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.db");
    let path = path.to_str().unwrap();
    let store = SqliteStore::open(path).await.unwrap();
    let other = SqlitePool::connect(&format!("sqlite:{path}"))
        .await
        .unwrap();
    let keys = ApiKeys::builder(store.clone()).build();
    let issue = async || {
        let issued = keys
            .issue(NewKey::named("x").scopes(["orders:read"]))
            .await
            .unwrap();
        assert!(
            verify(keys.verifier(), issued.secret().expose())
                .await
                .is_ok()
        );
        issued
    };
    for change in [
        "UPDATE tower_api_key_keys SET revoked_at = 0",
        "UPDATE tower_api_key_credentials SET expires_at = 0",
        "DELETE FROM tower_api_key_credentials",
    ] {
        let issued = issue().await;
        sqlx::query(change).execute(&other).await.unwrap();
        let refused = async || {
            verify(keys.verifier(), issued.secret().expose())
                .await
                .is_err()
        };
        assert!(eventually(refused).await, "{change}");
    }
    // More at once than the table of changes keeps.
    let issued = issue().await;
    let numbers =
        "WITH RECURSIVE number (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < 1500)";
    let many = format!(
        "{numbers} INSERT INTO tower_api_key_changes (key_id) SELECT 'key_00000000000000000000000000' FROM number"
    );
    let mut transaction = other.begin().await.unwrap();
    for change in ["UPDATE tower_api_key_keys SET enabled = 0", &many] {
        sqlx::query(AssertSqlSafe(change))
            .execute(&mut *transaction)
            .await
            .unwrap();
    }
    transaction.commit().await.unwrap();
    let refused = async || {
        verify(keys.verifier(), issued.secret().expose())
            .await
            .is_err()
    };
    assert!(eventually(refused).await);
}

#[tokio::test]
async fn a_note_of_use_is_no_change() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.db");
    let store = SqliteStore::open(path.to_str().unwrap()).await.unwrap();
    let keys = ApiKeys::builder(store.clone()).build();
    let issued = keys
        .issue(NewKey::named("x").scopes(["orders:read"]))
        .await
        .unwrap();
    verify(keys.verifier(), issued.secret().expose())
        .await
        .unwrap();
    let mut changes = store.bus().unwrap().subscribe().await.unwrap();
    keys.flush().await.unwrap();
    let key = keys.get(issued.key().record.id).await.unwrap();
    assert!(key.last_used_at().is_some());
    assert_eq!(changes.next(Instant::now()).await.unwrap(), None);
    keys.disable(key.record.id).await.unwrap();
    let soon = Instant::now() + SECOND;
    let change = changes.next(soon).await.unwrap().unwrap();
    assert_eq!(change.to_string(), key.record.id.to_string());
}

/// A bus that says and proves what a test tells it to, and nothing by itself.
#[derive(Clone, Debug)]
pub(crate) struct ScriptedBus(Arc<Script>);

#[derive(Debug)]
struct Script {
    open: watch::Sender<bool>,
    subscriptions: AtomicUsize,
    /// How often a listener has asked for more.
    asked: watch::Sender<usize>,
    signals: broadcast::Sender<Signal>,
    published: Mutex<Vec<String>>,
    refuses: AtomicBool,
}

#[derive(Clone, Debug)]
enum Signal {
    Say(Invalidation),
    Prove,
    Fail,
}

impl ScriptedBus {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Script {
            open: watch::Sender::new(true),
            subscriptions: AtomicUsize::new(0),
            asked: watch::Sender::new(0),
            signals: broadcast::Sender::new(16),
            published: Mutex::default(),
            refuses: AtomicBool::new(false),
        }))
    }

    pub(crate) fn open(&self, open: bool) {
        self.0.open.send_replace(open);
    }

    fn refuse_to_publish(&self, refuse: bool) {
        self.0.refuses.store(refuse, Ordering::SeqCst);
    }

    pub(crate) fn published(&self) -> Vec<String> {
        self.0.published.lock().unwrap().clone()
    }

    pub(crate) fn subscriptions(&self) -> usize {
        self.0.subscriptions.load(Ordering::SeqCst)
    }

    /// Ends the subscription, which begins again when the bus is open.
    pub(crate) async fn lose(&self) {
        self.0.signals.send(Signal::Fail).unwrap();
        settle().await;
    }

    /// How often a listener has asked for more.
    pub(crate) fn asked(&self) -> usize {
        *self.0.asked.borrow()
    }

    /// Waits until the listener has asked that often, and so has done what it was told before.
    pub(crate) async fn heard(&self, times: usize) {
        let mut asked = self.0.asked.subscribe();
        asked.wait_for(|asked| *asked >= times).await.unwrap();
    }

    pub(crate) async fn say(&self, invalidation: &str) {
        self.signal(Signal::Say(invalidation.parse().unwrap()))
            .await;
    }

    pub(crate) async fn prove(&self) {
        self.signal(Signal::Prove).await;
    }

    pub(crate) async fn fail(&self) {
        self.signal(Signal::Fail).await;
    }

    async fn signal(&self, signal: Signal) {
        let before = *self.0.asked.borrow();
        self.0.signals.send(signal).unwrap();
        self.heard(before + 1).await;
    }
}

#[async_trait]
impl InvalidationBus for ScriptedBus {
    async fn subscribe(&self) -> Result<Box<dyn Subscription>, BusError> {
        let mut open = self.0.open.subscribe();
        open.wait_for(|open| *open).await.unwrap();
        self.0.subscriptions.fetch_add(1, Ordering::SeqCst);
        let signals = self.0.signals.subscribe();
        Ok(Box::new(ScriptedListener(self.clone(), signals)))
    }

    async fn publish(&self, invalidation: &Invalidation) -> Result<(), BusError> {
        if self.0.refuses.load(Ordering::SeqCst) {
            return Err(BusError::new("the test says so"));
        }
        self.0
            .published
            .lock()
            .unwrap()
            .push(invalidation.to_string());
        let _ = self.0.signals.send(Signal::Say(invalidation.clone()));
        Ok(())
    }
}

struct ScriptedListener(ScriptedBus, broadcast::Receiver<Signal>);

#[async_trait]
impl Subscription for ScriptedListener {
    async fn next(&mut self, _: Instant) -> Result<Option<Invalidation>, BusError> {
        self.0.0.asked.send_modify(|asked| *asked += 1);
        match self.1.recv().await.unwrap() {
            Signal::Say(invalidation) => Ok(Some(invalidation)),
            Signal::Prove => Ok(None),
            Signal::Fail => Err(BusError::new("the test says so")),
        }
    }
}
