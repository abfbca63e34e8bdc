use std::sync::{Mutex, PoisonError};

use crate::clock::Moment;

/// How much may be told of refused requests, by who causes them.
#[derive(Debug, Default)]
pub(crate) struct LogBudgets {
    /// Of keys that were sent in clear text.
    pub(super) exposures: LogBudget,
    pub(super) keys: LogBudget,
    pub(super) outages: LogBudget,
    pub(super) strangers: LogBudget,
}

/// So many messages in each second, and a count of those left out.
#[derive(Debug, Default)]
pub(super) struct LogBudget(Mutex<Spent>);

#[derive(Debug, Default)]
struct Spent {
    second: u64,
    told: u32,
    untold: u64,
}

impl LogBudget {
    const PER_SECOND: u32 = 20;

    /// Whether a message may be told, and how many were not since the last one.
    pub(super) fn spend(&self, now: Moment) -> Option<u64> {
        let mut spent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let second = now.monotonic().as_secs();
        if second != spent.second {
            (spent.second, spent.told) = (second, 0);
        }
        if spent.told >= Self::PER_SECOND {
            spent.untold += 1;
            return None;
        }
        spent.told += 1;
        Some(std::mem::take(&mut spent.untold))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jiff::Timestamp;

    use super::*;

    #[test]
    fn a_flood_is_cut_to_so_many_a_second_and_counted() {
        let budget = LogBudget::default();
        let at = |millis| Moment::new(Timestamp::UNIX_EPOCH, Duration::from_millis(millis));
        for _ in 0..LogBudget::PER_SECOND {
            assert_eq!(budget.spend(at(5_000)), Some(0));
        }
        for _ in 0..1_000 {
            assert_eq!(budget.spend(at(5_999)), None);
        }
        assert_eq!(budget.spend(at(6_000)), Some(1_000));
        assert_eq!(budget.spend(at(6_000)), Some(0));
    }
}
