//! One instance's ledgers over the model of Redis, without a network.

use super::model::Model;
use super::{charge, limit};
use crate::limit::redis::ledger::{Ledger, Patience, Step, Terms};
use crate::limit::redis::ordinal::Share;
use crate::limit::redis::wire::{NANOS_PER_MICRO, Question};
use crate::limit::{Charge, Decision};

const MILLI: u64 = 1_000_000;
/// A time at which a sub-window of a minute begins.
const BEGIN: u64 = 1_700_000_040_000 * MILLI;

const LEASED: Terms = Terms {
    leased: true,
    deadline: 1_000 * MILLI,
};
const STRICT: Terms = Terms {
    leased: false,
    ..LEASED
};

/// The share of an instance that has no ordinal.
fn share(percent: u8) -> Share<'static> {
    Share {
        percent,
        ordinal: None,
        tag: "{test}",
    }
}

/// An instance, and a Redis that answers within a millisecond.
#[derive(Default)]
struct Instance {
    ledger: Ledger,
    redis: Model,
    calls: u64,
}

impl Instance {
    fn acquire(&mut self, charges: &[Charge<'_>], terms: &Terms, now: u64) -> Decision {
        let mut step = self.ledger.begin(charges, Patience::Fresh, terms, now);
        loop {
            let (decision, call) = match step {
                Step::Decided(decision, call) => (Some(decision), call),
                Step::Ask(call) => (None, Some(call)),
                Step::Wait | Step::Again => panic!("nobody else asks"),
            };
            let asked = call.map(|call| {
                self.calls += 1;
                let reply = self.redis.answer(&call.question, now / NANOS_PER_MICRO);
                let charges = if decision.is_some() { &[] } else { charges };
                self.ledger.answered(charges, &call, &reply, now + MILLI)
            });
            match (decision, asked) {
                (Some(decision), _) => return decision,
                (None, Some(next)) => step = next,
                (None, None) => unreachable!("a step decides or asks"),
            }
        }
    }
}

/// With a deadline of a second, hardly a lease of the short limit outlasts a call.
#[test]
fn what_is_held_is_subtracted_from_what_is_leased_beside_another_limit() {
    let (second, minute) = (limit("second", 1_000, 1), limit("minute", 10_000, 60));
    let charges = [charge(&second, 1), charge(&minute, 1)];
    let mut instance = Instance::default();
    let mut admitted = 0;
    // Two thirds of the longer quota, within one of its windows.
    for request in 0..6_600 {
        let now = BEGIN + request * 9 * MILLI;
        admitted += u64::from(instance.acquire(&charges, &LEASED, now).is_admitted());
    }
    println!("{admitted} of 6600 admitted, {} calls", instance.calls);
    assert_eq!(admitted, 6_600);
}

#[test]
fn a_lowered_quota_binds_leased_units_at_once() {
    let high = limit("minute", 10_000, 60);
    let mut instance = Instance::default();
    for request in 0..300 {
        let now = BEGIN + request * MILLI;
        assert!(
            instance
                .acquire(&[charge(&high, 1)], &LEASED, now)
                .is_admitted()
        );
    }
    assert!(
        instance.calls < 100,
        "it has leased: {} calls",
        instance.calls
    );
    let low = limit("minute", 300, 60);
    let now = BEGIN + 300 * MILLI;
    let decision = instance.acquire(&[charge(&low, 1)], &LEASED, now);
    assert!(!decision.is_admitted());
    assert_eq!(super::remaining(&decision), [0]);
}

#[test]
fn shares_are_not_rounded_up_to_more_than_the_quota() {
    for (quota, percent, instances) in [(1, 25, 4), (1, 50, 2), (5, 25, 4), (3, 33, 3)] {
        let few = limit("minute", quota, 60);
        let mut admitted = 0;
        for _ in 0..instances {
            let mut ledger = Ledger::default();
            for request in 0..10 {
                let decision = ledger.by_share(&[charge(&few, 1)], share(percent), BEGIN + request);
                admitted += u64::from(decision.is_admitted());
            }
        }
        assert!(admitted <= quota, "{admitted} of {quota} among {instances}");
    }
}

#[test]
fn what_redis_had_counted_for_others_counts_in_an_outage() {
    let minute = limit("minute", 100, 60);
    let mut instance = Instance::default();
    let mut others = Ledger::default();
    for _ in 0..9 {
        let step = others.begin(&[charge(&minute, 10)], Patience::Gone, &STRICT, BEGIN);
        let Step::Ask(call) = step else {
            panic!("Redis is asked")
        };
        let reply = instance
            .redis
            .answer(&call.question, BEGIN / NANOS_PER_MICRO);
        others.answered(&[charge(&minute, 10)], &call, &reply, BEGIN);
    }
    instance.acquire(&[charge(&minute, 1)], &STRICT, BEGIN);
    let mut admitted = 0;
    for request in 0..50 {
        let now = BEGIN + request * MILLI;
        let decision = instance
            .ledger
            .by_share(&[charge(&minute, 1)], share(50), now);
        admitted += u64::from(decision.is_admitted());
    }
    // Of its share of 50 only what 91 of 100 leave.
    assert_eq!(admitted, 9);
}

#[test]
fn leased_units_of_a_late_answer_are_spent_and_its_cost_is_given_back() {
    let minute = limit("minute", 10_000, 60);
    let charges = [charge(&minute, 1)];
    let mut instance = Instance::default();
    let mut now = BEGIN;
    let call = loop {
        now += MILLI;
        match instance
            .ledger
            .begin(&charges, Patience::Fresh, &LEASED, now)
        {
            Step::Ask(call) if call.awaited => break call,
            Step::Ask(call) => {
                let reply = instance.redis.answer(&call.question, now / NANOS_PER_MICRO);
                instance.ledger.answered(&charges, &call, &reply, now);
            }
            _ => panic!("nothing is leased yet"),
        }
    };
    let reply = instance.redis.answer(&call.question, now / NANOS_PER_MICRO);
    let extra = reply.counters[0].extra;
    assert!(extra > 0);
    instance.ledger.unanswered(&call);
    instance
        .ledger
        .answered_late(&call, &reply, false, now + 1_500 * MILLI);
    for _ in 0..extra {
        let spent = instance
            .ledger
            .begin(&charges, Patience::Gone, &LEASED, now + 1_600 * MILLI);
        assert!(matches!(spent, Step::Decided(decision, _) if decision.is_admitted()));
    }
    let mut given_back = 0;
    for millis in [2_000, 2_001, 6_000, 6_001] {
        let tended = instance.ledger.tend(now + millis * MILLI);
        if let Some(call) = tended.call
            && let Question::Refund(refunds) = call.question
        {
            given_back += refunds.iter().map(|refund| refund.cost).sum::<u64>();
        }
    }
    assert_eq!(given_back, 1);
}
