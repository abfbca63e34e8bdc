use smallvec::SmallVec;

use super::{LimitStatus, RateLimit};

mod bucket;

use self::bucket::closest;
pub(super) use self::bucket::{Bucket, Buckets, merge};

/// The recent use of one subject under one limit, and the function that decides by it.
///
/// Each charge is kept with its time until it is a whole window old, as long as there are at most
/// [`Window::PLACES`] of them. Beyond that, charges are merged into buckets. The units of a bucket
/// leave the count together, when the newest of them is a whole window old.
///
/// ```text
/// charges   │··   ·│      │:·   :│      │   ·  │    by sub-windows, 16 of which make a window
/// buckets      2  1             3 2         1        units at the time of the newest of them
/// ```
///
/// *Never too much.* A unit spent at `t` is kept with a time of at least `t`, so it is counted
/// until at least `t + window`. At `now` the count therefore holds all units of the trailing window
/// `(now - window, now]`. A request is admitted only if that count and its cost are within the
/// quota together. Hence no trailing window holds more than the quota.
///
/// *Hardly too little.* Only charges of one sub-window are merged, so a unit leaves the count less
/// than one sub-window late, and none does under a quota of up to [`Window::PLACES`]. A client that
/// uses its quota at once gets all of it, and one that is always ready gets at least 16/17.
///
/// Charges of the same 320th of the window are merged first. After those come the two buckets of
/// one sub-window whose merging holds their units back the least.
///
/// Times are nanoseconds of a clock that does not decrease. If it does, a time before the newest
/// one written is taken as that one, so that nothing is given back.
#[derive(Clone, Copy, Debug)]
// In this order: most requests need only what comes before `older`.
#[repr(C)]
pub struct Window {
    /// The time at which the oldest bucket leaves the count; `u64::MAX` where there is none.
    leaves: u64,
    /// The units of all buckets.
    total: u64,
    /// The newest time at which units were counted or had left the count.
    latest: u64,
    /// The end of the slot of `newest`: what is charged before is merged into that bucket.
    ends: u64,
    seconds: u32,
    /// The number of places of `older` that are in use.
    len: u8,
    /// The newest bucket, which is empty only if there is none.
    newest: Bucket,
    /// The other buckets, the oldest first.
    older: [Bucket; OLDER],
}

const OLDER: usize = Window::PLACES - 1;

impl Window {
    /// The number of sub-windows in a window.
    pub const PARTS: u64 = 16;

    /// The number of charges that are kept with their exact times.
    ///
    /// A trailing window touches 17 sub-windows, so there are always two buckets to be merged.
    pub const PLACES: usize = 24;

    /// The length of a sub-window in nanoseconds for each second of the window.
    pub const PART_NANOS_PER_SECOND: u64 = 1_000_000_000 / Self::PARTS;

    /// The number of slots in a sub-window: charges of one slot are merged without a choice.
    pub(super) const SLOTS: u64 = 20;

    /// The window of `limit`, with nothing spent.
    pub fn new(limit: &RateLimit) -> Self {
        Self::empty(limit.window_seconds())
    }

    /// Returns the status of a limit of `quota` units if `cost` units are asked for at `now_nanos`.
    ///
    /// Writes nothing: a caller that admits the request goes on to [`Window::charge`]. A cost of 0
    /// only asks for the status and is always admitted, even where the quota was lowered below what
    /// is counted.
    pub fn assess(&self, quota: u64, cost: u64, now_nanos: u64) -> LimitStatus {
        let mut window = *self;
        window.acquire(quota, cost, now_nanos)
    }

    /// Counts `cost` units at `now_nanos`, whatever the quota.
    pub fn charge(&mut self, cost: u64, now_nanos: u64) {
        self.advance(now_nanos);
        self.spend(cost, now_nanos);
    }

    /// Counts `cost` units if they are within the quota. Returns the status either way.
    #[inline]
    pub(super) fn acquire(&mut self, quota: u64, cost: u64, now_nanos: u64) -> LimitStatus {
        self.advance(now_nanos);
        if self.has_room(quota, cost) {
            self.spend(cost, now_nanos);
            self.status(quota, now_nanos)
        } else {
            self.refusal(quota, cost, now_nanos)
        }
    }

    /// Removes the units that are a whole window old.
    #[inline]
    pub(super) fn advance(&mut self, now_nanos: u64) {
        if now_nanos >= self.leaves {
            self.expire(now_nanos);
        }
    }

    /// Returns whether `cost` more units are within the quota.
    #[inline]
    pub(super) fn has_room(&self, quota: u64, cost: u64) -> bool {
        self.total.saturating_add(cost) <= quota || cost == 0
    }

