use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use foldhash::quality::RandomState;

use crate::record::KeyId;

/// The newest version of each key that this process has seen, so that a replica which stands still
/// cannot bring an older one back, however long ago the newer one was seen.
///
/// Keys are remembered in two maps: when the younger one is full, it becomes the older one, whose
/// keys are forgotten. So at least as many keys as `capacity` are remembered, those read or changed
/// last, and at most twice as many. An entry takes about 40 bytes.
pub(super) struct Versions {
    capacity: usize,
    maps: Mutex<Maps>,
}

#[derive(Default)]
struct Maps {
    younger: HashMap<KeyId, Seen, RandomState>,
    older: HashMap<KeyId, Seen, RandomState>,
}

/// The part of a key's history that this process has seen; the default is nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// The newest version; 0 for none.
    pub(super) version: u64,
    /// The generation in which the key was last read from the primary.
    pub(super) primary_read: u64,
}

impl Versions {
    /// A cache that keeps few keys has to remember the versions of some more.
    const FEWEST: u64 = 1_024;

    pub(super) fn new(capacity: u64) -> Self {
        let capacity = capacity.max(Self::FEWEST);
        Self {
            capacity: usize::try_from(capacity).unwrap_or(usize::MAX),
            maps: Mutex::default(),
        }
    }

    pub(super) fn of(&self, id: KeyId) -> Seen {
        self.maps().of(id)
    }

    /// Adds to what was seen of a key. Returns whether the version is newer than one seen before.
    pub(super) fn note(&self, id: KeyId, seen: Seen) -> bool {
        let mut maps = self.maps();
        let before = maps.of(id);
        if maps.younger.len() >= self.capacity && !maps.younger.contains_key(&id) {
            maps.older = std::mem::take(&mut maps.younger);
        }
        let both = Seen {
            version: before.version.max(seen.version),
            primary_read: before.primary_read.max(seen.primary_read),
        };
        maps.younger.insert(id, both);
        before.version > 0 && seen.version > before.version
    }

    fn maps(&self) -> MutexGuard<'_, Maps> {
        self.maps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Maps {
    fn of(&self, id: KeyId) -> Seen {
        let seen = self.younger.get(&id).or_else(|| self.older.get(&id));
        seen.copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn version(version: u64) -> Seen {
        let primary_read = 0;
        Seen {
            version,
            primary_read,
        }
    }

    #[test]
    fn the_newest_version_is_remembered_and_news_are_recognised() {
        let versions = Versions::new(0);
        let id = KeyId::generate(Timestamp::UNIX_EPOCH);
        assert_eq!(versions.of(id), Seen::default());
        for (seen, is_news, newest) in [(3, false, 3), (3, false, 3), (5, true, 5), (4, false, 5)] {
            assert_eq!(versions.note(id, version(seen)), is_news);
            assert_eq!(versions.of(id).version, newest);
        }
        let primary_read = 9;
        let seen = Seen {
            version: 5,
            primary_read,
        };
        assert!(!versions.note(id, seen));
        assert_eq!(versions.of(id), seen);
    }

    #[test]
    fn as_many_keys_as_stated_are_remembered_and_at_most_twice_as_many() {
        let versions = Versions::new(2_000);
        let ids: Vec<_> = (0..20_000)
            .map(|_| KeyId::generate(Timestamp::UNIX_EPOCH))
            .collect();
        for (number, id) in ids.iter().enumerate() {
            versions.note(*id, version(7));
            // A key in use stays, and so do those that were seen last.
            versions.note(ids[0], version(7));
            assert_eq!(versions.of(ids[0]).version, 7);
            assert_eq!(versions.of(ids[number.saturating_sub(1_990)]).version, 7);
        }
        let maps = versions.maps();
        assert!(maps.younger.len() + maps.older.len() <= 4_000);
    }
}
