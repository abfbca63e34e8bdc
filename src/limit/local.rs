use std::fmt;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::quality::RandomState;

use self::counters::{Counters, State};
use self::shard::Shard;
use super::decision::Statuses;
use super::{Decision, RateLimit};
use crate::clock::Moment;

mod counters;
mod shard;
mod subject;

pub use self::subject::{Subject, SubjectId};

/// Limits that are counted in this process.
///
/// Counts are kept for a bounded number of subjects. For each new subject a few others are looked
/// at, and those with nothing counted any more are dropped. When all of them still count, the one
/// is evicted that has used the least, and its use is remembered in two of the *coarse counts* that
/// many subjects share. A subject that is not known begins with the lower one of its two. So an
/// evicted subject never gets more than its quota. A new one gets less only where others have
/// raised both of its coarse counts, and only until their units leave the window.
///
/// A subject takes about 600 bytes with one limit and 1,400 with two. When subjects are evicted,
/// coarse counts take up to 120 bytes more for each place. Subjects are spread over shards by their
/// hash, and one of these may be full a little before the capacity is reached.
pub struct LocalLimiter {
    /// Tells counters of this limiter from those that a [`Subject`] remembers of another.
    id: u64,
    hasher: RandomState,
    /// A power of two of them, chosen by the subject's hash.
    shards: Box<[Mutex<Shard>]>,
    subjects_per_shard: usize,
}

/// Units to be charged to one limit of a subject.
#[derive(Clone, Copy, Debug)]
pub struct Charge<'a> {
    /// The limit. Its name and window say which counter it is; a changed quota applies to what is
    /// already counted, and a changed window begins anew.
    pub limit: &'a RateLimit,
    /// Whose limit it is.
    pub space: LimitSpace,
    /// How many units. 0 asks how the limit stands and is always admitted.
    pub cost: u64,
}

/// Whose limit it is: a key's and a route's of the same name are counted apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LimitSpace {
    /// The key's own.
    Key,
    /// The route's.
    Route,
}

impl LocalLimiter {
    /// How many subjects the default limiter keeps.
    pub const DEFAULT_CAPACITY: usize = 1_000_000;

    /// Enough shards that threads seldom wait for each other.
    const SUBJECTS_PER_SHARD: usize = 256;
    const MAX_SHARDS: usize = 1_024;

    /// A limiter that keeps at most `capacity` subjects; 0 is taken as 1.
    pub fn new(capacity: usize) -> Self {
        Self::with_shards(capacity, false)
    }

    /// A limiter that forgets what evicted subjects have used. Where anybody can be a subject, as
    /// with client addresses, an attacker with many of them must not use up what others have.
    pub(crate) fn forgetful(capacity: usize) -> Self {
        Self::with_shards(capacity, true)
    }

    fn with_shards(capacity: usize, forgetful: bool) -> Self {
        static IDS: AtomicU64 = AtomicU64::new(0);
        let capacity = capacity.max(1);
        let shards = (capacity / Self::SUBJECTS_PER_SHARD).clamp(1, Self::MAX_SHARDS);
        let shards = 1 << shards.ilog2();
        Self {
            id: IDS.fetch_add(1, Ordering::Relaxed),
            hasher: RandomState::default(),
            shards: (0..shards)
                .map(|_| Mutex::new(Shard::new(forgetful)))
                .collect(),
            subjects_per_shard: capacity / shards,
        }
    }

    /// Charges everything in `charges` to `subject` at `now`, or nothing of it.
    ///
    /// Charges that meet in one counter are added up.
    pub fn acquire(&self, subject: &Subject, charges: &[Charge<'_>], now: Moment) -> Decision {
        let now_nanos = now.monotonic_nanos();
        if let Some(counters) = subject.remembered(self.id) {
            if let [charge] = charges {
                if let Some(status) = counters.lock().acquire_one(charge, now_nanos) {
                    return Decision::of_one(status);
                }
            } else if let Some(decision) = counters.lock().acquire(charges, now_nanos) {
                return decision;
            }
        }
        self.find_and_acquire(subject, charges, now_nanos)
    }

    /// Takes back what was charged at `then`, for a request that came to nothing after all.
    ///
    /// What was evicted meanwhile stays charged.
    pub fn refund(&self, subject: &Subject, charges: &[Charge<'_>], then: Moment, now: Moment) {
        // By the table, and not by what the subject remembers: those counters may be evicted.
        let counters = self.shard(subject.id()).counters_of(subject.id());
        if let Some(counters) = counters {
            let mut state = counters.lock();
            state.refund(charges, then.monotonic_nanos(), now.monotonic_nanos());
        }
    }

    /// What [`acquire`](Self::acquire) would say if `refunds`, each with the time of its charge,
    /// were taken back before. Charges nothing.
    pub(crate) fn foresee(
        &self,
        subject: &Subject,
        charges: &[Charge<'_>],
        refunds: &[(Charge<'_>, Moment)],
        now: Moment,
    ) -> Decision {
        let now_nanos = now.monotonic_nanos();
        let shard = self.shard(subject.id());
        let counters = shard.counters_of(subject.id());
        let mut copy = counters.map_or_else(State::default, |counters| counters.lock().clone());
        for (charge, then) in refunds {
            copy.refund(&[*charge], then.monotonic_nanos(), now_nanos);
        }
        shard.open(&mut copy, subject.id(), charges, now_nanos);
        copy.acquire_open(charges, now_nanos)
    }

    #[cold]
    fn find_and_acquire(
        &self,
        subject: &Subject,
        charges: &[Charge<'_>],
        now_nanos: u64,
    ) -> Decision {
        if charges.is_empty() {
            return Decision::new(Statuses::new());
        }
        let mut shard = self.shard(subject.id());
        if let Some(counters) = shard.counters_of(subject.id()) {
            // Locks are taken in one order, the shard's before a subject's, and the shard's is
            // held until the subject's is: so the counters cannot be evicted in between.
            let mut locked = counters.lock();
            shard.open(&mut locked, subject.id(), charges, now_nanos);
            drop(shard);
            let decision = locked.acquire_open(charges, now_nanos);
            drop(locked);
            subject.remember(counters);
            return decision;
        }
        // Only what is charged has to be kept: neither a question nor a denial takes a place.
        let mut fresh = State::default();
        shard.open(&mut fresh, subject.id(), charges, now_nanos);
        let decision = fresh.acquire_open(charges, now_nanos);
        if decision.is_admitted() && charges.iter().any(|charge| charge.cost > 0) {
            shard.make_room(self.subjects_per_shard, now_nanos);
            // Counters that were evicted are used anew, so that all who remember them find them.
            let remembered = subject.remembered(self.id).map(Arc::clone);
            let counters = remembered.unwrap_or_else(|| Arc::new(Counters::new(self.id)));
            *counters.lock() = fresh;
            shard.insert(subject.id(), Arc::clone(&counters));
            subject.remember(counters);
        }
        decision
    }

    /// How many subjects are kept, those with nothing counted any more included.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }

    /// Whether no subject is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn shard(&self, id: &SubjectId) -> MutexGuard<'_, Shard> {
        let hash = self.hasher.hash_one(id);
        let index = usize::try_from(hash & (self.shards.len() as u64 - 1));
        lock(&self.shards[index.expect("below the number of shards")])
    }
}

impl Default for LocalLimiter {
    fn default() -> Self {
        Self::new(Self::DEFAULT_CAPACITY)
    }
}

impl fmt::Debug for LocalLimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalLimiter")
            .field("subjects", &self.len())
            .finish_non_exhaustive()
    }
}

/// Nothing under these locks is left half-done by a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