    /// Counts `units` at `time_nanos`, or at the newest time written if that is later.
    #[inline]
    pub(super) fn spend(&mut self, units: u64, time_nanos: u64) {
        if units == 0 {
            return;
        }
        let time = time_nanos.max(self.latest);
        if usize::from(self.len) == OLDER && time < self.ends {
            self.newest.time = time;
            self.newest.units = self.newest.units.saturating_add(units);
            self.total = self.total.saturating_add(units);
            self.latest = time;
        } else {
            self.append(Bucket { time, units });
        }
    }

    /// Returns the status after an admitted request.
    #[inline]
    pub(super) fn status(&self, quota: u64, now_nanos: u64) -> LimitStatus {
        let resets_in = match self.total {
            0 => 0,
            total if total > quota => return self.refusal(quota, 0, now_nanos),
            _ => self.leaves.saturating_sub(now_nanos),
        };
        LimitStatus::admitted(quota - self.total, resets_in)
    }

    /// Returns the status of a limit without room for `cost`.
    #[cold]
    pub(super) fn refusal(&self, quota: u64, cost: u64, now_nanos: u64) -> LimitStatus {
        // Units above a quota that was lowered have to leave before anything remains again.
        let reset_at_most = self.total.min(quota).saturating_sub(1);
        let remaining = quota.saturating_sub(self.total);
        let resets_in = self.until_at_most(reset_at_most, now_nanos);
        if cost == 0 {
            LimitStatus::admitted(remaining, resets_in)
        } else if cost > quota {
            LimitStatus::impossible(remaining, resets_in)
        } else {
            let retry_after = self.until_at_most(quota - cost, now_nanos);
            LimitStatus::denied(remaining, resets_in, retry_after)
        }
    }

    /// Takes back `units` that were charged at `then_nanos`.
    ///
    /// They are taken from the oldest buckets that can hold them. If those are others than theirs,
    /// they leave the count sooner: what stays is never less than what was spent. Nothing is taken
    /// once their own buckets may have left, by the newest time seen: the clock may have gone back
    /// since, and what is taken would then have been spent by others.
    pub(super) fn refund(&mut self, units: u64, then_nanos: u64, now_nanos: u64) {
        let newest = now_nanos.max(self.latest);
        if then_nanos.saturating_add(self.window_nanos()) <= newest {
            return;
        }
        let mut buckets: Buckets = self.buckets().collect();
        let mut left = units;
        for bucket in buckets
            .iter_mut()
            .filter(|bucket| bucket.time >= then_nanos)
        {
            let taken = bucket.units.min(left);
            bucket.units -= taken;
            left -= taken;
        }
        self.keep(buckets);
    }

    /// The units counted.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    pub(super) fn window_seconds(&self) -> u32 {
        self.seconds
    }

    /// Raises the count to that of `other`, a window of the same length, at every time at which it
    /// is lower.
    pub(super) fn cover(&mut self, other: &Self) {
        let mut times: SmallVec<[u64; 64]> = self
            .buckets()
            .chain(other.buckets())
            .map(|bucket| bucket.time)
            .collect();
        times.sort_unstable();
        times.dedup();
        let mut raised = Buckets::new();
        let mut newer = 0;
        for time in times.into_iter().rev() {
            // What counts until the bucket of this time leaves.
            let most = self.units_since(time).max(other.units_since(time));
            let units = most - newer;
            raised.push(Bucket { time, units });
            newer = most;
        }
        raised.reverse();
        raised.retain(|bucket| bucket.units > 0);
        merge(&mut raised, self.part_nanos());
        self.keep(raised);
        self.latest = self.latest.max(other.latest);
    }

    /// The units spent at `time` and later.
    fn units_since(&self, time: u64) -> u64 {
        let newer = self.buckets().filter(|bucket| bucket.time >= time);
        newer.fold(0, |sum, bucket| sum.saturating_add(bucket.units))
    }

    /// The nanoseconds until the units counted are no more than `units`, if nothing else is spent.
    fn until_at_most(&self, units: u64, now_nanos: u64) -> u64 {
        let mut kept = 0_u64;
        for bucket in self.buckets().rev() {
            kept = kept.saturating_add(bucket.units);
            // This bucket and all that are older have to leave.
            if kept > units {
                let leaves = bucket.time.saturating_add(self.window_nanos());
                return leaves.saturating_sub(now_nanos);
            }
        }
        0
    }
}

