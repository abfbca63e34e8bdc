//! The scripts decide as the pure function does, and the model as the scripts.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::model::Model;
use super::{charge, limit, stranger};
use crate::clock::Moment;
use crate::limit::redis::lease::Unspent;
use crate::limit::redis::ledger::{Ledger, Patience, Step, Terms};
use crate::limit::redis::link::Link;
use crate::limit::redis::wire::{CounterId, NANOS_PER_MICRO, Question, Restore};
use crate::limit::{Charge, Decision, LimitSpace, LocalLimiter, RateLimit, Verdict};

const PART_US: i64 = 10 * 62_500;

/// Steps of the clock in microseconds: none, short, about a sub-window, along its edges, far.
fn steps() -> impl Strategy<Value = i64> {
    let forward = prop_oneof![
        4 => Just(0),
        // Within a slot, and over some.
        4 => 1..PART_US / 20,
        4 => 1..PART_US / 4,
        4 => 1..3 * PART_US,
        2 => (1..18_i64).prop_map(|parts| parts * PART_US),
        1 => 20 * PART_US..60 * PART_US,
    ];
    (forward, prop::bool::weighted(0.1)).prop_map(|(step, back)| if back { -step } else { step })
}

#[derive(Clone, Debug)]
struct Asked {
    step: i64,
    costs: Vec<u64>,
    extras: Vec<u64>,
    refund: bool,
}

fn asked() -> impl Strategy<Value = Asked> {
    let costs = prop::collection::vec(0..12_u64, 4);
    let extras = prop::collection::vec(0..9_u64, 4);
    (steps(), costs, extras, prop::bool::weighted(0.1)).prop_map(|(step, costs, extras, refund)| {
        Asked {
            step,
            costs,
            extras,
            refund,
        }
    })
}

/// Quotas for a few charges, and for many more than a counter keeps with their times.
fn quotas() -> impl Strategy<Value = Vec<u64>> {
    prop_oneof![
        prop::collection::vec(1..40_u64, 4),
        prop::collection::vec(200..MOST, 4),
    ]
}

const MOST: u64 = 2_000;

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(11),
        ..ProptestConfig::default()
    }
}

fn moment(us: u64) -> Moment {
    Moment::new(Timestamp::UNIX_EPOCH, Duration::from_micros(us))
}

/// Two windows and two spaces, of which some meet in one counter.
fn limits(quotas: &[u64], large: bool) -> Vec<(RateLimit, LimitSpace)> {
    let scale = if large {
        RateLimit::MAX_QUOTA / MOST
    } else {
        1
    };
    let limit = |index: usize, seconds| limit("tested", quotas[index] * scale, seconds);
    vec![
        (limit(0, 10), LimitSpace::Key),
        (limit(1, 30), LimitSpace::Key),
        (limit(2, 10), LimitSpace::Route),
        (limit(3, 10), LimitSpace::Key),
    ]
}

/// A connection, on a runtime that outlives it.
fn connected() -> (tokio::runtime::Runtime, Arc<Link>) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let link = Arc::new(Link::to_server(&super::server::url()).unwrap());
    assert!(runtime.block_on(link.connect()).unwrap());
    (runtime, link)
}

const STRICT: Terms = Terms {
    leased: false,
    deadline: 1_000_000_000,
};

