use super::wire::NANOS_PER_MICRO;
use crate::limit::Window;

/// Units that Redis has counted already and that this instance may spend by itself.
///
/// They are counted as spent at the end of the sub-window that granted them, and may be spent until
/// then. A unit that is spent later would leave the count before it has left the window.
/// Units that are left over are given back.
#[derive(Default)]
pub(super) struct Lease {
    units: u64,
    /// The number of units below which more are asked for.
    low: u64,
    /// The units that Redis had counted after the last grant, these included.
    reached: u64,
    /// The end of the sub-window in which they are counted, in Redis's time.
    ends: u64,
    /// The monotonic time from which on, and until which, they may be spent.
    since: u64,
    until: u64,
    unspent: Option<Unspent>,
}

/// Units that were taken from a lease while Redis is asked about another limit.
#[derive(Clone, Debug)]
pub(super) struct Reserved {
    units: u64,
    ends: u64,
}

/// Units that nobody has spent, or will.
#[derive(Clone, Debug)]
pub(super) struct Unspent {
    pub(super) units: u64,
    /// The time of Redis at which they are counted.
    pub(super) time: u64,
}

impl Unspent {
    /// Units of a lease, which are counted in the last microsecond of its sub-window.
    fn of_lease(units: u64, ends: u64) -> Self {
        let time = ends.saturating_sub(NANOS_PER_MICRO);
        Self { units, time }
    }

    pub(super) fn time_us(&self) -> u64 {
        self.time / NANOS_PER_MICRO
    }
}

/// An answer that grants units.
pub(super) struct Grant<'a> {
    pub(super) units: u64,
    /// The window in which they are counted.
    pub(super) window: &'a Window,
    /// The monotonic times before the question and after the answer.
    pub(super) sent: u64,
    pub(super) received: u64,
    pub(super) redis_now: u64,
}

impl Lease {
    /// The part of a lease's time that is given away, so that a clock which is slow by up to this
    /// much does not let it outlive its sub-window: 1/1000, twice the fastest slew of NTP.
    const DRIFT: u64 = 1_000;

    /// The units left at `now`, under whatever quota.
    pub(super) fn units(&self, now: u64) -> u64 {
        if now < self.until { self.units } else { 0 }
    }

    /// The units that may be spent at `now` under `quota`: where it was lowered since they were
    /// granted, only those which Redis would have granted under it.
    pub(super) fn spendable(&self, quota: u64, now: u64) -> u64 {
        let above = self.reached.saturating_sub(quota);
        self.units(now).saturating_sub(above)
    }

    pub(super) fn covers(&self, cost: u64, quota: u64, now: u64) -> bool {
        now < self.until && cost <= self.spendable(quota, now)
    }

    pub(super) fn spend(&mut self, cost: u64) {
        self.units -= cost;
    }

    /// Whether it is time to ask for more, so that nobody has to wait for it.
    pub(super) fn is_low(&self, now: u64) -> bool {
        now < self.until && self.units < self.low
    }

    /// Returns whether it holds neither units that may be spent nor units to give back.
    pub(super) fn is_empty(&self) -> bool {
        self.units == 0 && self.unspent.is_none()
    }

    /// The end of the lease, in monotonic time.
    pub(super) fn until(&self) -> u64 {
        self.until
    }

    /// The beginning of the lease, in monotonic time.
    pub(super) fn since(&self) -> u64 {
        self.since
    }

    /// Takes units in.
    pub(super) fn add(&mut self, grant: &Grant<'_>) {
        let Grant {
            units, received, ..
        } = *grant;
        let length = grant.window.part_nanos();
        let ends = grant.window.started().saturating_add(length);
        let left = ends.saturating_sub(grant.redis_now).min(length);
        // Redis looked at its clock after the question was sent, and told it in microseconds.
        let until = grant.sent + left.saturating_sub(left / Self::DRIFT + NANOS_PER_MICRO);
        let reached = grant.window.total();
        if units == 0 {
            return;
        }
        if ends == self.ends {
            self.units += units;
            self.until = until.max(self.until);
            self.reached = reached.max(self.reached);
        } else if until <= received || ends < self.ends && received < self.until {
            self.retire(Unspent::of_lease(units, ends));
            return;
        } else {
            self.retire_all();
            *self = Self {
                units,
                low: 0,
                reached,
                ends,
                since: received,
                until,
                unspent: self.unspent.take(),
            };
        }
        self.low = self.units / 4;
    }

