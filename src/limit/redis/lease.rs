use super::wire::NANOS_PER_MICRO;
use crate::limit::Window;

/// Units that Redis has counted already and that this instance may spend by itself.
///
/// They are counted as spent at the end of the sub-window that granted them, and may be spent until
/// then. A unit that is spent later would leave the count before it has left the window.
#[derive(Default)]
pub(super) struct Lease {
    units: u64,
    /// How many there were after the last grant.
    batch: u64,
    /// The sub-window in which they are counted, by its start in Redis's time.
    part: u64,
    /// The monotonic time from which on, and until which, they may be spent.
    since: u64,
    until: u64,
}

/// Units that were taken from a lease while Redis is asked about another limit.
#[derive(Clone, Debug)]
pub(super) struct Reserved {
    units: u64,
    part: u64,
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

    pub(super) fn units(&self, now: u64) -> u64 {
        if now < self.until { self.units } else { 0 }
    }

    pub(super) fn covers(&self, cost: u64, now: u64) -> bool {
        now < self.until && cost <= self.units
    }

    pub(super) fn spend(&mut self, cost: u64) {
        self.units -= cost;
    }

    /// Whether it is time to ask for more, so that nobody has to wait for it.
    pub(super) fn is_low(&self, now: u64) -> bool {
        now < self.until && self.units < self.batch / 4
    }

    /// Takes units in.
    pub(super) fn add(&mut self, grant: &Grant<'_>) {
        let Grant {
            units, received, ..
        } = *grant;
        let (part, length) = (grant.window.started(), grant.window.part_nanos());
        let ends = part.saturating_add(length);
        let left = ends.saturating_sub(grant.redis_now).min(length);
        // Redis looked at its clock after the question was sent, and told it in microseconds.
        let until = grant.sent + left.saturating_sub(left / Self::DRIFT + NANOS_PER_MICRO);
        if units == 0 || until <= received || part < self.part && received < self.until {
            return;
        }
        if part == self.part && received < self.until {
            self.units += units;
            self.until = until.max(self.until);
        } else {
            *self = Self {
                units,
                part,
                since: received,
                until,
                batch: 0,
            };
        }
        self.batch = self.units;
    }

    /// Takes units out that may come back.
    pub(super) fn reserve(&mut self, units: u64) -> Reserved {
        self.spend(units);
        Reserved {
            units,
            part: self.part,
        }
    }

    /// Takes them back, if the lease is still the same.
    pub(super) fn give_back(&mut self, reserved: &Reserved) {
        if reserved.part == self.part {
            self.units += reserved.units;
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
}

/// How many units are asked for lately: a sum that loses half of itself in each [`Rate::half_life`],
/// and so is twice what came in during one if that came steadily.
#[derive(Default)]
pub(super) struct Rate {
    /// In 1,024ths of a unit.
    sum: u64,
    at: u64,
}

impl Rate {
    const ONE: u64 = 1_024;

    /// One sub-window, but not more than a second: what a dead instance takes with it, and what is
    /// left over when the traffic ends, stays small.
    fn half_life(part_nanos: u64) -> u64 {
        part_nanos.min(1_000_000_000)
    }

    pub(super) fn record(&mut self, cost: u64, now: u64, part_nanos: u64) {
        self.sum = self
            .decayed(now, part_nanos)
            .saturating_add(cost.saturating_mul(Self::ONE));
        self.at = now.max(self.at);
    }

    /// The units to lease at `now`, when the sub-window lasts `left` more nanoseconds: what is
    /// expected within half a half-life, or in that time if it is shorter.
    pub(super) fn batch(&self, now: u64, left: u64, part_nanos: u64) -> u64 {
        let half_life = Self::half_life(part_nanos);
        let time = left.min(half_life / 2);
        let expected = u128::from(self.decayed(now, part_nanos)) / 2;
        let units = expected * u128::from(time) / u128::from(half_life * Self::ONE);
        u64::try_from(units).unwrap_or(u64::MAX)
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
        assert!(lease.covers(8, 149_900_000));
        assert!(!lease.covers(1, 150_000_000));
        // Over before the answer came.
        let lease = leased(7 * PART - 30_000_000);
        assert!(!lease.covers(1, 0));
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
        for millisecond in 0..5_000 {
            rate.record(1, millisecond * 1_000_000, 4 * second);
        }
        let now = 5 * second;
        let batch = rate.batch(now, second, 4 * second);
        assert!((450..=550).contains(&batch), "half a second: {batch}");
        let batch = rate.batch(now, second / 10, 4 * second);
        assert!((90..=110).contains(&batch), "the rest: {batch}");
        assert_eq!(rate.batch(now + 20 * second, second, 4 * second), 0);
    }
}