/// The buckets.
impl Window {
    /// A window of `seconds` with nothing spent.
    pub(super) fn empty(seconds: u32) -> Self {
        Self {
            leaves: u64::MAX,
            total: 0,
            latest: 0,
            ends: 0,
            seconds,
            len: 0,
            newest: Bucket::default(),
            older: [Bucket::default(); OLDER],
        }
    }

    /// The buckets, the oldest first.
    pub(super) fn buckets(&self) -> impl DoubleEndedIterator<Item = Bucket> {
        let newest = (self.newest.units > 0).then_some(self.newest);
        self.older[..self.len.into()].iter().copied().chain(newest)
    }

    /// Opens a bucket after all others. If there is no place, two buckets are merged.
    #[inline(never)]
    fn append(&mut self, bucket: Bucket) {
        let len = usize::from(self.len);
        if len == OLDER {
            self.merge_with(bucket);
        } else if self.newest.units > 0 {
            self.older[len] = self.newest;
            self.len += 1;
            self.newest = bucket;
        } else {
            self.newest = bucket;
        }
        self.leaves = self.oldest().time.saturating_add(self.window_nanos());
        self.total = self.total.saturating_add(bucket.units);
        self.latest = self.latest.max(bucket.time);
        let slot = self.part_nanos() / Self::SLOTS;
        self.ends = (bucket.time - bucket.time % slot).saturating_add(slot);
    }

    /// Takes in a bucket after all others, where there are as many as places.
    fn merge_with(&mut self, mut bucket: Bucket) {
        let newest = [self.newest, bucket];
        let at = closest(self.older.iter().chain(&newest), self.part_nanos());
        if at == OLDER {
            bucket.absorb(&self.newest);
        } else {
            let older = self.older[at];
            self.older.copy_within(at + 1.., at);
            self.older[OLDER - 1] = self.newest;
            self.older[at].absorb(&older);
        }
        self.newest = bucket;
    }

    fn oldest(&self) -> Bucket {
        if self.len == 0 {
            self.newest
        } else {
            self.older[0]
        }
    }

    /// Moves the buckets that stay to the front. A client at a steady pace comes here with every few requests, so no
    /// bucket is built again.
    #[cold]
    fn expire(&mut self, now_nanos: u64) {
        let window = self.window_nanos();
        let has_left = |bucket: &Bucket| bucket.time.saturating_add(window) <= now_nanos;
        let latest = self.latest.max(now_nanos);
        if has_left(&self.newest) {
            *self = Self::empty(self.seconds);
        } else {
            let len = usize::from(self.len);
            let left = self.older[..len].partition_point(has_left);
            self.older.copy_within(left..len, 0);
            self.len -= u8::try_from(left).expect("no more than there are places");
            self.total = self.units_since(0);
            self.leaves = self.oldest().time.saturating_add(window);
        }
        self.latest = latest;
    }

    /// Takes `buckets` for its own, but for the empty ones. There are no more than there are
    /// places.
    fn keep(&mut self, buckets: Buckets) {
        let latest = self.latest;
        *self = Self::empty(self.seconds);
        for bucket in buckets.into_iter().filter(|bucket| bucket.units > 0) {
            self.append(bucket);
        }
        self.latest = self.latest.max(latest);
    }

    /// The length of a sub-window.
    #[inline]
    pub(super) fn part_nanos(&self) -> u64 {
        u64::from(self.seconds) * Self::PART_NANOS_PER_SECOND
    }

    fn window_nanos(&self) -> u64 {
        self.part_nanos() * Self::PARTS
    }
}

/// For counts that are kept elsewhere.
#[cfg(feature = "redis")]
impl Window {
    /// As [`Window::assess`], where all units that are counted still are at `now_nanos`.
    pub(super) fn judge(&self, quota: u64, cost: u64, now_nanos: u64) -> LimitStatus {
        if cost == 0 {
            self.status(quota, now_nanos)
        } else {
            self.assess(quota, cost, now_nanos)
        }
    }

    /// A window of `seconds` with these buckets, which are in the order of time and no more than
    /// there are places.
    pub(super) fn of(seconds: u32, buckets: impl IntoIterator<Item = Bucket>) -> Self {
        let mut window = Self::empty(seconds);
        window.keep(buckets.into_iter().collect());
        window
    }

    /// The newest time at which units were counted or had left the count, in nanoseconds.
    pub(super) fn latest(&self) -> u64 {
        self.latest
    }

    /// The start of the sub-window of the newest units, in nanoseconds.
    pub(super) fn started(&self) -> u64 {
        self.newest.time - self.newest.time % self.part_nanos()
    }
}

#[cfg(test)]
mod tests;