    /// Takes out the units that were left when the lease ended.
    pub(super) fn take_unspent(&mut self, now: u64) -> Option<Unspent> {
        if now >= self.until {
            self.retire_all();
        }
        self.unspent.take()
    }

    /// Takes out the units that were left of an earlier lease.
    pub(super) fn take_older(&mut self) -> Option<Unspent> {
        self.unspent.take()
    }

    /// Takes out all units above `kept`, which nobody is expected to spend.
    pub(super) fn take_surplus(&mut self, kept: u64) -> Option<Unspent> {
        let units = self.units.saturating_sub(kept);
        self.units -= units;
        let ends = self.ends;
        (units > 0).then(|| Unspent::of_lease(units, ends))
    }

    /// Takes units out that may come back.
    pub(super) fn reserve(&mut self, units: u64) -> Reserved {
        self.spend(units);
        Reserved {
            units,
            ends: self.ends,
        }
    }

    /// Takes them back.
    pub(super) fn give_back(&mut self, reserved: &Reserved) {
        let Reserved { units, ends } = *reserved;
        if ends == self.ends {
            self.units += units;
        } else {
            self.retire(Unspent::of_lease(units, ends));
        }
    }

    /// Takes back units that were charged at `then`, if they are counted where its own are.
    pub(super) fn take_back(&mut self, units: u64, then: u64, now: u64) -> bool {
        let same = self.since <= then && now < self.until;
        if same {
            self.units += units;
        }
        same
    }

    fn retire_all(&mut self) {
        if let Some(unspent) = self.take_surplus(0) {
            self.retire(unspent);
        }
    }

    /// Keeps units until they are given back. Of two times the later one is kept: its units would
    /// be counted for longer.
    pub(super) fn retire(&mut self, units: Unspent) {
        match &mut self.unspent {
            Some(kept) if kept.time == units.time => kept.units += units.units,
            Some(kept) if kept.time > units.time => {}
            kept => *kept = Some(units),
        }
    }
}

/// How many units are asked for lately: a sum that loses half of itself in each
/// [`Rate::half_life`], and so is twice what came in during one if that came steadily.
#[derive(Default)]
pub(super) struct Rate {
    /// In 1,024ths of a unit.
    sum: u64,
    at: u64,
}

impl Rate {
    const ONE: u64 = 1_024;
    /// The longest time for which units are leased, in nanoseconds: what a dead instance takes with
    /// it stays small.
    const HORIZON: u64 = 4_000_000_000;
    /// The requests in a sub-window below which they are asked for one by one.
    const LEAST: u64 = 2;
    /// Traffic has ended when nothing came for as long as this many units take.
    const MISSED: u64 = 10;

    /// One sub-window, but not more than two seconds, so that a rate which changes is followed.
    fn half_life(part_nanos: u64) -> u64 {
        part_nanos.min(2_000_000_000)
    }

    pub(super) fn record(&mut self, cost: u64, now: u64, part_nanos: u64) {
        self.sum = self
            .decayed(now, part_nanos)
            .saturating_add(cost.saturating_mul(Self::ONE));
        self.at = now.max(self.at);
    }

