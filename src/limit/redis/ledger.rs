use smallvec::SmallVec;

use super::counter::{Counter, Heard, at};
use super::wire::{Ask, Outcome, Question, Reply, Restore};
use crate::limit::{Charge, Decision, Window};

mod leasing;
mod outage;
mod telling;

pub(super) use self::leasing::Tended;

/// What this instance knows and holds of one subject, and what follows from it: a state machine
/// without a clock and without input or output. Times are monotonic nanoseconds unless they are
/// named after Redis.
#[derive(Default)]
pub(super) struct Ledger {
    counters: SmallVec<[Counter; 1]>,
    ahead: Option<Ahead>,
    /// The number of calls on their way that ask for units.
    asking: usize,
    /// Whether a call is on its way that may bring units for others too.
    refilling: bool,
    /// True while a task gives back what is left of the leases.
    tended: bool,
    /// Whether a call is on its way that reports what Redis has lost.
    restoring: bool,
    /// The first and the last time at which the outage policy decided lately.
    outside: Option<(u64, u64)>,
}

/// How the limiter was set up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    pub(super) leased: bool,
    /// The longest that a call takes, in nanoseconds.
    pub(super) deadline: u64,
}

/// How many nanoseconds Redis's clock is ahead of the monotonic one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ahead {
    /// By an answer's arrival.
    least: i64,
    /// By the time before its question was sent.
    most: i64,
}

/// What comes next for a request.
pub(super) enum Step {
    /// It is decided; a call in the background may fetch more units.
    Decided(Decision, Option<Call>),
    /// Redis has to be asked.
    Ask(Call),
    /// Another request's call is to be waited for.
    Wait,
    /// Nothing was decided: it begins anew.
    Again,
}

/// A call to Redis. Whoever has it ends it with [`Ledger::answered`] or [`Ledger::unanswered`].
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) question: Question,
    pub(super) sent: u64,
    /// Whether others may be waiting for it.
    pub(super) awaited: bool,
}

/// What the charges ask of one counter together.
struct Demand {
    place: usize,
    /// The least, where they name several.
    quota: u64,
    cost: u64,
}

type Demands = SmallVec<[Demand; 2]>;

/// How patient a request is with the calls of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patience {
    /// It has just come.
    Fresh,
    /// It has waited before.
    Waiting,
    /// It has waited often enough and asks by itself.
    Gone,
}

impl Ledger {
    /// The most calls about one subject that are on their way at a time. Requests beyond them share
    /// the next call, so that no subject takes all calls of a limiter.
    pub(super) const CALLS_AT_ONCE: usize = 32;

