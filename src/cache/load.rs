//! Asking the store: once for all who want to know the same, and again where a change came between.

use std::collections::hash_map::Entry;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use super::flight::Flight;
use super::{Asked, Cached, CachedKey, Funds, KeyCache, Outage, OutageKind, Sought};
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
        let give_up = tokio::time::Instant::now().checked_add(self.config.lookup_deadline);
        let in_time = || give_up.is_none_or(|end| tokio::time::Instant::now() < end);
        loop {
            let answer = match self.join(sought) {
                Joined::Flight(flight) => flight.landed().await,
                Joined::Late(Cached::Hit(key)) => return Ok(Some(key)),
                Joined::Late(_) => return Ok(None),
                Joined::Full => {
                    telemetry::store_looked_up(Err(OutageKind::Overloaded), None);
                    Err(Outage::overloaded())
                }
            };
            match answer {
                Ok(found) if self.is_current(&found, &sought.digest) => return Ok(found.key),
                // Overtaken by an invalidation, so what was read may be old.
                Ok(_) if in_time() => {}
                Ok(_) => return Err(Outage::deadline()),
                Err(outage) => return Err(outage),
            }
        }
    }

    /// Takes part in the lookup that is under way, or begins one.
    fn join(self: &Arc<Self>, sought: &Sought) -> Joined {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        let under_way = flights.len();
        let place = match flights.entry(sought.digest) {
            Entry::Occupied(flight) => return Joined::Flight(flight.get().clone()),
            Entry::Vacant(place) => place,
        };
        // A flight is taken off the list after its answer is in the cache, so whoever comes too
        // late for it finds the answer there.
        match self.remembered(sought, self.clock.now()) {
            Cached::Absent if under_way >= self.config.max_waiting_lookups => return Joined::Full,
            Cached::Absent => {}
            known => return Joined::Late(known),
        }
        let (flight, ticket) = Flight::new();
        place.insert(flight.clone());
        let landing = Landing {
            cache: Arc::clone(self),
            sought: *sought,
        };
        tokio::spawn(async move {
            let answer = landing.cache.ask(&landing.sought).await;
            // Off the list before anybody hears of it, and also if the store panics.
            drop(landing);
            ticket.announce(answer);
        });
        Joined::Flight(flight)
    }

    /// One call of the store, and what is to be remembered of it.
    async fn ask(&self, sought: &Sought) -> Result<Found, Outage> {
        let Sought {
            fingerprint,
            digest,
        } = sought;
        let (asked, answer) = self
            .lookups
            .run(&*self.clock, async || {
                // Before the store is asked: a change that commits after this is a later
                // generation.
                let asked = Asked {
                    generation: self.generations.current(),
                    at: self.clock.now().monotonic_nanos(),
                };
                (asked, self.find(digest).await)
            })
            .await?;
        let key = answer.map(|mut stored| {
            stored.record.limits = self.limits.sharing(&stored.record.limits);
            let mut key = CachedKey::new(stored, asked.generation, asked.at);
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
        telemetry::cache_entries(self.hits.entry_count(), self.misses.entry_count());
        Ok(Found { asked, key })
    }

    /// By the store's replica only where nothing says that it may be behind: the key was changed
    /// lately, as far as is known, or a change may not have been heard of.
    async fn find(&self, digest: &KeyDigest) -> Result<Option<StoredKey>, StoreError> {
        let (lag, now) = (self.config.replica_lag_nanos(), self.clock.now());
        let hears = now.monotonic_nanos() < self.trusted_until.load(Ordering::SeqCst);
        if !hears || self.generations.digest_changed_within(digest, lag, now) {
            return self.store.find_latest(digest).await;
        }
        let found = self.store.find(digest).await?;
        // Which key it is of is known only now.
        match &found {
            Some(stored)
                if self
                    .generations
                    .key_changed_within(stored.record.id, lag, now) =>
            {
                self.store.find_latest(digest).await
            }
            _ => Ok(found),
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
}

/// The outcome of one call of the store.
#[derive(Clone)]
pub(super) struct Found {
    asked: Asked,
    key: Option<Arc<CachedKey>>,
}

/// What became of the wish to look a digest up.
enum Joined {
    Flight(Flight),
    /// The flight had landed already, and this is what it brought.
    Late(Cached),
    /// Too many lookups are under way.
    Full,
}

/// Takes a flight off the list when its lookup ends, however it ends.
struct Landing {
    cache: Arc<KeyCache>,
    sought: Sought,
}

impl Drop for Landing {
    fn drop(&mut self) {
        let mut flights = self
            .cache
            .flights
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        flights.remove(&self.sought.digest);
    }
}