    /// The units to hold at `now` for requests of this cost, when the sub-window lasts `left` more
    /// nanoseconds.
    ///
    /// They are the units that are expected to be spent until then, and three times the square root
    /// of these: chance hardly ever exceeds it. Where too few requests are expected in a whole
    /// sub-window, there are none.
    pub(super) fn batch(&self, cost: u64, now: u64, left: u64, part_nanos: u64) -> u64 {
        let within = |time: u64| {
            let half_life = Self::half_life(part_nanos);
            let expected = u128::from(self.decayed(now, part_nanos)) / 2;
            let time = u128::from(time.min(Self::HORIZON));
            let units = (expected * time).div_ceil(u128::from(half_life * Self::ONE));
            u64::try_from(units).unwrap_or(u64::MAX)
        };
        if within(part_nanos) <= cost.max(1).saturating_mul(Self::LEAST) {
            return 0;
        }
        let units = within(left);
        units.saturating_add(3 * units.isqrt())
    }

    /// The time in nanoseconds that this many units take.
    pub(super) fn time_for(&self, units: u64, part_nanos: u64) -> u64 {
        let window = Self::half_life(part_nanos).saturating_mul(2 * Self::ONE);
        units.saturating_mul(window / self.sum.max(Self::ONE))
    }

    /// The time at which the traffic has ended if nothing comes after `since` until then.
    pub(super) fn ends(&self, since: u64, part_nanos: u64) -> u64 {
        let least = (part_nanos / 16).clamp(50_000_000, 500_000_000);
        let missed = self.time_for(Self::MISSED, part_nanos);
        self.at.max(since).saturating_add(missed.max(least))
    }

    fn decayed(&self, now: u64, part_nanos: u64) -> u64 {
        let half_life = Self::half_life(part_nanos);
        let passed = now.saturating_sub(self.at);
        let halved = match passed / half_life {
            halvings @ 0..64 => self.sum >> halvings,
            _ => 0,
        };
        // A straight line between one half-life and the next.
        let lost = u128::from(halved) * u128::from(passed % half_life) / u128::from(2 * half_life);
        halved.saturating_sub(u64::try_from(lost).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::window::Bucket;

    const PART: u64 = Window::PART_NANOS_PER_SECOND;

    /// A lease of eight units from an answer which took 40 milliseconds, at a time of Redis.
    fn leased(redis_now: u64) -> Lease {
        let leased = Bucket {
            time: (redis_now / PART + 1) * PART - NANOS_PER_MICRO,
            units: 8,
        };
        let mut lease = Lease::default();
        lease.add(&Grant {
            units: 8,
            window: &Window::of(1, [leased]),
            sent: 100_000_000,
            received: 140_000_000,
            redis_now,
        });
        lease
    }

    #[test]
    fn a_lease_ends_with_its_sub_window_as_seen_before_the_call() {
        // 50 milliseconds before the end of the sub-window, and this after the question was sent.
        let lease = leased(7 * PART - 50_000_000);
        assert!(lease.covers(8, 8, 149_900_000));
        assert!(!lease.covers(1, 8, 150_000_000));
        // Over before the answer came.
        let lease = leased(7 * PART - 30_000_000);
        assert!(!lease.covers(1, 8, 0));
    }

    #[test]
    fn what_was_charged_before_a_lease_is_not_added_to_it() {
        let mut lease = leased(7 * PART - 50_000_000);
        lease.spend(5);
        assert!(!lease.take_back(2, 139_000_000, 145_000_000));
        assert!(lease.take_back(2, 141_000_000, 145_000_000));
        assert!(!lease.take_back(2, 141_000_000, 160_000_000), "it is over");
        assert_eq!(lease.units(145_000_000), 5);
    }

    #[test]
    fn a_steady_rate_is_followed() {
        let second = 1_000_000_000;
        let mut rate = Rate::default();
        // A thousand units a second.
        for millisecond in 0..30_000 {
            rate.record(1, millisecond * 1_000_000, 4 * second);
        }
        let now = 30 * second;
        let batch = rate.batch(1, now, second, 4 * second);
        assert!((1_000..=1_120).contains(&batch), "a second: {batch}");
        let batch = rate.batch(1, now, second / 10, 4 * second);
        assert!((100..=135).contains(&batch), "the rest: {batch}");
        assert_eq!(rate.batch(10_000, now, second, 4 * second), 0);
        assert_eq!(rate.batch(1, now + 40 * second, second, 4 * second), 0);
    }
}
