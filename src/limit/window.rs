use super::{LimitStatus, RateLimit};

/// What one subject spent lately under one limit, and the function that decides by it.
///
/// The window is cut into [`Window::PARTS`] sub-windows, each exactly `window_seconds` times
/// 62,500,000 nanoseconds long and beginning at a multiple of that length. The count is the sum of
/// the current sub-window and the 16 before it, the oldest counted whole, and a cost is admitted
/// when count and cost together are within the quota.
///
/// Any trailing window, however it lies, touches at most these 17 sub-windows: that is why it never
/// holds more than the quota. The price is that units are counted for up to 17/16 of the window, so
/// a caller that is always ready gets 16/17 of what a log of every request would allow.
///
/// Times are nanoseconds of a clock that does not decrease. Should it do so all the same, a time
/// before the newest one seen counts as the newest: nothing that was spent is given back.
#[derive(Clone, Copy, Debug)]
// In this order: an admitted request needs what comes first, and the first of the counts.
#[repr(C)]
pub struct Window {
    /// Where the current sub-window starts, in nanoseconds: a multiple of the sub-window's length.
    started: u64,
    /// The sum of `counts`.
    total: u64,
    seconds: u32,
    /// The age of the oldest sub-window that holds units, or 0: remembered, because an admitted
    /// request asks only for this one.
    oldest: u8,
    /// The units of each sub-window by its age, the current one first.
    counts: [u64; COUNTED],
}

/// The current sub-window and the 16 before it.
pub(super) const COUNTED: usize = 17;

impl Window {
    /// How many sub-windows make a window.
    pub const PARTS: u64 = 16;

    /// The length of a sub-window in nanoseconds for each second of the window.
    pub const PART_NANOS_PER_SECOND: u64 = 1_000_000_000 / Self::PARTS;

    /// The window of `limit`, with nothing spent.
    pub fn new(limit: &RateLimit) -> Self {
        Self {
            started: 0,
            total: 0,
            seconds: limit.window_seconds(),
            oldest: 0,
            counts: [0; COUNTED],
        }
    }

    /// Where a limit of `quota` units stands if `cost` units are asked for at `now_nanos`.
    ///
    /// Writes nothing: whoever admits the request goes on to [`Window::charge`]. A cost of 0 asks
    /// only how things stand and is always admitted, even where the quota was lowered below what
    /// is counted.
    pub fn assess(&self, quota: u64, cost: u64, now_nanos: u64) -> LimitStatus {
        let mut window = *self;
        window.advance(now_nanos);
        window.judge(quota, cost, now_nanos)
    }

    /// Counts `cost` units at `now_nanos`, whatever the quota.
    pub fn charge(&mut self, cost: u64, now_nanos: u64) {
        self.advance(now_nanos);
        self.spend(cost);
    }

    /// Makes the sub-window of `now_nanos` the current one and forgets those that leave the count.
    #[inline]
    pub(super) fn advance(&mut self, now_nanos: u64) {
        // A time before the current sub-window is not an error: threads read the clock in one
        // order and come here in another.
        if now_nanos.saturating_sub(self.started) >= self.part_nanos() {
            self.age(now_nanos);
        }
    }

    #[cold]
    fn age(&mut self, now_nanos: u64) {
        let passed = (now_nanos - self.started) / self.part_nanos();
        self.started += passed * self.part_nanos();
        let passed = usize::try_from(passed).map_or(COUNTED, |passed| passed.min(COUNTED));
        self.counts.copy_within(..COUNTED - passed, passed);
        self.counts[..passed].fill(0);
        self.recount();
    }

