//! A key's budget: what it was given, what is left of it, and when there is more.
//!
//! Unlike a rate limit it does not slide: it is used up until somebody tops it up, or until the
//! calendar, in UTC, begins another day or month.

use jiff::tz::Offset;
use jiff::{SignedDuration, Timestamp, ToSpan};
use serde::{Deserialize, Serialize};

/// A budget for a key: how many credits it has, and when it has more.
///
/// ```
/// use tower_api_key::{Credits, NewKey, Refill};
///
/// let trial = NewKey::named("trial").credits(Credits::new(500));
/// let monthly = NewKey::named("pro").credits(Credits::refilled(Refill::monthly(10_000)));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Credits {
    pub(crate) remaining: u64,
    pub(crate) refill: Option<Refill>,
}

impl Credits {
    /// The most that a key can have, 10^15: JSON keeps such numbers exactly everywhere.
    pub const MAX: u64 = 1_000_000_000_000_000;

    /// So many credits, at most [`Credits::MAX`], and none after them.
    pub fn new(remaining: u64) -> Self {
        Self {
            remaining,
            refill: None,
        }
    }

    /// The amount of a refill, and that again at each of its times.
    pub fn refilled(refill: Refill) -> Self {
        Self {
            remaining: refill.amount,
            refill: Some(refill),
        }
    }

    /// Sets how many there are until the first refill. Default: what the constructor says.
    pub fn remaining(mut self, credits: u64) -> Self {
        self.remaining = credits;
        self
    }
}

/// What a balance is set to, whatever is left of it then, at the beginning of each day or month in
/// UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Refill {
    /// The credits there are afterwards: 1 to [`Credits::MAX`].
    pub amount: u64,
    /// How often.
    pub every: RefillEvery,
}

impl Refill {
    /// To `amount` at 00:00 UTC.
    pub fn daily(amount: u64) -> Self {
        let every = RefillEvery::Day;
        Self { amount, every }
    }

    /// To `amount` at 00:00 UTC on the first of the month.
    pub fn monthly(amount: u64) -> Self {
        let every = RefillEvery::Month;
        Self { amount, every }
    }
}

/// How often a balance is refilled. Days and months are those of the calendar, in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum RefillEvery {
    /// At 00:00 UTC.
    Day,
    /// At 00:00 UTC on the first of the month.
    Month,
}

impl RefillEvery {
    /// The name in stores and answers, as in `month`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Month => "month",
        }
    }

    /// The beginning of the day or month in which `time` is.
    pub fn begins(self, time: Timestamp) -> Timestamp {
        let date = Offset::UTC.to_datetime(time).date();
        let first = match self {
            Self::Day => date,
            Self::Month => date.first_of_month(),
        };
        midnight(first).unwrap_or(Timestamp::MIN)
    }

    /// The beginning of the next one. Where there is none any more, the last time there is.
    pub fn ends(self, time: Timestamp) -> Timestamp {
        let begun = self.begins(time);
        let next = match self {
            Self::Day => begun.checked_add(SignedDuration::from_hours(24)),
            Self::Month => Offset::UTC
                .to_datetime(begun)
                .date()
                .checked_add(1.month())
                .and_then(midnight),
        };
        next.unwrap_or(Timestamp::MAX)
    }
}

/// The beginning of a period that was corrected at `now`, which is later than `midnight`. To the
/// microsecond, as stores keep it.
fn corrected(now: Timestamp, midnight: Timestamp) -> Timestamp {
    let after = midnight.as_microsecond().saturating_add(1);
    let noticed = now.as_microsecond().max(after);
    Timestamp::from_microsecond(noticed).unwrap_or(now)
}

fn midnight(date: jiff::civil::Date) -> Result<Timestamp, jiff::Error> {
    Offset::UTC.to_timestamp(date.at(0, 0, 0, 0))
}

/// The budget as a key's record has it. What is left of it is kept apart ([`CreditBalance`]), since
/// that changes without a change of the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreditPlan {
    /// What the balance was set to.
    pub granted: u64,
    /// What it is set to again, and how often.
    pub refill: Option<Refill>,
    /// The version of the key that set it: a store sets the balance with the change to just that
    /// version, and leaves it alone with every other.
    pub since_version: u64,
}

