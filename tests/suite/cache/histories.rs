//! Random histories of changes, outages and lost messages, held to an explicit model of what is
//! promised.
//!
//! The model knows each state that a key ever had, when it was stored, and up to which of them the
//! instance has been notified. Of every verification it demands:
//!
//! 1. The outcome is that of a state which the key had, and no older one than the instance was
//!    notified of: by its own change, by a message that arrived, or by an earlier outcome.
//! 2. Nor is the outcome older than `max_bus_silence`; while the store cannot be read, no older
//!    than that and `stale_if_error`.
//! 3. Only a store that fails leads to an outage, and none for a key that was read less than
//!    `stale_if_error` ago and has not changed since.
//!
//! The replica may stand still for as long as it likes.

use std::time::Duration;

use proptest::prelude::*;
use tower_api_key::testing::{ManualClock, ScriptedStore};
use tower_api_key::{
    ApiKeys, CacheConfig, Clock, DenialKind, DenialReason, KeyDigest, KeyId, MemoryStore, NewKey,
};

use super::replicas::Replica;
use crate::core_support::{settle, verify};
use crate::invalidation::ScriptedBus;

const KEYS: usize = 3;
const SECRETS: usize = 2;
const TTL: Duration = Duration::from_mins(1);
const SILENCE: Duration = Duration::from_secs(5);
/// For so long the cache spares a store that has failed.
const RETRY: Duration = Duration::from_secs(1);

#[derive(Clone, Debug)]
enum Step {
    Verify {
        key: usize,
        secret: usize,
    },
    Change {
        key: usize,
        here: bool,
        revoke: bool,
    },
    /// The application says that a key has changed.
    Invalidate(usize),
    /// The messages that are under way arrive.
    Deliver,
    Prove,
    /// The bus is lost, and what is under way with it; until it returns.
    Lose,
    Return,
    FailStore(bool),
    Replay,
    Wait(Duration),
}

fn step() -> impl Strategy<Value = Step> {
    let key = 0..KEYS;
    prop_oneof![
        12 => (key.clone(), 0..SECRETS).prop_map(|(key, secret)| Step::Verify { key, secret }),
        4 => (key.clone(), any::<bool>(), prop::bool::weighted(0.1))
            .prop_map(|(key, here, revoke)| Step::Change { key, here, revoke }),
        1 => key.prop_map(Step::Invalidate),
        2 => Just(Step::Deliver),
        4 => Just(Step::Prove),
        2 => Just(Step::Lose),
        2 => Just(Step::Return),
        3 => any::<bool>().prop_map(Step::FailStore),
        1 => Just(Step::Replay),
        6 => (1..3_000_u64).prop_map(|millis| Step::Wait(Duration::from_millis(millis))),
        2 => prop::sample::select(vec![SILENCE, TTL, TTL / 2, 2 * SILENCE]).prop_map(Step::Wait),
    ]
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Active,
    Disabled,
    Revoked,
}

/// The model of a key.
struct Key {
    id: KeyId,
    texts: Vec<String>,
    digests: Vec<KeyDigest>,
    /// The states that it had, each with the time at which it was stored.
    states: Vec<(Duration, State)>,
    /// The oldest of them that the instance may still act on.
    known: usize,
    /// The time at which each secret was last read, unless something has happened to the key since.
    read_at: [Option<Duration>; SECRETS],
}

struct World {
    clock: ManualClock,
    memory: MemoryStore,
    replica: Replica,
    store: ScriptedStore<MemoryStore>,
    bus: ScriptedBus,
    keys: ApiKeys,
    elsewhere: ApiKeys,
    stale_if_error: Duration,
    model: Vec<Key>,
    /// Messages that are under way: the key, and the last state that they announce.
    under_way: Vec<(usize, usize)>,
    is_connected: bool,
    is_failing: bool,
    /// Until then the cache may take a store for down that is up again.
    doubtful_until: Duration,
}

impl World {
    async fn new(stale_if_error: Duration) -> Self {
        let (clock, memory) = (ManualClock::default(), MemoryStore::new());
        let (replica, bus) = (Replica::default(), ScriptedBus::new());
        let elsewhere = ApiKeys::builder(memory.clone())
            .clock(clock.clone())
            .build();
        let store = ScriptedStore::new(memory.clone()).replica(replica.clone());
        let config = CacheConfig::default()
            .ttl(TTL)
            .max_bus_silence(SILENCE)
            .stale_if_error(stale_if_error)
            .replica_lag(2 * SILENCE);
        let builder = ApiKeys::builder(store.clone()).clock(clock.clone());
        let keys = builder.cache(config).bus(bus.clone()).build();
        bus.heard(1).await;
        let mut world = Self {
            clock,
            memory,
            replica,
            store,
            bus,
            keys,
            elsewhere,
            stale_if_error,
            model: Vec::new(),
            under_way: Vec::new(),
            is_connected: true,
            is_failing: false,
            doubtful_until: Duration::ZERO,
        };
        while world.model.len() < KEYS {
            world.issue().await;
        }
        world.replay().await;
        world
    }

    async fn issue(&mut self) {
        let new = NewKey::named("x").scopes(["orders:read"]);
        let first = self.elsewhere.issue(new).await.unwrap();
        let id = first.key().record.id;
        let is_close = |key: &Key| place(key.id) == place(id);
        if self.model.iter().any(is_close) {
            // Changes of one would invalidate the other as well.
            return;
        }
        let year = Duration::from_hours(9_000);
        let second = self.elsewhere.rotate(id, year).await.unwrap();
        let texts = [&first, &second].map(|issued| issued.secret().expose().to_owned());
        let digests = second.key().credentials.iter();
        self.model.push(Key {
            id,
            digests: digests.map(|credential| credential.digest).collect(),
            texts: texts.to_vec(),
            states: vec![(self.now(), State::Active)],
            known: 0,
            read_at: [None; SECRETS],
        });
    }

