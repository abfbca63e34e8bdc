use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};

use foldhash::quality::RandomState;

use super::CachedKey;
use crate::key::KeyDigest;
use crate::record::KeyId;

/// Which loads are still good.
///
/// There is one counter of generations, and for every key the least generation that a load of it
/// must have had to be good. These floors are kept in a fixed number of places, shared by the keys
/// that hash to one: a floor raised for another key costs a lookup and nothing else.
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
            && key.generation >= self.key_floors.of(&key.record.id.to_bytes())
    }

    pub(super) fn is_current_miss(&self, digest: &KeyDigest, generation: u64) -> bool {
        generation >= self.floor.load(Ordering::SeqCst)
            && generation >= self.digest_floors.of(digest.as_bytes())
    }

    pub(super) fn invalidate(&self, id: KeyId, digests: &[KeyDigest]) {
        let generation = self.next();
        self.key_floors.raise(&id.to_bytes(), generation);
        for digest in digests {
            self.digest_floors.raise(digest.as_bytes(), generation);
        }
    }

    pub(super) fn invalidate_all(&self) {
        self.floor.fetch_max(self.next(), Ordering::SeqCst);
    }

    fn next(&self) -> u64 {
        self.current.fetch_add(1, Ordering::SeqCst) + 1
    }
}

struct Floors {
    places: Box<[AtomicU64]>,
    hasher: RandomState,
}

impl Floors {
    const PLACES: usize = 8192;

    fn new() -> Self {
        let places = std::iter::repeat_with(AtomicU64::default)
            .take(Self::PLACES)
            .collect();
        Self {
            places,
            hasher: RandomState::default(),
        }
    }

    fn of(&self, id: &[u8]) -> u64 {
        self.place(id).load(Ordering::SeqCst)
    }

    fn raise(&self, id: &[u8], generation: u64) {
        self.place(id).fetch_max(generation, Ordering::SeqCst);
    }

    fn place(&self, id: &[u8]) -> &AtomicU64 {
        let hash = self.hasher.hash_one(id);
        &self.places[usize::try_from(hash % Self::PLACES as u64).unwrap_or(0)]
    }
}
