//! While Redis cannot be asked, and what is taken back.

use smallvec::SmallVec;

use super::telling::cost_of;
use super::{Call, Demand, Ledger, Terms};
use crate::limit::decision::Statuses;
use crate::limit::redis::counter::at;
use crate::limit::redis::ordinal::Share;
use crate::limit::redis::wire::{NANOS_PER_MICRO, Question, Refund};
use crate::limit::{Charge, Decision, LimitStatus, Verdict};

/// The nanoseconds after which Redis may be back, and a request is worth another try.
const OUTAGE_RETRY: u64 = 1_000_000_000;

impl Ledger {
    /// Decides by a share of the quota while Redis cannot be asked. What this instance was granted
    /// lately counts in its share, so that an outage does not begin with a fresh one. What Redis is
    /// known to have counted for all instances counts in the quota.
    ///
    /// The shares of all instances are together never above the quota, see [`Share::units`].
    pub(in super::super) fn by_share(
        &mut self,
        charges: &[Charge<'_>],
        share: Share<'_>,
        now: u64,
    ) -> Decision {
        self.open(charges, now);
        let demands = self.demands(charges);
        let (at_least, redis_now) = (self.redis_at_least(now), self.redis_at_most(now));
        let fits = |demand: &Demand| {
            let counter = &mut self.counters[demand.place];
            counter.granted.advance(redis_now);
            counter.known.advance(at_least);
            counter
                .granted
                .has_room(share.units(&counter.id, demand.quota), demand.cost)
                && counter.known.has_room(demand.quota, demand.cost)
        };
        let admitted = demands.iter().map(fits).fold(true, |all, fits| all & fits);
        if admitted {
            for demand in &demands {
                let counter = &mut self.counters[demand.place];
                counter.granted.charge(demand.cost, redis_now);
                counter.known.charge(demand.cost, at_least);
            }
        }
        self.note_outside(now);
        let mut statuses = Statuses::new();
        for charge in charges {
            let place = self.place(charge);
            let cost = cost_of(&demands, place);
            let (counter, quota) = (&self.counters[place], charge.limit.quota());
            let units = share.units(&counter.id, quota);
            let judge = |cost| {
                let own = counter.granted.judge(units, cost, redis_now);
                let all = counter.known.judge(quota, cost, at_least);
                let worse = |status: &LimitStatus| (status.is_admitted(), status.remaining());
                if worse(&all) < worse(&own) { all } else { own }
            };
            statuses.push(match judge(if admitted { 0 } else { cost }) {
                status if status.is_admitted() => judge(0),
                status if cost > charge.limit.quota() => status,
                status => {
                    let wait = self.outage_wait(place, charge.limit.quota(), cost, now);
                    let resets_in = u64::try_from(status.resets_in().as_nanos());
                    let resets_in = resets_in.unwrap_or(u64::MAX).min(wait);
                    LimitStatus::denied(status.remaining(), resets_in, wait)
                }
            });
        }
        Decision::new(statuses)
    }

    /// The nanoseconds until a request that has no room in the share is worth another try.
    ///
    /// Redis may be back at any time. It then admits the request if the counter has room by what
    /// was last known.
    fn outage_wait(&self, place: usize, quota: u64, cost: u64, now: u64) -> u64 {
        let redis_now = self.redis_at_least(now);
        let known = at(self.counters[place].known, redis_now);
        match known.judge(quota, cost, redis_now).verdict() {
            Verdict::Denied { retry_after } => {
                u64::try_from(retry_after.as_nanos()).unwrap_or(u64::MAX)
            }
            _ => OUTAGE_RETRY,
        }
    }

    /// Lets a request through uncounted while Redis cannot be asked.
    pub(in super::super) fn unlimited(&mut self, charges: &[Charge<'_>], now: u64) -> Decision {
        self.open(charges, now);
        self.note_outside(now);
        self.expected(charges, &[], now)
    }

    /// Takes back a charge of `then`. What cannot be taken back here is left to the call.
    pub(in super::super) fn refund(
        &mut self,
        charges: &[Charge<'_>],
        then: u64,
        terms: &Terms,
        now: u64,
    ) -> Option<Call> {
        self.open(charges, now);
        let demands = self.demands(charges);
        let outside = self.outside;
        let outside = outside.is_some_and(|(first, last)| (first..=last).contains(&then));
        let charged_us = self.redis_at_least(then) / NANOS_PER_MICRO;
        let (spent_at, redis_now) = (charged_us * NANOS_PER_MICRO, self.redis_at_most(now));
        let mut refunds = SmallVec::new();
        for demand in demands.iter().filter(|demand| demand.cost > 0) {
            let counter = &mut self.counters[demand.place];
            if !outside && terms.leased && counter.lease.take_back(demand.cost, then, now) {
                continue;
            }
            counter.granted.refund(demand.cost, spent_at, redis_now);
            // As if Redis had done it: so nothing is denied here meanwhile that it would admit.
            counter.known.refund(demand.cost, spent_at, redis_now);
            // What the outage policy let through, Redis has not counted. For a request that Redis
            // was asked about in the same time this leaves units charged, which is the safe side.
            if !outside && counter.birth != 0 {
                refunds.push(Refund {
                    counter: counter.id.clone(),
                    cost: demand.cost,
                    charged_us,
                    birth: counter.birth,
                });
            }
        }
        (!refunds.is_empty()).then(|| Call {
            question: Question::Refund(refunds),
            sent: now,
            awaited: false,
        })
    }

    fn note_outside(&mut self, now: u64) {
        // Long enough for a request to be refunded.
        const REMEMBERED: u64 = 60_000_000_000;
        let last = self
            .outside
            .filter(|(_, last)| now < last.saturating_add(REMEMBERED));
        self.outside =
            Some(last.map_or((now, now), |(first, last)| (now.min(first), now.max(last))));
    }
}
