//! Leases: what is asked for, what is granted, and what is given back.

use smallvec::SmallVec;

use super::{Call, Demand, Demands, Ledger, Terms};
use crate::limit::Charge;
use crate::limit::redis::counter::Counter;
use crate::limit::redis::lease::{Grant, Unspent};
use crate::limit::redis::wire::{Ask, NANOS_PER_MICRO, Outcome, Question, Refund, Reply, Seen};

/// The upkeep of leases that no request asks for.
pub(in super::super) struct Tended {
    /// Gives back what nobody is expected to spend.
    pub(in super::super) call: Option<Call>,
    /// The monotonic time at which to look again; none when nothing is leased.
    pub(in super::super) next: Option<u64>,
}

impl Demand {
    /// The units that are held already and outlast a call to Redis.
    pub(super) fn reservable(&self, counter: &Counter, terms: &Terms, now: u64) -> u64 {
        let answered = now.saturating_add(terms.deadline);
        self.cost.min(counter.lease.spendable(self.quota, answered))
    }
}

impl Ledger {
    /// Counts a request as waiting for units that another call brings.
    pub(in super::super) fn wait(&mut self, charges: &[Charge<'_>]) {
        for charge in charges {
            if let Some(place) = self.find(charge) {
                let waiting = &mut self.counters[place].waiting;
                *waiting = waiting.saturating_add(charge.cost);
            }
        }
    }

    /// Ends what [`wait`](Self::wait) began.
    pub(in super::super) fn stop_waiting(&mut self, charges: &[Charge<'_>]) {
        for charge in charges {
            if let Some(place) = self.find(charge) {
                let waiting = &mut self.counters[place].waiting;
                *waiting = waiting.saturating_sub(charge.cost);
            }
        }
    }

    /// Returns true if a task has to [`tend`](Self::tend) this from now on, once for each task.
    pub(in super::super) fn needs_tending(&mut self) -> bool {
        let needs = !self.tended
            && self
                .counters
                .iter()
                .any(|counter| !counter.lease.is_empty());
        self.tended |= needs;
        needs
    }

    /// Takes note that nobody tends it any more.
    pub(in super::super) fn untended(&mut self) {
        self.tended = false;
    }

    /// Gives back what is left of leases that have ended, or whose traffic has.
    pub(in super::super) fn tend(&mut self, now: u64) -> Tended {
        let (at_least, at_most) = (self.redis_at_least(now), self.redis_at_most(now));
        let mut refunds = SmallVec::new();
        let mut next = None;
        for counter in &mut self.counters {
            let (unspent, due) = tend(counter, now, at_least);
            if let Some(due) = due {
                next = Some(next.map_or(due, |next: u64| next.min(due)));
            }
            let Some(unspent) = unspent else { continue };
            let unspent = counter.take_unspent(unspent, at_most);
            if counter.birth == 0 {
                continue;
            }
            let charged_us = unspent.time_us();
            counter
                .known
                .refund(unspent.units, charged_us * NANOS_PER_MICRO, at_most);
            refunds.push(Refund {
                counter: counter.id.clone(),
                cost: unspent.units,
                charged_us,
                birth: counter.birth,
            });
        }
        self.tended = next.is_some();
        let call = (!refunds.is_empty()).then(|| Call {
            question: Question::Refund(refunds),
            sent: now,
            awaited: false,
        });
        Tended { call, next }
    }

    pub(super) fn is_leased(&self, demands: &Demands, now: u64) -> bool {
        let covers = |demand: &Demand| {
            let lease = &self.counters[demand.place].lease;
            lease.covers(demand.cost, demand.quota, now)
        };
        demands.iter().all(covers)
    }

    /// The demands on Redis: units that are held and outlast a call are subtracted.
    pub(super) fn beyond(&self, demands: &Demands, terms: &Terms, now: u64) -> Demands {
        let beyond = |demand: &Demand| Demand {
            cost: demand.cost - demand.reservable(&self.counters[demand.place], terms, now),
            ..*demand
        };
        demands.iter().map(beyond).collect()
    }

    pub(super) fn ask(&mut self, demands: &Demands, terms: &Terms, now: u64) -> Call {
        let (at_least, at_most) = (self.redis_at_least(now), self.redis_at_most(now));
        let crowded = self.asking >= Self::CALLS_AT_ONCE;
        let shares = terms.leased || crowded;
        let mut asks = SmallVec::<[Ask; 2]>::new();
        for demand in demands {
            let counter = &mut self.counters[demand.place];
            let birth = counter.birth_to_insist_on(at_most);
            let held = demand.reservable(counter, terms, now);
            let reserved = (held > 0).then(|| counter.lease.reserve(held));
            let unspent = match birth {
                0 => None,
                _ => counter.lease.take_unspent(now),
            };
            let mut extra = 0;
            if shares {
                let left = counter.lease.spendable(demand.quota, now);
                extra = counter.waiting.saturating_sub(left);
            }
            if terms.leased {
                extra = extra.max(missing(counter, demand, now, at_least));
            }
            asks.push(Ask {
                counter: counter.id.clone(),
                quota: demand.quota,
                cost: demand.cost - held,
                extra,
                birth,
                unspent: unspent.map(|unspent| counter.take_unspent(unspent, at_most)),
                reserved,
            });
        }
        let brings_more = asks.iter().any(|ask| ask.extra > 0);
        self.call(asks, brings_more || crowded, now)
    }

    /// A call for more units, where a lease runs out and Redis has some left.
    pub(super) fn refill(&mut self, demands: &Demands, terms: &Terms, now: u64) -> Option<Call> {
        let low = |demand: &Demand| self.counters[demand.place].lease.is_low(now);
        if !terms.leased || self.refilling || self.restoring || !demands.iter().any(low) {
            return None;
        }
        let (at_least, at_most) = (self.redis_at_least(now), self.redis_at_most(now));
        let mut asks = SmallVec::<[Ask; 2]>::new();
        for demand in demands {
            let counter = &mut self.counters[demand.place];
            let extra = missing(counter, demand, now, at_least);
            let is_worth_it = extra > 2 * counter.lease.units(now);
            if counter.lease.is_low(now) && is_worth_it && counter.known.total() < demand.quota {
                asks.push(Ask {
                    counter: counter.id.clone(),
                    quota: demand.quota,
                    cost: 0,
                    extra,
                    birth: counter.birth_to_insist_on(at_most),
                    unspent: None,
                    reserved: None,
                });
            }
        }
        (!asks.is_empty()).then(|| self.call(asks, true, now))
    }

    /// Takes in an answer that came after its request was decided without it: what was granted is
    /// counted, and leased units are held. `is_spent` says whether the request was admitted; what
    /// it cost is given back otherwise.
    pub(in super::super) fn answered_late(
        &mut self,
        call: &Call,
        reply: &Reply,
        is_spent: bool,
        received: u64,
    ) {
        if let Question::Acquire(asks) = &call.question
            && reply.outcome == Outcome::Admitted
        {
            let held = |ask: &Ask| if is_spent { 0 } else { ask.cost };
            self.hold(asks, call, reply, received, |ask| (0, held(ask)));
        }
        self.learn(call, reply, received);
    }

    /// Enters what an answer has granted.
    pub(super) fn enter(&mut self, asks: &[Ask], call: &Call, reply: &Reply, received: u64) {
        self.hold(asks, call, reply, received, |ask| (ask.cost, 0));
    }

    /// Enters what an answer has granted, with the units of each cost that are spent and held.
    fn hold(
        &mut self,
        asks: &[Ask],
        call: &Call,
        reply: &Reply,
        received: u64,
        of_cost: impl Fn(&Ask) -> (u64, u64),
    ) {
        let redis_now = reply.now_nanos();
        for (ask, Seen { extra, stored }) in asks.iter().zip(&reply.counters) {
            let by_id = |counter: &&mut Counter| counter.id == ask.counter;
            let Some(counter) = self.counters.iter_mut().find(by_id) else {
                continue;
            };
            let (spent, held) = of_cost(ask);
            let window = counter.window(stored.as_ref(), redis_now);
            // The newest units that Redis has counted are these: leased ones with the lease's end.
            let time = window.latest().max(redis_now);
            counter.granted.advance(redis_now);
            let units = extra.saturating_add(spent).saturating_add(held);
            counter.granted.spend(units, time);
            if held > 0 {
                // Counted at the time of the charge, it must not be spent later.
                let (units, time) = (held, window.latest());
                counter.lease.retire(Unspent { units, time });
            }
            counter.lease.add(&Grant {
                units: *extra,
                window: &window,
                sent: call.sent,
                received,
                redis_now,
            });
        }
    }

    pub(super) fn give_back(&mut self, asks: &[Ask]) {
        for ask in asks {
            let by_id = |counter: &&mut Counter| counter.id == ask.counter;
            let counter = self.counters.iter_mut().find(by_id);
            if let (Some(counter), Some(reserved)) = (counter, &ask.reserved) {
                counter.lease.give_back(reserved);
            }
        }
    }

    fn call(&mut self, asks: SmallVec<[Ask; 2]>, brings_more: bool, now: u64) -> Call {
        let awaited = brings_more && !self.refilling;
        self.refilling |= awaited;
        self.asking += 1;
        Call {
            question: Question::Acquire(asks),
            sent: now,
            awaited,
        }
    }
}

/// The units to lease beyond those that are held: what is expected within the sub-window, and not
/// more than an eighth of the quota, which a dead instance may take with it.
fn missing(counter: &Counter, demand: &Demand, now: u64, redis_now: u64) -> u64 {
    let part_nanos = counter.known.part_nanos();
    let left = part_nanos - redis_now % part_nanos;
    let batch = counter.rate.batch(demand.cost, now, left, part_nanos);
    batch
        .min(demand.quota / 8)
        .saturating_sub(counter.lease.units(now))
}

/// The units to give back now, and the time at which to look again.
fn tend(counter: &mut Counter, now: u64, redis_now: u64) -> (Option<Unspent>, Option<u64>) {
    /// The next request takes along what is left, which saves a call. So it is waited for, as long
    /// as a few requests take.
    const REQUESTS: u64 = 3;
    const LONGEST: u64 = 2_000_000_000;
    let lease = &mut counter.lease;
    if lease.is_empty() {
        return (None, None);
    }
    let part_nanos = counter.known.part_nanos();
    let kept = counter.rate.time_for(REQUESTS, part_nanos);
    let kept = kept.clamp(part_nanos / 16, part_nanos / 2).min(LONGEST);
    let over = lease.until().saturating_add(kept);
    if now >= over {
        return (lease.take_unspent(now), None);
    }
    if now >= lease.until() {
        return (None, Some(over));
    }
    let ends = counter.rate.ends(lease.since(), part_nanos);
    if now >= ends {
        return match lease.take_older() {
            Some(older) => (Some(older), Some(ends)),
            None => (lease.take_surplus(0), None),
        };
    }
    let left = part_nanos - redis_now % part_nanos;
    if left < part_nanos / 4 {
        // Soon all of it is given back.
        return (None, Some(over));
    }
    let expected = 2 * counter.rate.batch(1, now, left, part_nanos) + 8;
    (lease.take_surplus(expected), Some(ends.min(over)))
}
