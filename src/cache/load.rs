//! Coalesced store lookups, retried when an invalidation overtakes them.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::lookups::Turn;
use super::versions::Seen;
use super::{Asked, Cached, CachedKey, Funds, KeyCache, Outage, OutageKind, Sought};
use crate::flight::{Flight, NotLanded};
use crate::key::KeyDigest;
use crate::store::{StoreError, StoredKey};
use crate::telemetry;

impl KeyCache {
    /// Asks the store for a text, together with everybody else who is asking for it now.
    ///
    /// # Errors
    ///
    /// [`Outage`] when the store failed, took longer than the deadline, or too many lookups are
    /// waiting. A key from before may be [`usable`](Self::usable) in its place.
    pub(crate) async fn load(
        self: &Arc<Self>,
        sought: &Sought,
    ) -> Result<Option<Arc<CachedKey>>, Outage> {
        let deadline = self.config.lookup_deadline;
        let end = Instant::now().checked_add(deadline);
        // Somewhat later, so that a lookup that had its turn at once comes to its own end first.
        let give_up = end.and_then(|end| end.checked_add(deadline / 8 + Self::PATIENCE));
        loop {
            let answer = match self.join(sought) {
                Joined::Flight(flight) => flight.landed(give_up).await,
                Joined::Late(Cached::Hit(key)) => return Ok(Some(key)),
                Joined::Late(_) => return Ok(None),
                Joined::Full => {
                    telemetry::store_looked_up(Err(OutageKind::Overloaded), None);
                    return Err(Outage::overloaded());
                }
            };
            let found = match answer {
                Ok(answer) => answer?,
                Err(NotLanded::Late) => return Err(Outage::deadline()),
                Err(NotLanded::Lost) => return Err(Outage::from_store(NotLanded::Lost)),
            };
            if self.is_current(&found, &sought.digest) {
                return Ok(found.key);
            }
            // Overtaken by an invalidation, so what was read may be old.
            if end.is_some_and(|end| Instant::now() >= end) {
                return Err(Outage::deadline());
            }
        }
    }

    /// Added to the time that a request waits for a lookup: timers are no finer.
    const PATIENCE: Duration = Duration::from_millis(5);

    /// Takes part in the lookup that is under way, or begins one.
    fn join(self: &Arc<Self>, sought: &Sought) -> Joined {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = if self.hits.contains_key(&sought.digest) {
            Turn::Known
        } else {
            Turn::Stranger
        };
        let under_way = flights.under_way(turn);
        let place = match flights.of.entry(sought.digest) {
            Entry::Occupied(flight) => return Joined::Flight(flight.get().clone()),
            Entry::Vacant(place) => place,
        };
        // A flight is taken off the list after its answer is in the cache, so a request that comes
        // too late for it finds the answer there.
        match self.remembered(sought, self.clock.now()) {
            Cached::Absent if under_way >= self.config.max_waiting_lookups => return Joined::Full,
            Cached::Absent => {}
            known => return Joined::Late(known),
        }
        let (flight, departure) = Flight::prepare();
        place.insert(flight.clone());
        flights.strangers += usize::from(turn == Turn::Stranger);
        // A task that cannot begin ends at once, and so does its landing, which takes the lock.
        drop(flights);
        let landing = Landing {
            cache: Arc::clone(self),
            digest: sought.digest,
            turn,
        };
        let (cache, sought) = (Arc::clone(self), *sought);
        departure.start(async move { cache.ask(&sought, turn).await }, landing);
        Joined::Flight(flight)
    }

    /// Calls the store once, and keeps its answer.
    async fn ask(&self, sought: &Sought, turn: Turn) -> Result<Found, Outage> {
        let Sought {
            fingerprint,
            digest,
        } = sought;
        let lookup = async || self.find(digest).await;
        let Answer { mut asked, found } = self.lookups.run(&*self.clock, turn, lookup).await?;
        let key = found.map(|mut stored| {
            self.learn(&stored, &mut asked);
            stored.record.limits = self.limits.sharing(&stored.record.limits);
            let mut key = CachedKey::new(stored, asked);
            if let (Some(plan), Some(accounts)) = (&key.record.credits, &self.accounts) {
                key.funds = Funds::Account(accounts.open(key.record.id, plan));
            }
            Arc::new(key)
        });
        if let Some(key) = &key {
            self.hits.insert(*digest, Arc::clone(key));
            self.front.put(*fingerprint, key, self.clock.now());
        } else {
            self.misses.insert(*digest, asked);
            self.hits.invalidate(digest);
            self.front.clear(fingerprint, digest);
        }
        self.report_entries();
        Ok(Found { asked, key })
    }

    /// Reads the key, from the store's replica only where nothing suggests that the replica is
    /// behind.
    async fn find(&self, digest: &KeyDigest) -> Result<Answer, StoreError> {
        let (lag, now) = (self.config.replica_lag_nanos(), self.clock.now());
        // Before the store is asked: a change that commits after this is a later generation.
        let generation = self.generations.current();
        let at = now.monotonic_nanos();
        let may_be_behind =
            !self.trust.vouches(now) || self.generations.digest_changed_within(digest, lag, now);
        if !may_be_behind {
            // A replica may lack a later change whose message has not arrived yet.
            let known_at = self.trust.last_proof().min(at);
            let found = as_asked(digest, self.store.find(digest).await?)?;
            if !self.is_outdated(digest, found.as_ref()) {
                let asked = Asked {
                    generation,
                    at,
                    known_at,
                    of_primary: false,
                };
                return Ok(Answer { asked, found });
            }
        }
        self.find_latest(digest).await
    }

