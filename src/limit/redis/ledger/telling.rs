//! How it stands with the limits.

use smallvec::SmallVec;

use super::{Demand, Ledger};
use crate::limit::decision::Statuses;
use crate::limit::redis::counter::{Counter, at};
use crate::limit::{Charge, Decision, LimitStatus, Window};

impl Ledger {
    /// What Redis would say to `charges` if `refunds` were taken back before, as far as is known
    /// here. Changes nothing.
    pub(in super::super) fn foresee(
        &self,
        charges: &[Charge<'_>],
        refunds: &[(Charge<'_>, u64)],
        now: u64,
    ) -> Decision {
        let redis_now = self.redis_at_least(now);
        let mut ledger = Self {
            ahead: self.ahead,
            ..Self::default()
        };
        for charge in charges {
            if ledger.find(charge).is_none() {
                let mut counter = Counter::of(charge);
                if let Some(place) = self.find(charge) {
                    counter.known = at(self.counters[place].known, redis_now);
                    let lease = &self.counters[place].lease;
                    let leased = lease.spendable(charge.limit.quota(), now);
                    counter.known.refund(leased, redis_now, redis_now);
                }
                for (refund, then) in refunds {
                    if counter.is_of(refund) {
                        let then = self.redis_at_least(*then);
                        counter.known.refund(refund.cost, then, redis_now);
                    }
                }
                ledger.counters.push(counter);
            }
        }
        let demands = ledger.demands(charges);
        ledger.expected(charges, &demands, now)
    }

    /// How it stands as far as is known, when `demands` are not charged.
    pub(super) fn expected(
        &self,
        charges: &[Charge<'_>],
        demands: &[Demand],
        now: u64,
    ) -> Decision {
        let redis_now = self.redis_at_least(now);
        self.tell(charges, redis_now, now, |place, counter| {
            (at(counter.known, redis_now), cost_of(demands, place))
        })
    }

    /// The statuses of `charges`, by the window of each and the cost that is to be judged.
    pub(super) fn tell(
        &self,
        charges: &[Charge<'_>],
        redis_now: u64,
        now: u64,
        of: impl Fn(usize, &Counter) -> (Window, u64),
    ) -> Decision {
        let mut costs = SmallVec::<[(Window, u64); 2]>::new();
        let mut statuses = Statuses::new();
        for charge in charges {
            let place = self.place(charge);
            let (window, cost) = of(place, &self.counters[place]);
            statuses.push(window.judge(charge.limit.quota(), cost, redis_now));
            costs.push((window, cost));
        }
        let admitted = statuses.iter().all(LimitStatus::is_admitted);
        for (index, charge) in charges.iter().enumerate() {
            let (window, cost) = &costs[index];
            let (quota, leased) = (charge.limit.quota(), {
                let counter = &self.counters[self.place(charge)];
                counter.lease.spendable(charge.limit.quota(), now)
            });
            if !admitted && *cost > 0 && statuses[index].is_admitted() {
                // Nothing is written, so this limit stands as before.
                statuses[index] = window.judge(quota, 0, redis_now);
            }
            statuses[index] = statuses[index].with_more(leased, quota);
        }
        Decision::new(statuses)
    }
}

/// What is asked of the counter at `place`.
pub(super) fn cost_of(demands: &[Demand], place: usize) -> u64 {
    let demand = demands.iter().find(|demand| demand.place == place);
    demand.map_or(0, |demand| demand.cost)
}