    /// How far it goes without Redis.
    pub(super) fn begin(
        &mut self,
        charges: &[Charge<'_>],
        patience: Patience,
        terms: &Terms,
        now: u64,
    ) -> Step {
        self.open(charges, now);
        let demands = self.demands(charges);
        if demands.iter().any(|demand| demand.cost > demand.quota) {
            return Step::Decided(self.expected(charges, &demands, now), None);
        }
        if terms.leased {
            for demand in demands.iter().filter(|_| patience == Patience::Fresh) {
                let Counter { rate, known, .. } = &mut self.counters[demand.place];
                rate.record(demand.cost, now, known.part_nanos());
            }
        }
        let asks_only = demands.iter().all(|demand| demand.cost == 0);
        if (terms.leased || !asks_only) && self.is_leased(&demands, now) {
            for demand in &demands {
                self.counters[demand.place].lease.spend(demand.cost);
            }
            let more = self.refill(&demands, terms, now);
            return Step::Decided(self.expected(charges, &[], now), more);
        }
        let redis_now = self.redis_at_most(now);
        let beyond = self.beyond(&demands, terms, now);
        let denies = |demand: &Demand| {
            let counter = &self.counters[demand.place];
            counter.is_known_to_deny(demand.quota, demand.cost, now, redis_now)
        };
        if beyond.iter().any(denies) {
            return Step::Decided(self.expected(charges, &beyond, now), None);
        }
        let crowded = self.asking >= Self::CALLS_AT_ONCE;
        let waits = crowded || terms.leased && patience != Patience::Gone;
        if self.restoring || self.refilling && waits {
            return Step::Wait;
        }
        Step::Ask(self.ask(&demands, terms, now))
    }

    /// Takes in the answer to a call that [`begin`](Self::begin) asked for, and goes on.
    pub(super) fn answered(
        &mut self,
        charges: &[Charge<'_>],
        call: &Call,
        reply: &Reply,
        received: u64,
    ) -> Step {
        self.note_clock(call.sent, received, reply);
        self.ended(call);
        let Question::Acquire(asks) = &call.question else {
            self.learn(call, reply, received);
            return Step::Again;
        };
        // Counters may have been dropped meanwhile.
        self.open(charges, received);
        if reply.outcome == Outcome::Lost {
            self.give_back(asks);
            return self.restore(asks, reply, received);
        }
        let admitted = reply.outcome == Outcome::Admitted;
        if admitted {
            self.enter(asks, call, reply, received);
        } else {
            self.give_back(asks);
        }
        self.learn(call, reply, received);
        if charges.is_empty() {
            return Step::Decided(Decision::default(), None);
        }
        // By the answer itself: what is known may be newer.
        let redis_now = reply.now_nanos();
        let seen = |counter: &Counter| {
            let mut seen = asks.iter().zip(&reply.counters);
            seen.find(|(ask, _)| ask.counter == counter.id)
        };
        let decision = self.tell(charges, redis_now, received, |_, counter| {
            let stored = seen(counter).and_then(|(_, seen)| seen.stored.as_ref());
            // When it was admitted, it is counted already.
            let asked = seen(counter).map_or(0, |(ask, _)| if admitted { 0 } else { ask.cost });
            (counter.window(stored, redis_now), asked)
        });
        Step::Decided(decision, None)
    }

    /// Ends a call that no answer came to.
    pub(super) fn unanswered(&mut self, call: &Call) {
        self.ended(call);
        if let Question::Acquire(asks) = &call.question {
            self.give_back(asks);
        }
    }

    /// The units granted that still count and are of no use any more once this is forgotten.
    pub(super) fn units(&self, now: u64) -> u64 {
        let redis_now = self.redis_at_most(now);
        let busy = self.asking > 0 || self.restoring;
        let counters = self.counters.iter();
        counters.fold(u64::from(busy), |sum, counter| {
            let idle = counter.is_idle(redis_now);
            let granted = at(counter.granted, redis_now).total();
            sum.saturating_add(granted.max(u64::from(!idle)))
        })
    }

    /// Adopts a measurement of Redis's clock made by another subject.
    pub(super) fn adopt_clock(&mut self, ahead: Option<Ahead>) {
        self.ahead = self.ahead.or(ahead);
    }

    pub(super) fn clock(&self) -> Option<Ahead> {
        self.ahead
    }
}

/// The parts of the above.
impl Ledger {
    /// Opens the counters of `charges`, and drops others of which nothing is left.
    fn open(&mut self, charges: &[Charge<'_>], now: u64) {
        if charges.iter().all(|charge| self.find(charge).is_some()) {
            return;
        }
        let redis_now = self.redis_at_most(now);
        self.counters.retain(|counter| !counter.is_idle(redis_now));
        for charge in charges {
            if self.find(charge).is_none() {
                self.counters.push(Counter::of(charge));
            }
        }
    }

    fn find(&self, charge: &Charge<'_>) -> Option<usize> {
        self.counters
            .iter()
            .position(|counter| counter.is_of(charge))
    }

    fn place(&self, charge: &Charge<'_>) -> usize {
        self.find(charge)
            .expect("the counters of all charges are open")
    }

    fn demands(&self, charges: &[Charge<'_>]) -> Demands {
        let mut demands = Demands::new();
        for charge in charges {
            let place = self.place(charge);
            let (quota, cost) = (charge.limit.quota(), charge.cost);
            match demands.iter_mut().find(|demand| demand.place == place) {
                Some(demand) => {
                    demand.quota = demand.quota.min(quota);
                    demand.cost = demand.cost.saturating_add(cost);
                }
                None => demands.push(Demand { place, quota, cost }),
            }
        }
        demands
    }

    fn ended(&mut self, call: &Call) {
        match &call.question {
            Question::Acquire(_) => {
                self.asking = self.asking.saturating_sub(1);
                self.refilling &= !call.awaited;
            }
            Question::Restore(_) => self.restoring = false,
            Question::Refund(_) => {}
        }
    }

    /// Reports what was granted from counters that Redis does not have any more.
    fn restore(&mut self, asks: &[Ask], reply: &Reply, received: u64) -> Step {
        if self.restoring {
            return Step::Wait;
        }
        let redis_now = reply.now_nanos();
        let mut restores = SmallVec::<[Restore; 2]>::new();
        for (ask, seen) in asks.iter().zip(&reply.counters) {
            let born = seen.stored.as_ref().map_or(0, |stored| stored.birth);
            let by_id = |counter: &&Counter| counter.id == ask.counter;
            let Some(counter) = self.counters.iter().find(by_id) else {
                continue;
            };
            if ask.birth != 0 && ask.birth == counter.birth && ask.birth != born {
                restores.push(Restore {
                    counter: ask.counter.clone(),
                    grants: counter.grants(redis_now),
                });
            }
        }
        if restores.is_empty() {
            // Another call has done so since this one was sent.
            return Step::Again;
        }
        self.restoring = true;
        Step::Ask(Call {
            question: Question::Restore(restores),
            sent: received,
            awaited: true,
        })
    }

    fn learn(&mut self, call: &Call, reply: &Reply, received_at: u64) {
        let heard = Heard {
            asked_at: call.sent,
            received_at,
            redis_now: reply.now_nanos(),
        };
        let ids: SmallVec<[_; 2]> = match &call.question {
            Question::Acquire(asks) => asks.iter().map(|ask| &ask.counter).collect(),
            Question::Refund(refunds) => refunds.iter().map(|refund| &refund.counter).collect(),
            Question::Restore(restores) => restores.iter().map(|some| &some.counter).collect(),
        };
        for (place, (id, seen)) in ids.into_iter().zip(&reply.counters).enumerate() {
            // Nothing is reported to a counter that has lost its data while its birth is believed.
            if let Question::Refund(refunds) = &call.question
                && seen.stored.as_ref().map_or(0, |stored| stored.birth) != refunds[place].birth
            {
                continue;
            }
            if let Some(counter) = self.counters.iter_mut().find(|counter| counter.id == *id) {
                counter.learn(seen.stored.as_ref(), heard);
            }
        }
    }

    fn note_clock(&mut self, sent: u64, received: u64, reply: &Reply) {
        if self.ahead.is_none() {
            // What was granted before is in another time.
            for counter in &mut self.counters {
                counter.granted = Window::empty(counter.id.seconds);
            }
        }
        let redis_now = reply.now_nanos().cast_signed();
        self.ahead = Some(Ahead {
            least: redis_now.saturating_sub_unsigned(received),
            most: redis_now.saturating_sub_unsigned(sent),
        });
    }

    /// The latest that it can be at Redis.
    fn redis_at_most(&self, now: u64) -> u64 {
        now.saturating_add_signed(self.ahead.map_or(0, |ahead| ahead.most))
    }

    /// The earliest.
    fn redis_at_least(&self, now: u64) -> u64 {
        now.saturating_add_signed(self.ahead.map_or(0, |ahead| ahead.least))
    }
}