    /// As [`Window::assess`], when the current sub-window is that of `now_nanos` or a later one.
    #[inline]
    pub(super) fn judge(&self, quota: u64, cost: u64, now_nanos: u64) -> LimitStatus {
        let after = self.total.saturating_add(cost);
        if after <= quota {
            let resets_in = match after {
                0 => 0,
                _ => self.until_left(self.oldest.into(), now_nanos),
            };
            return LimitStatus::admitted(quota - after, resets_in);
        }
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

    /// Counts `cost` units in the current sub-window.
    #[inline]
    pub(super) fn spend(&mut self, cost: u64) {
        self.counts[0] = self.counts[0].saturating_add(cost);
        self.total = self.total.saturating_add(cost);
    }

    /// Takes back `cost` units that were counted at `then`, if they still are.
    ///
    /// Where they were counted in a later sub-window, because a clock was behind, they are taken
    /// from one that leaves the count earlier: what stays is never less than what was spent.
    pub(super) fn refund(&mut self, cost: u64, then_nanos: u64) {
        let age = self
            .started
            .saturating_sub(then_nanos)
            .div_ceil(self.part_nanos());
        let age = usize::try_from(age).unwrap_or(COUNTED);
        if let Some(count) = self.counts.get_mut(age) {
            *count = count.saturating_sub(cost);
            self.recount();
        }
    }

    /// The units counted.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    pub(super) fn window_seconds(&self) -> u32 {
        self.seconds
    }

    /// Raises each sub-window to at least what `other`, a window of the same length, holds in the
    /// same sub-window of time.
    pub(super) fn cover(&mut self, other: &Self) {
        let mut other = *other;
        other.advance(self.started);
        self.advance(other.started);
        for (count, other) in self.counts.iter_mut().zip(other.counts) {
            *count = other.max(*count);
        }
        self.recount();
    }

    /// The nanoseconds until the units counted are no more than `units`, if nothing else is spent.
    fn until_at_most(&self, units: u64, now_nanos: u64) -> u64 {
        let mut kept = 0_u64;
        for (age, count) in self.counts.iter().enumerate() {
            kept = kept.saturating_add(*count);
            // This one and all that are older have to leave.
            if kept > units {
                return self.until_left(age, now_nanos);
            }
        }
        0
    }

    /// The nanoseconds until the sub-window that is `age` old leaves the count.
    #[inline]
    fn until_left(&self, age: usize, now_nanos: u64) -> u64 {
        let parts = (COUNTED - age) as u64;
        let leaves = self.started.saturating_add(parts * self.part_nanos());
        leaves.saturating_sub(now_nanos)
    }

    fn recount(&mut self) {
        // Summed anew rather than subtracted from: a sum that has saturated must not shrink by
        // more than what leaves it.
        self.total = self
            .counts
            .iter()
            .fold(0, |sum, count| sum.saturating_add(*count));
        let oldest = self.counts.iter().rposition(|count| *count > 0);
        self.oldest = oldest.map_or(0, |age| u8::try_from(age).expect("17 sub-windows"));
    }

    /// The length of a sub-window.
    #[inline]
    pub(super) fn part_nanos(&self) -> u64 {
        u64::from(self.seconds) * Self::PART_NANOS_PER_SECOND
    }
}

/// For counts that are kept elsewhere.
#[cfg(feature = "redis")]
impl Window {
    /// A window of `seconds` that counts `counts`, by their age, in a sub-window which starts at
    /// `started_nanos` and those before it.
    pub(super) fn counting(seconds: u32, started_nanos: u64, counts: [u64; COUNTED]) -> Self {
        let mut window = Self {
            started: started_nanos,
            total: 0,
            seconds,
            oldest: 0,
            counts,
        };
        window.recount();
        window
    }

    /// The sub-windows in which units are counted: when each starts, in nanoseconds, and its units.
    pub(super) fn parts(&self) -> impl Iterator<Item = (u64, u64)> {
        let (started, length) = (self.started, self.part_nanos());
        let counts = self.counts.iter().zip(0..);
        counts
            .filter(|(units, _)| **units > 0)
            .map(move |(units, age)| (started.saturating_sub(age * length), *units))
    }

    /// Where the current sub-window starts, in nanoseconds.
    pub(super) fn started(&self) -> u64 {
        self.started
    }
}

#[cfg(test)]
mod tests;
