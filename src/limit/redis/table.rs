use std::fmt::Write as _;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::quality::RandomState;
use indexmap::IndexMap;
use tokio::sync::Notify;

use super::ledger::Ledger;
use crate::limit::SubjectId;

/// The ledgers of a bounded number of subjects.
///
/// For each new one a few others are looked at, and those that hold and remember nothing are
/// dropped; when all of them do, the one goes that was granted the least. With it go the units it
/// has leased, and what would have to be reported if Redis lost its data.
pub(super) struct Table {
    hasher: RandomState,
    shards: Box<[Mutex<Shard>]>,
    subjects_per_shard: usize,
    prefix: Box<str>,
}

#[derive(Default)]
struct Shard {
    entries: IndexMap<SubjectId, Arc<Entry>, RandomState>,
    /// The next one to be looked at when room is made.
    hand: usize,
}

/// One subject.
pub(super) struct Entry {
    /// What its keys in Redis begin with.
    pub(super) tag: Box<str>,
    ledger: Mutex<Ledger>,
    /// Wakes those that wait for a call which has ended.
    pub(super) ended: Notify,
    /// Until when, in monotonic nanoseconds, nothing is asked about it.
    barred_until: AtomicU64,
}

impl Table {
    const SHARDS: usize = 64;
    const SAMPLE: usize = 2;
    const SAMPLE_WHEN_FULL: usize = 8;

    pub(super) fn new(prefix: &str, capacity: usize) -> Self {
        let shards = Self::SHARDS.min(capacity.max(1));
        Self {
            hasher: RandomState::default(),
            shards: (0..shards).map(|_| Mutex::default()).collect(),
            subjects_per_shard: capacity.max(1).div_ceil(shards),
            prefix: prefix.into(),
        }
    }

    /// The subject's entry, if there is one.
    pub(super) fn find(&self, subject: &SubjectId) -> Option<Arc<Entry>> {
        self.shard(subject).entries.get(subject).map(Arc::clone)
    }

    /// The subject's entry.
    pub(super) fn entry(&self, subject: &SubjectId, now: u64) -> Arc<Entry> {
        let mut shard = self.shard(subject);
        if let Some(entry) = shard.entries.get(subject) {
            return Arc::clone(entry);
        }
        shard.make_room(self.subjects_per_shard, now);
        let entry = Arc::new(Entry {
            tag: tag(&self.prefix, subject),
            ledger: Mutex::default(),
            ended: Notify::new(),
            barred_until: AtomicU64::new(0),
        });
        shard.entries.insert(subject.clone(), Arc::clone(&entry));
        entry
    }

    pub(super) fn len(&self) -> usize {
        self.shards
            .iter()
            .map(|shard| lock(shard).entries.len())
            .sum()
    }

    fn shard(&self, subject: &SubjectId) -> MutexGuard<'_, Shard> {
        let hash = self.hasher.hash_one(subject);
        let index = usize::try_from(hash % self.shards.len() as u64);
        lock(&self.shards[index.expect("below the number of shards")])
    }
}

impl Shard {
    fn make_room(&mut self, capacity: usize, now: u64) {
        let mut least = (u64::MAX, 0);
        let sample = if self.entries.len() >= capacity {
            Table::SAMPLE_WHEN_FULL
        } else {
            Table::SAMPLE
        };
        for _ in 0..sample.min(self.entries.len()) {
            if self.hand >= self.entries.len() {
                self.hand = 0;
            }
            let units = self.entries[self.hand].lock().units(now);
            if units == 0 {
                // Another one takes this place, and is looked at next.
                self.entries.swap_remove_index(self.hand);
            } else {
                least = least.min((units, self.hand));
                self.hand += 1;
            }
        }
        if self.entries.len() >= capacity {
            self.entries.swap_remove_index(least.1);
        }
    }
}

impl Entry {
    /// Asks nothing about it for a while: of a cluster, the node that has it does not answer, and the
    /// gate is held open by the others.
    pub(super) fn bar_until(&self, until: u64) {
        self.barred_until.store(until, Ordering::Relaxed);
    }

    pub(super) fn is_barred(&self, now: u64) -> bool {
        now < self.barred_until.load(Ordering::Relaxed)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Ledger> {
        lock(&self.ledger)
    }
}

/// Braces around what is the same in all keys of a subject: a cluster keeps them in one slot.
fn tag(prefix: &str, subject: &SubjectId) -> Box<str> {
    let mut tag = format!("{{{prefix}:");
    // Writing to a string does not fail.
    _ = match subject {
        SubjectId::Address(address) => write!(tag, "address:{address}"),
        SubjectId::Key(key) => write!(tag, "{key}"),
        SubjectId::Owner(owner) => write!(tag, "owner:{owner}"),
    };
    tag.push('}');
    tag.into()
}

/// Nothing under these locks is left half-done by a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
