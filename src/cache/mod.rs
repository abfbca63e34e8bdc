//! In-process key cache: coalesced lookups, immediate invalidation, stated bounds while parts fail.
//!
//! A verification asks the cache first. A fresh entry is served from memory; otherwise the key is
//! loaded from the [`KeyStore`], once, however many requests ask for it at that moment. Start
//! reading at [`KeyCache::get`].
//!
//! # Where entries live
//!
//! Found keys live in a [`moka`] cache, the hottest of them in a small table in front of it, and
//! unknown digests in a cache of their own, so that random keys cannot push real ones out. The
//! table recognises a key by the *fingerprint* of its text: half of SHA-256, under a secret of this
//! process. Finding another text of the same fingerprint means guessing a number of 128 bits. The
//! state of an entry is checked at each hit.
//!
//! # The states of an entry
//!
//! | state | condition | use |
//! | --- | --- | --- |
//! | [fresh](EntryState::Fresh) | younger than [`CacheConfig::ttl`], vouched for by the bus, nothing changed | served |
//! | [to be read again](EntryState::ReadAgain) | no longer fresh, within the bounds below | served only if a lookup ran and failed |
//! | [dead](EntryState::Dead) | known to have changed, or beyond the bounds | never served again |
//!
//! A new read replaces an entry. A dead entry stays dead: no outage, no reconnection and
//! no replica brings it back. Two times decide on the others:
//!
//! - its *age*, from the moment when the store was asked. It stays below the TTL, and in an outage
//!   below the TTL plus [`CacheConfig::stale_if_error`], with a bus and without.
//! - the *last proof* that it was up to date: the read itself, or a later proof of the bus in the
//!   subscription in which it was read. A read from a replica proves no more than the bus had
//!   before it. The last proof lies at most [`CacheConfig::max_bus_silence`] in the past, and in an
//!   outage at most that plus `stale_if_error`.
//!
//! So a change is in force at once where it was made or arrived over the bus. Elsewhere it is
//! noticed within `max_bus_silence`. While the store cannot be read, it is noticed within
//! `max_bus_silence + stale_if_error` of the last proof.
//!
//! ```text
//! bus        ── proof ── proof ──✕ lost           subscribed again ── proof ──✕ lost
//! store      ─────────────────────✕ down           ✓ up, briefly ───────────────✕ down
//!                          │     │                 │                            │
//! entry A    fresh ────────┼─────┼─ fresh ─┐ read again fails: served           │
//!                       last proof         max_bus_silence later                │
//!                                                  │ has to be read again       │
//!   not read in that time                          └ still to be read ──────────┴ served, until
//!                                                    max_bus_silence + stale_if_error after A's last proof
//!   read in that time                              └ fresh, with a new last proof
//! entry B    revoked here: dead ──────────────────── dead ─────────────────────── dead, 503 until it is read
//! ```
//!
//! A new subscription puts the outage in doubt as well: the store is asked again before any entry
//! is served for its failure.
//!
//! # How a change wins over a lookup in flight
//!
//! Every load takes the number of the current *generation* before it asks the store. An
//! invalidation starts a new generation and raises the least generation that is good for the key:
//!
//! ```text
//! request A   load begins, generation 7 ──────────────┐ reads the row as it was before the revocation
//! revoke            commit ── invalidate: at least 8  │
//! request A                                           └ inserts its entry, generation 7
//! request B                                     finds 7 < 8, loads again, is refused
//! ```
//!
//! moka alone does not give this: `invalidate` during a load still inserts the stale value.
//!
//! A replica that stands still could bring an old row back any time later. So the newest version of
//! each key is [remembered](versions::Versions) as well, and an older one is never taken; and the
//! first read after a change, or after a subscription, is one from the primary.

mod config;
mod entry;
mod fingerprint;
mod front;
mod generation;
mod load;
mod lookups;
#[cfg(feature = "admin")]
mod stored;
mod trust;
mod versions;

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use foldhash::quality::RandomState;

pub use config::CacheConfig;
pub(crate) use entry::{CachedKey, Funds};
pub(crate) use fingerprint::Fingerprint;
pub use lookups::{Outage, OutageKind};

use crate::clock::{Clock, Moment};
use crate::credits::Accounts;
use crate::invalidation::DigestTag;
use crate::key::KeyDigest;
use crate::limit::KnownLimits;
use crate::record::KeyId;
use crate::store::KeyStore;
use front::Front;
use generation::Generations;
use load::Flights;
use lookups::Lookups;
use trust::BusTrust;
use versions::{Seen, Versions};

/// What the cache knows of a digest, without asking the store.
pub(crate) enum Cached {
    /// The key, good to use.
    Hit(Arc<CachedKey>),
    /// The store said a moment ago that there is no such key.
    Unknown,
    /// Nothing: the store has to be asked.
    Absent,
}