#[test]
fn the_scripts_decide_as_the_local_limiter_does() {
    let (runtime, link) = connected();
    let cases = (
        quotas(),
        prop::collection::vec(asked(), 1..120),
        1..5_usize,
        any::<[bool; 2]>(),
    );
    proptest!(config(100), |((quotas, history, count, [remembers, large]) in cases)| {
        let subject = stranger();
        let tag = format!("{{agreement:{subject:?}}}");
        let limits = limits(&quotas, large);
        let scale = if large { RateLimit::MAX_QUOTA / MOST } else { 1 };
        let (local, mut model) = (LocalLimiter::new(10), Model::default());
        let mut ledger = Ledger::default();
        let (mut now_us, mut wrote) = (1_700_000_000_000_000_u64, true);
        for Asked { step, costs, .. } in history {
            // An instance's own clock does not go back. Redis's may, but to the scripts the newest
            // time is that of the last write, and to the local limiter also that of a denial.
            let step = if remembers || !wrote { step.abs() } else { step };
            now_us = now_us.saturating_add_signed(step);
            let charges: Vec<_> = limits
                .iter()
                .zip(&costs)
                .take(count)
                .map(|((limit, space), cost)| Charge {
                    limit,
                    space: *space,
                    cost: cost * scale,
                })
                .collect();
            let expected = local.acquire(&subject, &charges, moment(now_us));
            wrote = expected.is_admitted() && charges.iter().all(|charge| charge.cost > 0);
            if !remembers {
                ledger = Ledger::default();
            }
            let now = now_us * NANOS_PER_MICRO;
            let decision = match ledger.begin(&charges, Patience::Fresh, &STRICT, now) {
                Step::Decided(decision, None) => decision,
                Step::Ask(call) => {
                    let reply = runtime.block_on(link.ask(&call.question, &tag, now_us)).unwrap();
                    prop_assert_eq!(&reply, &model.answer(&call.question, now_us));
                    match ledger.answered(&charges, &call, &reply, now) {
                        Step::Decided(decision, None) => decision,
                        _ => panic!("the answer decides"),
                    }
                }
                _ => panic!("nobody else asks"),
            };
            prop_assert_eq!(decision.is_admitted(), expected.is_admitted());
            // A ledger without a memory does not know how it stands when it does not ask.
            if remembers || !is_impossible(&expected) {
                prop_assert_eq!(decision, expected);
            }
        }
    });
}

fn is_impossible(decision: &Decision) -> bool {
    let mut statuses = decision.statuses().iter();
    statuses.any(|status| status.verdict() == Verdict::Impossible)
}

#[test]
fn the_model_answers_as_the_scripts_do() {
    let (runtime, link) = connected();
    let cases = (
        quotas(),
        prop::collection::vec(asked(), 1..120),
        prop::collection::vec(0..40_u64, 4),
    );
    proptest!(config(100), |((quotas, history, births) in cases)| {
        let tag = format!("{{agreement:{:?}}}", stranger());
        let limits = limits(&quotas, false);
        let charges: Vec<_> = limits[..3].iter().map(|(limit, _)| charge(limit, 0)).collect();
        let (mut model, mut ledger) = (Model::default(), Ledger::default());
        let mut now_us = 1_700_000_000_000_000_u64;
        let (mut last_us, mut birth) = (now_us, 0);
        for (turn, Asked { step, costs, extras, refund }) in history.into_iter().enumerate() {
            now_us = now_us.saturating_add_signed(step);
            let now = now_us * NANOS_PER_MICRO;
            let Step::Ask(call) = ledger.begin(&charges, Patience::Gone, &STRICT, now) else {
                panic!("a question about nothing is never denied");
            };
            ledger.unanswered(&call);
            let Question::Acquire(mut asks) = call.question else {
                panic!("a request asks");
            };
            for (index, ask) in asks.iter_mut().enumerate() {
                (ask.cost, ask.extra) = (costs[index], extras[index]);
                ask.birth = match births[index] {
                    _ if index > 0 => 0,
                    0 => 1,
                    1..20 => birth,
                    _ => 0,
                };
                ask.unspent = (ask.birth != 0).then(|| Unspent {
                    units: extras[3],
                    time: last_us * NANOS_PER_MICRO,
                });
            }
            let question = if refund && turn % 2 == 0 {
                Question::Restore(asks.iter().map(|ask| restore(&ask.counter, now_us, &extras)).collect())
            } else if refund {
                let charges = [charge(&limits[0].0, costs[0])];
                // Only what Redis was heard to have counted is ever given back.
                let call = ledger.refund(&charges, last_us * NANOS_PER_MICRO, &STRICT, now);
                call.map_or(Question::Acquire(asks), |call| call.question)
            } else {
                Question::Acquire(asks)
            };
            let reply = runtime.block_on(link.ask(&question, &tag, now_us)).unwrap();
            prop_assert_eq!(&reply, &model.answer(&question, now_us));
            let call = crate::limit::redis::ledger::Call { question, sent: now, awaited: false };
            ledger.answered(&[], &call, &reply, now);
            last_us = now_us;
            birth = reply.counters[0].stored.as_ref().map_or(0, |stored| stored.birth);
        }
    });
}

fn restore(counter: &CounterId, now_us: u64, extras: &[u64]) -> Restore {
    let part_us = counter.part_us();
    let grants = extras.iter().map(|extra| {
        // From the next sub-window, as the end of a lease is, to some that have left the count.
        let time_us = now_us + part_us / 2 - 5 * part_us * extra.min(&4);
        (time_us, *extra + 1)
    });
    Restore {
        counter: counter.clone(),
        grants: grants.collect(),
    }
}