/// Which credits they are: those of one setting of the balance, and within it of one day or month.
/// What was taken of others is never given back to these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CreditPeriod {
    /// As [`CreditPlan::since_version`].
    pub since_version: u64,
    /// When the balance was set or refilled last: the beginning of that day or month, or the time
    /// of the change where there is no refill. After a clock was ahead, the time at which that was
    /// noticed.
    pub begun_at: Timestamp,
}

/// What is left of a key's budget.
///
/// It is also the arithmetic of it, so that every store counts alike: a store keeps one for each
/// key with a budget, and takes from it, or gives back, while nobody else can.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreditBalance {
    /// How many credits there are.
    pub remaining: u64,
    /// Which they are.
    pub period: CreditPeriod,
    /// The plan's.
    pub refill: Option<Refill>,
}

impl CreditBalance {
    /// One so much of what remains is the most that is granted beyond what is asked for at least.
    const SHARE: u64 = 8;

    /// A balance that `plan` sets at `time`.
    pub fn set(plan: &CreditPlan, time: Timestamp) -> Self {
        let begun_at = plan.refill.map_or(time, |refill| refill.every.begins(time));
        Self {
            remaining: plan.granted,
            period: CreditPeriod {
                since_version: plan.since_version,
                begun_at,
            },
            refill: plan.refill,
        }
    }

    /// The balance at `now`: refilled, where that is due.
    ///
    /// Instances have clocks of their own. One that is slow by less than a period undoes no refill,
    /// and brings none twice. A period that is later than the next one shows that a clock was
    /// ahead: the balance returns to the present without losing anything, so that the next day or
    /// month brings a refill as ever. Until then no other period does, or a clock that stays ahead
    /// would bring one whenever it is asked.
    #[must_use]
    pub fn at(mut self, now: Timestamp) -> Self {
        let Some(Refill { amount, every }) = self.refill else {
            return self;
        };
        let (known, present) = (self.period.begun_at, every.begins(now));
        // Periods begin at midnight, so any other time is that of a correction.
        let was_corrected = known != every.begins(known);
        let was_ahead = every.begins(known) > every.ends(now);
        let skips_a_period = was_corrected && present > every.ends(known);
        if was_ahead || skips_a_period {
            self.period.begun_at = corrected(now, present);
        } else if present > known {
            self.period.begun_at = present;
            self.remaining = amount;
        }
        self
    }

    /// Takes `at_least` credits and up to `at_most`, but of those beyond `at_least` not so many
    /// that the grant is over an eighth of what remains: others want some as well. None, where
    /// fewer than `at_least` remain. The balance must be that of [now](Self::at).
    pub fn take(&mut self, at_least: u64, at_most: u64) -> u64 {
        if at_least > self.remaining {
            return 0;
        }
        let granted = at_most.min(self.remaining / Self::SHARE).max(at_least);
        self.remaining -= granted;
        granted
    }

    /// Takes credits back, if they are of the same period, and tells whether it did.
    pub fn give_back(&mut self, credits: u64, period: CreditPeriod) -> bool {
        let same = period == self.period;
        if same {
            self.remaining = self.remaining.saturating_add(credits);
        }
        same
    }

    /// When the next refill is.
    pub fn refills_at(&self) -> Option<Timestamp> {
        let refill = self.refill?;
        Some(refill.every.ends(self.period.begun_at))
    }
}

/// What a store grants to an instance, for it to spend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CreditGrant {
    /// How many credits; 0 where there were too few.
    pub granted: u64,
    /// The balance afterwards. The credits are of its period.
    pub left: CreditBalance,
}