    fn now(&self) -> Duration {
        self.clock.now().monotonic()
    }

    async fn take(&mut self, step: Step) {
        match step {
            Step::Verify { key, secret } => self.verify(key, secret).await,
            Step::Change { key, here, revoke } => self.change(key, here, revoke).await,
            Step::Invalidate(key) => {
                self.keys.verifier().invalidate(self.model[key].id);
                self.model[key].read_at = [None; SECRETS];
            }
            Step::Deliver => self.deliver().await,
            Step::Prove => {
                // What was published before arrives before. The first proof answers an older
                // question.
                self.deliver().await;
                if self.is_connected {
                    self.bus.prove().await;
                    self.bus.prove().await;
                }
            }
            Step::Lose if self.is_connected => {
                self.under_way.clear();
                self.is_connected = false;
                self.bus.open(false);
                self.bus.lose().await;
            }
            Step::Return if !self.is_connected => {
                let asked = self.bus.asked();
                self.bus.open(true);
                self.bus.heard(asked + 1).await;
                self.is_connected = true;
                self.doubtful_until = Duration::ZERO;
            }
            Step::Lose | Step::Return => {}
            Step::FailStore(fail) => {
                if self.is_failing && !fail {
                    self.doubtful_until = self.now() + RETRY;
                }
                self.is_failing = fail;
                self.store.fail(fail);
            }
            Step::Replay => self.replay().await,
            Step::Wait(time) => self.clock.advance(time),
        }
    }

    async fn replay(&self) {
        for digest in self.model.iter().flat_map(|key| &key.digests) {
            self.replica.replay(&self.memory, *digest).await;
        }
    }

    async fn deliver(&mut self) {
        for (key, state) in std::mem::take(&mut self.under_way) {
            self.bus.say(&self.model[key].id.to_string()).await;
            let key = &mut self.model[key];
            key.known = key.known.max(state);
            // What was read already is read again: a message does not say how old it is.
            key.read_at = [None; SECRETS];
        }
    }

    async fn change(&mut self, number: usize, here: bool, revoke: bool) {
        let (now, is_failing) = (self.now(), self.is_failing);
        let key = &mut self.model[number];
        let (id, (_, before)) = (key.id, key.states[key.states.len() - 1]);
        let keys = if here { &self.keys } else { &self.elsewhere };
        let (after, changed) = match before {
            State::Revoked => return,
            _ if revoke => (State::Revoked, keys.revoke(id).await),
            State::Active => (State::Disabled, keys.disable(id).await),
            State::Disabled => (State::Active, keys.enable(id).await),
        };
        // What it publishes itself has arrived by then.
        settle().await;
        if here && is_failing {
            changed.unwrap_err();
            return;
        }
        changed.unwrap();
        key.states.push((now, after));
        key.read_at = [None; SECRETS];
        let newest = key.states.len() - 1;
        if here {
            key.known = newest;
        } else if self.is_connected {
            self.under_way.push((number, newest));
        }
    }

    async fn verify(&mut self, key: usize, secret: usize) {
        let (now, lookups) = (self.now(), self.store.lookups());
        let outcome = verify(self.keys.verifier(), &self.model[key].texts[secret]).await;
        let was_read = self.store.lookups() > lookups && !self.is_failing;
        let is_doubtful = self.is_failing || now < self.doubtful_until;
        let longer = if is_doubtful {
            self.stale_if_error
        } else {
            Duration::ZERO
        };
        let key = &mut self.model[key];
        let shown = match outcome {
            Ok(_) => State::Active,
            Err(denial) => match denial.reason() {
                DenialReason::Disabled => State::Disabled,
                DenialReason::Revoked => State::Revoked,
                _ => {
                    assert_eq!(denial.kind(), DenialKind::Unavailable, "{denial:?}");
                    assert!(self.is_failing, "an outage of a store that works");
                    let read_at = key.read_at[secret];
                    let is_recent = |read: Duration| now < read + self.stale_if_error;
                    assert!(
                        !read_at.is_some_and(is_recent),
                        "read at {read_at:?}, now {now:?}"
                    );
                    return;
                }
            },
        };
        let noticed = |(stored, _): &&(Duration, State)| now >= *stored + SILENCE + longer;
        let oldest = key.states.iter().filter(noticed).count().saturating_sub(1);
        let oldest = oldest.max(key.known);
        let found = (oldest..key.states.len()).find(|number| key.states[*number].1 == shown);
        let Some(found) = found else {
            panic!(
                "{shown:?} at {now:?} of {:?}, {oldest} of them ended",
                key.states
            );
        };
        key.known = found;
        if was_read {
            key.read_at[secret] = Some(now);
        }
    }
}

/// The place of a key in the tables of the cache: by the last bits of its id.
fn place(id: KeyId) -> u32 {
    const DIGITS: &str = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    let text = id.to_string();
    let last = text.chars().rev().take(3).enumerate();
    let value = last.map(|(place, digit)| {
        let value = DIGITS.find(digit).expect("an id is of these digits");
        u32::try_from(value).unwrap() << (5 * place)
    });
    value.sum::<u32>() % 8_192
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_history_of_faults_breaks_what_is_promised(
        stale_if_error in prop::sample::select(vec![0, 3, 20, 600]),
        steps in prop::collection::vec(step(), 1..80),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut world = World::new(Duration::from_secs(stale_if_error)).await;
            for step in steps {
                world.take(step).await;
            }
        });
    }
}
