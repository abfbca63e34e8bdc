use std::sync::atomic::{AtomicU64, Ordering};

use super::CachedKey;
use crate::clock::Moment;
use crate::invalidation::DigestTag;
use crate::key::KeyDigest;
use crate::record::KeyId;

/// Which loads are still good.
///
/// There is one counter of generations, and for every key the least generation that a load of it
/// must have had to be good. These floors are kept in a fixed number of places, which keys share: a
/// floor raised for another key costs a lookup and nothing else.
pub(super) struct Generations {
    current: AtomicU64,
    /// The least generation that is good for any key.
    floor: AtomicU64,
    /// The least generation that need not be read again, for any key.
    reread_floor: AtomicU64,
    /// The time at which either of the two was raised last; 0 for never.
    raised_at: AtomicU64,
    /// How often any floor of keys was raised.
    raised: AtomicU64,
    key_floors: Floors,
    digest_floors: Floors,
}

impl Generations {
    pub(super) fn new() -> Self {
        Self {
            current: AtomicU64::new(0),
            floor: AtomicU64::new(0),
            reread_floor: AtomicU64::new(0),
            raised_at: AtomicU64::new(0),
            raised: AtomicU64::new(0),
            key_floors: Floors::new(),
            digest_floors: Floors::new(),
        }
    }

    /// The generation for a load that begins now.
    pub(super) fn current(&self) -> u64 {
        self.current.load(Ordering::SeqCst)
    }

    /// Returns whether nothing is known to have changed since `key` was loaded, nor can have
    /// changed unnoticed.
    #[inline]
    pub(super) fn is_current(&self, key: &CachedKey) -> bool {
        // Before the floors: they are raised before the count is, so a key is not taken for held
        // against one that it was not.
        let raised = self.raised.load(Ordering::SeqCst);
        if key.held_against.load(Ordering::Relaxed) == raised {
            return true;
        }
        let is_current = key.generation >= self.least_current(key.record.id);
        if is_current {
            key.held_against.store(raised, Ordering::Relaxed);
        }
        is_current
    }

    /// Returns whether nothing is known to have changed since `key` was loaded.
    pub(super) fn is_unchanged(&self, key: &CachedKey) -> bool {
        key.generation >= self.floor.load(Ordering::SeqCst)
            && key.generation >= self.key_floors.of(key.record.id.place())
    }

    /// The least generation in which a key had to be loaded to be current.
    pub(super) fn least_current(&self, id: KeyId) -> u64 {
        let of_all = self.least_of_all();
        of_all.max(self.key_floors.of(id.place()))
    }

    pub(super) fn is_current_miss(&self, digest: &KeyDigest, generation: u64) -> bool {
        generation >= self.least_of_all() && generation >= self.digest_floors.of(digest.place())
    }

    pub(super) fn invalidate(&self, id: KeyId, digests: &[DigestTag], now: Moment) {
        let generation = self.next();
        self.key_floors.raise(id.place(), generation, now);
        for digest in digests {
            self.digest_floors.raise(digest.place(), generation, now);
        }
        self.raised.fetch_add(1, Ordering::SeqCst);
    }

    pub(super) fn invalidate_all(&self, now: Moment) {
        self.raised_at.fetch_max(since_start(now), Ordering::SeqCst);
        self.floor.fetch_max(self.next(), Ordering::SeqCst);
        self.raised.fetch_add(1, Ordering::SeqCst);
    }

    /// Has everything read again that was loaded before now. Returns the generation that begins.
    pub(super) fn read_all_again(&self, now: Moment) -> u64 {
        self.raised_at.fetch_max(since_start(now), Ordering::SeqCst);
        let generation = self.next();
        self.reread_floor.fetch_max(generation, Ordering::SeqCst);
        self.raised.fetch_add(1, Ordering::SeqCst);
        generation
    }

    /// Invalidates all loads of key `id` but the one of `generation`, which has shown that the key
    /// has changed. Returns the generation to keep that load under: the new one, unless something
    /// else was invalidated since it began. Then it is invalidated too, and the key is read once
    /// more.
    pub(super) fn outdate_others(&self, id: KeyId, generation: u64, now: Moment) -> u64 {
        let (current, next) = (&self.current, generation + 1);
        let overtaken = current
            .compare_exchange(generation, next, Ordering::SeqCst, Ordering::SeqCst)
            .is_err();
        let floor = if overtaken { self.next() } else { next };
        self.key_floors.raise(id.place(), floor, now);
        self.raised.fetch_add(1, Ordering::SeqCst);
        if overtaken { generation } else { next }
    }

    /// Whether the credential may have been changed less than `nanos` ago, as far as is known.
    pub(super) fn digest_changed_within(
        &self,
        digest: &KeyDigest,
        nanos: u64,
        now: Moment,
    ) -> bool {
        self.changed_within(self.digest_floors.raised_at(digest.place()), nanos, now)
    }

    /// The same for a key.
    pub(super) fn key_changed_within(&self, id: KeyId, nanos: u64, now: Moment) -> bool {
        self.changed_within(self.key_floors.raised_at(id.place()), nanos, now)
    }

    fn changed_within(&self, raised_at: u64, nanos: u64, now: Moment) -> bool {
        let changed_at = self.raised_at.load(Ordering::SeqCst).max(raised_at);
        changed_at > 0 && since_start(now).saturating_sub(changed_at) < nanos
    }

    fn least_of_all(&self) -> u64 {
        let reread_floor = self.reread_floor.load(Ordering::SeqCst);
        reread_floor.max(self.floor.load(Ordering::SeqCst))
    }

    fn next(&self) -> u64 {
        self.current.fetch_add(1, Ordering::SeqCst) + 1
    }
}

struct Floors(Box<[Floor]>);

#[derive(Default)]
struct Floor {
    generation: AtomicU64,
    /// When it was raised last; 0 for never.
    raised_at: AtomicU64,
}

impl Floors {
    const PLACES: u64 = 8192;

    fn new() -> Self {
        Self((0..Self::PLACES).map(|_| Floor::default()).collect())
    }

    fn of(&self, place: u64) -> u64 {
        self.at(place).generation.load(Ordering::SeqCst)
    }

    fn raised_at(&self, place: u64) -> u64 {
        self.at(place).raised_at.load(Ordering::SeqCst)
    }

    fn raise(&self, place: u64, generation: u64, now: Moment) {
        let floor = self.at(place);
        // Before the generation: a load that finds what is known too old finds this as well.
        floor
            .raised_at
            .fetch_max(since_start(now), Ordering::SeqCst);
        floor.generation.fetch_max(generation, Ordering::SeqCst);
    }

    fn at(&self, place: u64) -> &Floor {
        let index = usize::try_from(place % Self::PLACES);
        &self.0[index.expect("below the number of places")]
    }
}

/// Nanoseconds of the monotonic clock, and never the 0 that stands for no time at all.
fn since_start(now: Moment) -> u64 {
    now.monotonic_nanos().max(1)
}