/// Credits that an instance took and did not spend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CreditReturn {
    /// Whose.
    pub key: super::KeyId,
    /// How many.
    pub credits: u64,
    /// Which: those of a period that is over are dropped.
    pub period: CreditPeriod,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn days_and_months_are_those_of_the_calendar() {
        use RefillEvery::{Day, Month};
        for (every, at, begins, ends) in [
            (
                Day,
                "2028-02-28T23:59:59.999999999Z",
                "2028-02-28",
                "2028-02-29",
            ),
            (Day, "2028-02-29T00:00:00Z", "2028-02-29", "2028-03-01"),
            (Month, "2026-01-31T12:00:00Z", "2026-01-01", "2026-02-01"),
            (
                Month,
                "2028-02-29T23:59:59.999999999Z",
                "2028-02-01",
                "2028-03-01",
            ),
            (Month, "2026-12-31T23:59:59Z", "2026-12-01", "2027-01-01"),
            (Month, "2027-01-01T00:00:00Z", "2027-01-01", "2027-02-01"),
            (Month, "1969-12-31T23:59:59Z", "1969-12-01", "1970-01-01"),
        ] {
            let midnight = |date: &str| time(&format!("{date}T00:00:00Z"));
            assert_eq!(every.begins(time(at)), midnight(begins), "{at}");
            assert_eq!(every.ends(time(at)), midnight(ends), "{at}");
        }
    }

    #[test]
    fn the_ends_of_time_have_periods_too() {
        for every in [RefillEvery::Day, RefillEvery::Month] {
            for edge in [Timestamp::MIN, Timestamp::MAX] {
                assert!(every.begins(edge) <= edge && edge <= every.ends(edge));
            }
        }
    }

    #[test]
    fn a_clock_that_was_ahead_takes_no_refill_away_and_brings_one_at_most() {
        let plan = CreditPlan {
            granted: 10,
            refill: Some(Refill::daily(10)),
            since_version: 1,
        };
        let spent = |mut balance: CreditBalance| {
            balance.remaining = 0;
            balance
        };
        let mut balance = spent(CreditBalance::set(&plan, time("2026-05-01T12:00:00Z")));
        for (now, refills) in [
            // Slow by less than a day, and fast by less.
            ("2026-04-30T23:00:00Z", false),
            ("2026-05-02T00:00:00Z", true),
            ("2026-05-01T23:59:59.9Z", false),
            ("2026-05-02T23:59:59Z", false),
            // A clock that is ahead, again and again.
            ("2026-07-01T00:00:00Z", true),
            ("2026-05-02T23:59:59.123456789Z", false),
            ("2026-07-01T00:00:00Z", false),
            ("2026-05-02T23:59:59.2Z", false),
            ("2027-01-01T00:00:00Z", false),
            ("2026-05-02T23:59:59.3Z", false),
            // And then the right ones.
            ("2026-05-03T00:00:00Z", true),
            ("2026-05-03T12:00:00Z", false),
            ("2026-05-09T12:00:00Z", true),
            // Nobody asks on the day after.
            ("2027-05-09T12:00:00Z", true),
            ("2026-05-09T12:00:00Z", false),
            ("2026-05-11T12:00:00Z", false),
            ("2026-05-12T12:00:00Z", true),
        ] {
            balance = balance.at(time(now));
            assert_eq!(balance.remaining > 0, refills, "{now}");
            let begun_at = balance.period.begun_at.as_nanosecond();
            assert_eq!(begun_at % 1_000, 0, "{now}");
            assert_eq!(balance.at(time(now)), balance, "{now}");
            balance = spent(balance);
        }
    }

    #[test]
    fn a_grant_leaves_the_others_their_share() {
        let plan = CreditPlan {
            granted: 80,
            refill: None,
            since_version: 1,
        };
        let balance = CreditBalance::set(&plan, Timestamp::UNIX_EPOCH);
        let take = |at_least, at_most| {
            let mut balance = balance;
            (balance.take(at_least, at_most), balance.remaining)
        };
        assert_eq!(take(1, 4), (4, 76));
        assert_eq!(take(1, 1_000), (10, 70));
        assert_eq!(take(60, 0), (60, 20));
        assert_eq!(take(80, 1_000), (80, 0));
        assert_eq!(take(81, 1_000), (0, 80));
    }
}
