use std::sync::{Arc, Mutex, PoisonError};

use super::CachedKey;
use super::fingerprint::{Fingerprint, Fingerprints};
use crate::clock::Moment;
use crate::key::KeyDigest;

/// The hottest hits, by the fingerprint of the key's text. Whatever is here was found by its digest
/// before, after the check of its form, so a text that is found here needs neither.
///
/// Each has one set of places where it can be, so a lookup costs one uncontended lock. What is
/// found is checked like anything else in the cache.
pub(super) struct Front {
    fingerprints: Fingerprints,
    sets: Box<[Set]>,
}

/// Alone in its line of the processor's cache.
#[derive(Default)]
#[repr(align(64))]
struct Set(Mutex<[Option<Hot>; 2]>);

struct Hot {
    fingerprint: Fingerprint,
    key: Arc<CachedKey>,
}

impl Front {
    const FEWEST_SETS: u64 = 8_192;
    /// As many take four megabytes.
    const MOST_SETS: u64 = 65_536;
    /// One in so many hits that are not here takes the place of another key. Where there are more
    /// keys than places, the others would otherwise take turns.
    const TURN: u64 = 16;

    /// For a cache of so many keys.
    pub(super) fn new(capacity: u64) -> Self {
        let sets = (capacity / 2)
            .clamp(Self::FEWEST_SETS, Self::MOST_SETS)
            .next_power_of_two();
        Self {
            fingerprints: Fingerprints::new(),
            sets: (0..sets).map(|_| Set::default()).collect(),
        }
    }

    #[inline]
    pub(super) fn fingerprint(&self, text: &[u8]) -> Fingerprint {
        self.fingerprints.of(text)
    }

    #[inline]
    pub(super) fn get(&self, fingerprint: &Fingerprint) -> Option<Arc<CachedKey>> {
        // A set that is being used by another thread is passed by rather than waited for.
        let set = self.set(fingerprint).try_lock().ok()?;
        let mut hot = set.iter().flatten();
        let found = hot.find(|hot| hot.fingerprint == *fingerprint)?;
        Some(Arc::clone(&found.key))
    }

    /// Keeps `key`, whose text has this fingerprint, if there is a place or it is its turn.
    pub(super) fn put(&self, fingerprint: Fingerprint, key: &Arc<CachedKey>, now: Moment) {
        let Ok(mut set) = self.set(&fingerprint).try_lock() else {
            return;
        };
        let is = |hot: &Hot| hot.fingerprint == fingerprint;
        let ours = set.iter().position(|hot| hot.as_ref().is_some_and(is));
        let place = ours.or_else(|| set.iter().position(Option::is_none));
        let place = place.or_else(|| match (now.monotonic_nanos() >> 6) % (2 * Self::TURN) {
            0 => Some(0),
            Self::TURN => Some(1),
            _ => None,
        });
        if let Some(place) = place {
            let key = Arc::clone(key);
            let before = set[place].replace(Hot { fingerprint, key });
            // Freeing the old key is not work to be done under a lock.
            drop(set);
            drop(before);
        }
    }

    /// Drops the key of this fingerprint if it was found by `digest`, under which there is none any
    /// more.
    pub(super) fn clear(&self, fingerprint: &Fingerprint, digest: &KeyDigest) {
        let set = self.set(fingerprint).lock();
        for hot in &mut *set.unwrap_or_else(PoisonError::into_inner) {
            hot.take_if(|hot| {
                hot.fingerprint == *fingerprint && hot.key.credential.digest == *digest
            });
        }
    }

    fn set(&self, fingerprint: &Fingerprint) -> &Mutex<[Option<Hot>; 2]> {
        let index = usize::try_from(fingerprint.place() & (self.sets.len() as u64 - 1));
        &self.sets[index.expect("below the number of sets")].0
    }
}
