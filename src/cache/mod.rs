//! Keys in memory: promises about freshness, in front of a [`KeyStore`].
//!
//! How it decides:
//!
//! 1. A *hit* is a key whose load began less than [`CacheConfig::ttl`] ago and that was not
//!    invalidated since.
//! 2. Hits live in a [`moka`] cache, and the hottest of them in a small table in front of it.
//!    Misses live in a cache of their own, so that random keys cannot push real ones out.
//!    The table knows a key by the *fingerprint* of its text rather than by its digest: half of
//!    SHA-256, under a secret of this process. To find another text of the same fingerprint is to
//!    guess a number of 128 bits, so what has it is the text that was found by its digest before.
//!    Whether the key is still good is asked as of any other, at each hit.
//! 3. Any number of concurrent lookups for one digest are one call of the store, in a task of its
//!    own: whoever started it may go away.
//! 4. Every load takes the number of the current *generation* before it asks the store; every
//!    invalidation starts a new generation and notes its number as the least that is still good
//!    for that key. The two are compared whenever a key is taken out, so a stale value may well
//!    be put in by a load that was overtaken, but it is never used.
//! 5. When the store fails, a key that was loaded before still counts as a hit for
//!    [`CacheConfig::stale_if_error`] past its TTL, unless it was invalidated.

mod config;
mod entry;
mod fingerprint;
mod flight;
mod front;
mod generation;
mod load;
#[cfg(feature = "admin")]
mod stored;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use foldhash::quality::RandomState;

pub use config::CacheConfig;
pub(crate) use entry::{CachedKey, Funds};
pub(crate) use fingerprint::Fingerprint;
pub use flight::{Outage, OutageKind};

use crate::clock::{Clock, Moment};
use crate::credits::Accounts;
use crate::invalidation::DigestTag;
use crate::key::KeyDigest;
use crate::limit::KnownLimits;
use crate::record::KeyId;
use crate::store::KeyStore;
use flight::{Flight, Lookups};
use front::Front;
use generation::Generations;

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
    /// Until when what was read long ago is trusted, in monotonic nanoseconds; for ever where no
    /// bus tells of changes.
    trusted_until: AtomicU64,
    flights: Mutex<HashMap<KeyDigest, Flight>>,
    lookups: Lookups,
    limits: KnownLimits,
    /// Where credits are charged; nowhere, where nothing is written.
    accounts: Option<Arc<Accounts>>,
}

/// When the store was asked; that is what remains of a lookup that found nothing.
#[derive(Clone, Copy)]
struct Asked {
    generation: u64,
    /// In monotonic nanoseconds.
    at: u64,
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
            trusted_until: AtomicU64::new(u64::MAX),
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
            Cached::Absent if self.lookups.is_down() => match self.usable(sought, now) {
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

    /// The key from before, if it may still be used while the store fails.
    pub(crate) fn usable(&self, sought: &Sought, now: Moment) -> Option<Arc<CachedKey>> {
        let is_usable = |key: &Arc<CachedKey>| {
            key.age(now) < self.config.usable_nanos() && self.generations.is_current(key)
        };
        // The hottest keys are seldom taken from behind the table, and may be evicted there.
        let front = self.front.get(&sought.fingerprint).filter(is_usable);
        front.or_else(|| self.hits.get(&sought.digest).filter(is_usable))
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

    /// From now on changes are told by a bus, and what was read longer ago than
    /// [`CacheConfig::max_bus_silence`] is trusted only while the bus is known to work.
    pub(crate) fn depend_on_bus(&self) {
        self.trusted_until.store(0, Ordering::SeqCst);
    }

    /// The bus has proved that whatever was published before `heard_at` was heard.
    pub(crate) fn trust_since(&self, heard_at: Moment) {
        let until = heard_at
            .monotonic_nanos()
            .saturating_add(self.config.max_bus_silence_nanos());
        self.trusted_until.fetch_max(until, Ordering::SeqCst);
    }

    pub(crate) fn max_bus_silence(&self) -> Duration {
        self.config.max_bus_silence
    }

    pub(crate) fn now(&self) -> Moment {
        self.clock.now()
    }

    #[inline]
    fn is_fresh(&self, key: &CachedKey, now: Moment) -> bool {
        let age = key.age(now);
        age < self.config.ttl_nanos()
            && self.is_trusted(age, now)
            && self.generations.is_current(key)
    }

    /// Whether what was read `age` nanoseconds ago may be used, going by the bus.
    fn is_trusted(&self, age: u64, now: Moment) -> bool {
        now.monotonic_nanos() < self.trusted_until.load(Ordering::SeqCst)
            || age < self.config.max_bus_silence_nanos()
    }

    fn is_good(&self, miss: &Asked, digest: &KeyDigest, now: Moment) -> bool {
        let age = now.monotonic_nanos().saturating_sub(miss.at);
        age < self.config.miss_ttl_nanos()
            && self.is_trusted(age, now)
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
