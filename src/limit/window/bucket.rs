use smallvec::SmallVec;

use super::Window;

/// Units that leave the count together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::limit) struct Bucket {
    /// The time of the newest unit, in nanoseconds.
    pub(in crate::limit) time: u64,
    pub(in crate::limit) units: u64,
}

/// Buckets in the order of time.
pub(in crate::limit) type Buckets = SmallVec<[Bucket; Window::PLACES + 1]>;

/// Merges buckets until there are no more than a window has places.
pub(in crate::limit) fn merge(buckets: &mut Buckets, part_nanos: u64) {
    while buckets.len() > Window::PLACES {
        let at = closest(buckets.iter(), part_nanos);
        let older = buckets.remove(at);
        buckets[at].absorb(&older);
    }
}

/// The place of the older one of two buckets in the same sub-window whose merging holds units back
/// the least. The first place if there are no such two, as the times span more than a window.
pub(super) fn closest<'a>(buckets: impl Iterator<Item = &'a Bucket>, part_nanos: u64) -> usize {
    let (mut place, mut closest) = (0, (u128::MAX, 0));
    // Where the sub-window of the older bucket ends.
    let mut end = 0_u64;
    let mut pairs = buckets;
    let Some(first) = pairs.next() else { return 0 };
    pairs.fold(first, |older, newer| {
        if older.time >= end {
            // Mostly that is the next one, and a division takes as long as all else here.
            end = end.saturating_add(part_nanos);
            if older.time >= end {
                end = (older.time - older.time % part_nanos).saturating_add(part_nanos);
            }
        }
        let held_back = u128::from(older.units) * u128::from(newer.time - older.time);
        if newer.time < end && held_back < closest.0 {
            closest = (held_back, place);
        }
        place += 1;
        newer
    });
    closest.1
}

impl Bucket {
    /// Takes in the units of an older bucket.
    pub(super) fn absorb(&mut self, older: &Self) {
        self.units = self.units.saturating_add(older.units);
    }
}
