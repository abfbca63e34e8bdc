use std::sync::atomic::{AtomicU64, Ordering};

use super::CachedKey;
use crate::key::KeyDigest;
use crate::record::KeyId;

/// Which loads are still good.
///
/// There is one counter of generations, and for every key the least generation that a load of it
/// must have had to be good. These floors are kept in a fixed number of places, which keys share: a
/// floor raised for another key costs a lookup and nothing else.
pub(super) struct Generations {
    current: AtomicU64,
    floor: AtomicU64,
    key_floors: Floors,
    digest_floors: Floors,
}

impl Generations {
    pub(super) fn new() -> Self {
        Self {
            current: AtomicU64::new(0),
            floor: AtomicU64::new(0),
            key_floors: Floors::new(),
            digest_floors: Floors::new(),
        }
    }

    /// The generation for a load that begins now.
    pub(super) fn current(&self) -> u64 {
        self.current.load(Ordering::SeqCst)
    }

    pub(super) fn is_current(&self, key: &CachedKey) -> bool {
        key.generation >= self.floor.load(Ordering::SeqCst)
            && key.generation >= self.key_floors.of(key.record.id.place())
    }

    pub(super) fn is_current_miss(&self, digest: &KeyDigest, generation: u64) -> bool {
        generation >= self.floor.load(Ordering::SeqCst)
            && generation >= self.digest_floors.of(digest.place())
    }

    pub(super) fn invalidate(&self, id: KeyId, digests: &[KeyDigest]) {
        let generation = self.next();
        self.key_floors.raise(id.place(), generation);
        for digest in digests {
            self.digest_floors.raise(digest.place(), generation);
        }
    }

    pub(super) fn invalidate_all(&self) {
        self.floor.fetch_max(self.next(), Ordering::SeqCst);
    }

    fn next(&self) -> u64 {
        self.current.fetch_add(1, Ordering::SeqCst) + 1
    }
}

struct Floors(Box<[AtomicU64]>);

impl Floors {
    const PLACES: u64 = 8192;

    fn new() -> Self {
        Self((0..Self::PLACES).map(|_| AtomicU64::new(0)).collect())
    }

    fn of(&self, place: u64) -> u64 {
        self.at(place).load(Ordering::SeqCst)
    }

    fn raise(&self, place: u64, generation: u64) {
        self.at(place).fetch_max(generation, Ordering::SeqCst);
    }

    fn at(&self, place: u64) -> &AtomicU64 {
        let index = usize::try_from(place % Self::PLACES);
        &self.0[index.expect("below the number of places")]
    }
}