    /// Reads the key from the primary, and refuses a version older than one that this process has
    /// seen.
    pub(super) async fn find_latest(&self, digest: &KeyDigest) -> Result<Answer, StoreError> {
        // Before the store is asked, as in `find`. A replica may have been asked in between.
        let generation = self.generations.current();
        let at = self.clock.now().monotonic_nanos();
        let mut found = as_asked(digest, self.store.find_latest(digest).await?)?;
        if let Some(newest) = self.newer_version(found.as_ref(), generation) {
            // It may have been written while the older one was read. A second time that is no
            // excuse.
            found = as_asked(digest, self.store.find_latest(digest).await?)?;
            match found.as_ref().map(|stored| &stored.record) {
                Some(record) if record.version < newest => {
                    let version = record.version;
                    let older = format!("it has version {version}, and {newest} was seen before");
                    return Err(StoreError::corrupt(record.id, older));
                }
                _ => {}
            }
        }
        let asked = Asked {
            generation,
            at,
            known_at: at,
            of_primary: true,
        };
        Ok(Answer { asked, found })
    }

    /// Returns whether a replica's answer may lack a change that is known in this process.
    fn is_outdated(&self, digest: &KeyDigest, found: Option<&StoredKey>) -> bool {
        // A credential does not vanish while its key is in use; a replica may not have it yet.
        let Some(StoredKey { record, .. }) = found else {
            return self.hits.contains_key(digest);
        };
        let seen = self.versions.of(record.id);
        // After a change, or after changes may have been missed, a key is read from the primary
        // first. That shows the version below which no replica is believed, however long it stands
        // still.
        let (lag, now) = (self.config.replica_lag_nanos(), self.clock.now());
        record.version < seen.version
            || seen.primary_read < self.generations.least_current(record.id)
            || self.generations.key_changed_within(record.id, lag, now)
    }

    /// The version of the key that this process has seen, if it is newer than the one found in
    /// `generation`. What was overtaken by an invalidation may be older, and is not used anyway.
    fn newer_version(&self, found: Option<&StoredKey>, generation: u64) -> Option<u64> {
        let record = &found?.record;
        let newest = self.versions.of(record.id).version;
        let is_older = record.version < newest;
        (is_older && generation >= self.generations.least_current(record.id)).then_some(newest)
    }

    /// Remembers the version that was read. If it is newer than the one before, whatever else was
    /// loaded of the key is out of date: its other credentials too.
    fn learn(&self, stored: &StoredKey, asked: &mut Asked) {
        let id = stored.record.id;
        let seen = Seen {
            version: stored.record.version,
            primary_read: if asked.of_primary {
                asked.generation
            } else {
                0
            },
        };
        if self.versions.note(id, seen) {
            let now = self.clock.now();
            asked.generation = self.generations.outdate_others(id, asked.generation, now);
        }
    }

    fn is_current(&self, found: &Found, digest: &KeyDigest) -> bool {
        match &found.key {
            Some(key) => self.generations.is_current(key),
            None => self
                .generations
                .is_current_miss(digest, found.asked.generation),
        }
    }

    /// The number of entries, without those that were replaced or evicted: the caches count them
    /// only once they have done what they have put off.
    fn report_entries(&self) {
        if cfg!(feature = "metrics") {
            self.hits.run_pending_tasks();
            self.misses.run_pending_tasks();
            telemetry::cache_entries(self.hits.entry_count(), self.misses.entry_count());
        }
    }
}

/// Refuses the row of another credential than the one that was asked for: its owner is not who
/// presented the text. The digests are compared in constant time.
fn as_asked(digest: &KeyDigest, found: Option<StoredKey>) -> Result<Option<StoredKey>, StoreError> {
    match found {
        Some(stored) if stored.credential.digest != *digest => {
            let other = "the key store answered with another credential than it was asked for";
            Err(StoreError::corrupt(stored.record.id, other))
        }
        found => Ok(found),
    }
}

/// The store's answer, and the circumstances of the question.
pub(super) struct Answer {
    pub(super) asked: Asked,
    pub(super) found: Option<StoredKey>,
}

/// The outcome of one call of the store.
#[derive(Clone)]
pub(super) struct Found {
    asked: Asked,
    key: Option<Arc<CachedKey>>,
}

/// The lookups under way.
#[derive(Default)]
pub(super) struct Flights {
    of: HashMap<KeyDigest, Flight<Result<Found, Outage>>>,
    /// The number of those whose turn is that of strangers.
    strangers: usize,
}

impl Flights {
    fn under_way(&self, turn: Turn) -> usize {
        match turn {
            Turn::Known => self.of.len() - self.strangers,
            Turn::Stranger => self.strangers,
        }
    }
}

/// The outcome of an attempt to join a lookup.
enum Joined {
    Flight(Flight<Result<Found, Outage>>),
    /// The flight had landed already, and this is what it brought.
    Late(Cached),
    /// Too many lookups are under way.
    Full,
}

/// Takes a flight off the list when its lookup ends, however it ends.
struct Landing {
    cache: Arc<KeyCache>,
    digest: KeyDigest,
    turn: Turn,
}

impl Drop for Landing {
    fn drop(&mut self) {
        let flights = self.cache.flights.lock();
        let mut flights = flights.unwrap_or_else(PoisonError::into_inner);
        flights.of.remove(&self.digest);
        flights.strangers -= usize::from(self.turn == Turn::Stranger);
    }
}