/// What is looked for: a text, in one of the ways in which it may be stored.
#[derive(Clone, Copy)]
pub(crate) struct Sought {
    pub(crate) fingerprint: Fingerprint,
    pub(crate) digest: KeyDigest,
}

/// See the [module's documentation](self).
pub(crate) struct KeyCache {
    store: Arc<dyn KeyStore>,
    clock: Arc<dyn Clock>,
    config: CacheConfig,
    front: Front,
    hits: moka::sync::Cache<KeyDigest, Arc<CachedKey>, RandomState>,
    misses: moka::sync::Cache<KeyDigest, Asked, RandomState>,
    generations: Generations,
    versions: Versions,
    trust: BusTrust,
    flights: Mutex<Flights>,
    lookups: Lookups,
    limits: KnownLimits,
    /// Where credits are charged; nowhere, where nothing is written.
    accounts: Option<Arc<Accounts>>,
}

/// The circumstances of a lookup; they are all that remains of one that found nothing. Times are in
/// monotonic nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Asked {
    generation: u64,
    /// The time at which the store was asked.
    at: u64,
    /// The time up to which the answer is known to be the latest state.
    known_at: u64,
    /// The primary was asked, or there is no replica.
    of_primary: bool,
}

/// The state of an entry at one moment, as the [module's documentation](self) describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EntryState {
    Fresh,
    /// The store has to be asked. If that fails, the entry may be served.
    ReadAgain,
    Dead,
}

impl KeyCache {
    pub(crate) fn new(
        store: Arc<dyn KeyStore>,
        clock: Arc<dyn Clock>,
        config: CacheConfig,
        accounts: Option<Arc<Accounts>>,
    ) -> Self {
        Self {
            store,
            clock,
            front: Front::new(config.capacity),
            hits: bounded(config.capacity),
            misses: bounded(config.miss_capacity),
            generations: Generations::new(),
            versions: Versions::new(config.capacity),
            trust: BusTrust::without_bus(config.max_bus_silence_nanos()),
            flights: Mutex::default(),
            lookups: Lookups::new(&config),
            limits: KnownLimits::default(),
            accounts,
            config,
        }
    }

    /// By what the table of the hottest keys knows `text`, which has at most
    /// [`MAX_KEY_LEN`](crate::key::MAX_KEY_LEN) bytes.
    #[inline]
    pub(crate) fn fingerprint(&self, text: &[u8]) -> Fingerprint {
        self.front.fingerprint(text)
    }

    /// The key whose text has this fingerprint, if it is one of the hottest and good at `now`.
    #[inline]
    pub(crate) fn recall(&self, fingerprint: &Fingerprint, now: Moment) -> Option<Arc<CachedKey>> {
        let key = self.front.get(fingerprint)?;
        self.is_fresh(&key, now).then_some(key)
    }

    /// What is known of a text at `now`. Never waits.
    pub(crate) fn get(&self, sought: &Sought, now: Moment) -> Cached {
        match self.remembered(sought, now) {
            // During an outage one request in a while asks the store; the others need not wait
            // for it to fail again.
            Cached::Absent if self.lookups.is_down() => match self.kept(sought, now) {
                Some(key) if !self.lookups.tries_again(now) => Cached::Hit(key),
                _ => Cached::Absent,
            },
            known => known,
        }
    }

    fn remembered(&self, sought: &Sought, now: Moment) -> Cached {
        let Sought {
            fingerprint,
            digest,
        } = sought;
        if let Some(key) = self.recall(fingerprint, now) {
            return Cached::Hit(key);
        }
        if let Some(key) = self.hits.get(digest) {
            if !self.is_fresh(&key, now) {
                return Cached::Absent;
            }
            self.front.put(*fingerprint, &key, now);
            return Cached::Hit(key);
        }
        match self.misses.get(digest) {
            Some(miss) if self.is_good(&miss, digest, now) => Cached::Unknown,
            _ => Cached::Absent,
        }
    }

    /// The key from before, if it may be used although the store was not read because of `outage`.
    pub(crate) fn usable(
        &self,
        sought: &Sought,
        outage: &Outage,
        now: Moment,
    ) -> Option<Arc<CachedKey>> {
        let key = self.kept(sought, now)?;
        // A store that is only busy is not down, or a flood of made-up keys could keep a revoked
        // one alive. But where the bus says that nothing has changed, there is nothing to read.
        let is_vouched_for =
            || self.trust.has_bus() && self.trust.vouches(now) && self.generations.is_current(&key);
        let may_serve = outage.lookup_ran() || self.lookups.is_down() || is_vouched_for();
        may_serve.then_some(key)
    }

    /// The entry of a text, unless it is dead.
    fn kept(&self, sought: &Sought, now: Moment) -> Option<Arc<CachedKey>> {
        let is_kept = |key: &Arc<CachedKey>| self.state(key, now) != EntryState::Dead;
        // The hottest keys are seldom taken from behind the table, and may be evicted there.
        let front = self.front.get(&sought.fingerprint).filter(is_kept);
        front.or_else(|| self.hits.get(&sought.digest).filter(is_kept))
    }

    /// Remembers that key `id` has this version, because this process has written it.
    pub(crate) fn note_version(&self, id: KeyId, version: u64) {
        let seen = Seen {
            version,
            ..Seen::default()
        };
        self.versions.note(id, seen);
    }

    /// Makes sure that no verification which starts from now on sees what was stored of key `id`
    /// before now, and that none of `digests` is still taken for unknown.
    pub(crate) fn invalidate(&self, id: KeyId, digests: &[DigestTag]) {
        self.generations.invalidate(id, digests, self.clock.now());
    }

    /// Makes sure that no verification which starts from now on sees anything that was stored
    /// before now.
    pub(crate) fn invalidate_all(&self) {
        self.generations.invalidate_all(self.clock.now());
    }

    /// Has everything read again that was read before now: changes may have been missed. What
    /// cannot be read stays usable, as [`CacheConfig::stale_if_error`] says. To be called when a
    /// subscription has begun.
    pub(crate) fn read_all_again(&self) {
        let generation = self.generations.read_all_again(self.clock.now());
        self.trust.end_subscription(generation);
        // The way to the bus is often the way to the store.
        self.lookups.doubt_outage();
    }

    /// Makes this cache depend on a bus: what was read longer ago than
    /// [`CacheConfig::max_bus_silence`] is trusted only while the bus is known to work.
    pub(crate) fn depend_on_bus(&self) {
        self.trust.await_proof();
    }

    /// The bus has proved that whatever was published before `proved_at` has arrived.
    pub(crate) fn trust_since(&self, proved_at: Moment) {
        self.trust.prove(proved_at);
    }

    pub(crate) fn max_bus_silence(&self) -> Duration {
        self.config.max_bus_silence
    }

    pub(crate) fn now(&self) -> Moment {
        self.clock.now()
    }

    fn state(&self, key: &CachedKey, now: Moment) -> EntryState {
        if self.is_fresh(key, now) {
            EntryState::Fresh
        } else if self.is_within_bounds(key, now) && self.generations.is_unchanged(key) {
            EntryState::ReadAgain
        } else {
            EntryState::Dead
        }
    }

    #[inline]
    fn is_fresh(&self, key: &CachedKey, now: Moment) -> bool {
        key.age(now) < self.config.ttl_nanos()
            && self.trust.covers(key.known_at, now)
            && self.generations.is_current(key)
    }

    /// Returns whether `key` is young enough for an outage, and its last proof too.
    fn is_within_bounds(&self, key: &CachedKey, now: Moment) -> bool {
        let proof = self.trust.last_proof_for(key.generation);
        let unproved = now
            .monotonic_nanos()
            .saturating_sub(proof.max(key.known_at));
        key.age(now) < self.config.usable_nanos() && unproved < self.config.unproved_nanos()
    }

    fn is_good(&self, miss: &Asked, digest: &KeyDigest, now: Moment) -> bool {
        let age = now.monotonic_nanos().saturating_sub(miss.at);
        age < self.config.miss_ttl_nanos()
            && self.trust.covers(miss.known_at, now)
            && self.generations.is_current_miss(digest, miss.generation)
    }
}

fn bounded<V>(capacity: u64) -> moka::sync::Cache<KeyDigest, V, RandomState>
where
    V: Clone + Send + Sync + 'static,
{
    let builder = moka::sync::Cache::builder().max_capacity(capacity);
    builder.build_with_hasher(RandomState::default())
}

impl fmt::Debug for KeyCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyCache")
            .field("store", &self.store)
            .field("config", &self.config)
            .field("hits", &self.hits.entry_count())
            .field("misses", &self.misses.entry_count())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;
    use crate::{ApiKeys, MemoryStore, NewKey};

    /// Behind the table of the hottest, which would hide it.
    #[tokio::test]
    async fn unknown_texts_push_no_key_out() {
        let store = MemoryStore::new();
        let issued = ApiKeys::builder(store.clone()).build();
        let issued = issued.issue(NewKey::named("x")).await.unwrap();
        let config = CacheConfig::default().capacity(10).miss_capacity(10);
        let clock = Arc::new(SystemClock::new());
        let cache = Arc::new(KeyCache::new(Arc::new(store), clock, config, None));
        let sought = |text: &str| Sought {
            fingerprint: cache.fingerprint(text.as_bytes()),
            digest: KeyDigest::sha256(text),
        };
        let real = sought(issued.secret().expose());
        assert!(cache.load(&real).await.unwrap().is_some());
        for number in 0..3_000 {
            let unknown = sought(&number.to_string());
            assert!(cache.load(&unknown).await.unwrap().is_none());
        }
        cache.hits.run_pending_tasks();
        cache.misses.run_pending_tasks();
        assert!(cache.hits.contains_key(&real.digest));
        assert!(cache.misses.entry_count() <= 10);
    }
}
