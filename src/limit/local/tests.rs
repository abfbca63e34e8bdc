//! The local limiter against a log of every request.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::{Charge, LimitSpace, LocalLimiter, Subject, SubjectId};
use crate::clock::Moment;
use crate::limit::{Decision, LimitStatus, RateLimit, Verdict};

const SECOND: u64 = 1_000_000_000;

fn moment(nanos: u64) -> Moment {
    Moment::new(Timestamp::UNIX_EPOCH, Duration::from_nanos(nanos))
}

fn address(number: u32) -> SubjectId {
    SubjectId::Address(IpAddr::V4(Ipv4Addr::from_bits(number)))
}

fn limit(name: &str, quota: u64, seconds: u64) -> RateLimit {
    RateLimit::new(name, quota, Duration::from_secs(seconds)).unwrap()
}

fn charge(limit: &RateLimit, cost: u64) -> Charge<'_> {
    Charge {
        limit,
        space: LimitSpace::Key,
        cost,
    }
}

fn remaining(decision: &Decision) -> Vec<u64> {
    let statuses = decision.statuses().iter();
    statuses.map(LimitStatus::remaining).collect()
}

/// Everything that was admitted under one limit, in the order of time: when, and how much.
#[derive(Default)]
struct Log(Vec<(u64, u64)>);

impl Log {
    /// The most units that any trailing window `(now - window, now]` holds.
    fn fullest(&self, window: Duration) -> u64 {
        let window = u64::try_from(window.as_nanos()).unwrap();
        let (mut first, mut held, mut fullest) = (0, 0, 0);
        for (end, cost) in &self.0 {
            held += cost;
            while self.0[first].0 + window <= *end {
                held -= self.0[first].1;
                first += 1;
            }
            fullest = held.max(fullest);
        }
        fullest
    }
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(11),
        ..ProptestConfig::default()
    }
}

/// Steps of a clock in nanoseconds: none, short, about a sub-window, far ahead.
fn steps() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => Just(0),
        4 => 1..SECOND / 20,
        4 => 1..SECOND / 5,
        2 => (1..40_u64).prop_map(|parts| parts * SECOND / 16),
        1 => SECOND..10 * SECOND,
    ]
}

proptest! {
    #![proptest_config(config(100))]

    #[test]
    fn several_limits_are_charged_together_or_not_at_all(
        quotas in prop::collection::vec((1..30_u64, 1..4_u64), 1..5),
        start in 0..100 * SECOND,
        requests in prop::collection::vec((steps(), prop::collection::vec(0..8_u64, 5)), 1..120),
    ) {
        let limiter = LocalLimiter::new(10);
        let subject = Subject::new(address(1));
        let limits: Vec<_> = quotas
            .iter()
            .enumerate()
            .map(|(index, (quota, seconds))| limit(&index.to_string(), *quota, *seconds))
            .collect();
        let mut logs: Vec<Log> = limits.iter().map(|_| Log::default()).collect();
        let mut now = start;
        for (step, costs) in requests {
            now += step;
            let peek: Vec<_> = limits.iter().map(|limit| charge(limit, 0)).collect();
            let charges: Vec<_> = limits.iter().zip(&costs).map(|(l, c)| charge(l, *c)).collect();
            let before = remaining(&limiter.acquire(&subject, &peek, moment(now)));
            let decision = limiter.acquire(&subject, &charges, moment(now));
            let after = remaining(&limiter.acquire(&subject, &peek, moment(now)));
            prop_assert_eq!(remaining(&decision), after.clone());
            let fits = before.iter().zip(&costs).all(|(before, cost)| cost <= before);
            prop_assert_eq!(decision.is_admitted(), fits);
            for (index, log) in logs.iter_mut().enumerate() {
                let charged = if fits { costs[index] } else { 0 };
                prop_assert_eq!(before[index] - after[index], charged);
                log.0.push((now, charged));
            }
            if let Some(retry_after) = decision.retry_after() {
                prop_assert!(!decision.is_admitted());
                // On limiters of its own, so that asking changes nothing.
                let at = now + u64::try_from(retry_after.as_nanos()).unwrap();
                prop_assert!(!replayed(&limits, &logs, &charges, at - 1).is_admitted());
                prop_assert!(replayed(&limits, &logs, &charges, at).is_admitted());
            }
        }
        for (limit, log) in limits.iter().zip(&logs) {
            prop_assert!(log.fullest(limit.window()) <= limit.quota());
        }
    }

    #[test]
    fn eviction_gives_no_quota_back(
        capacity in 1..5_usize,
        quota in 1..12_u64,
        seconds in (1..3_u64, 1..3_u64),
        start in 0..100 * SECOND,
        requests in prop::collection::vec((steps(), 0..12_u32, 1..4_u64, any::<bool>()), 1..400),
        remember in any::<bool>(),
    ) {
        let limiter = LocalLimiter::new(capacity);
        let limits = [limit("own", quota, seconds.0), limit("other", 2 * quota, seconds.1)];
        let subjects: Vec<_> = (0..12).map(|number| Subject::new(address(number))).collect();
        let mut logs: HashMap<(u32, usize), Log> = HashMap::new();
        let mut now = start;
        for (step, number, cost, both) in requests {
            now += step;
            let charges = limits.each_ref().map(|limit| charge(limit, cost));
            let charges = &charges[..if both { 2 } else { 1 }];
            let subject = &subjects[number as usize];
            // With and without a memory, in turns, so that each finds what the other has left.
            let stranger = Subject::new(subject.id().clone());
            let subject = if remember || now % 2 == 0 { subject } else { &stranger };
            if limiter.acquire(subject, charges, moment(now)).is_admitted() {
                for (index, charge) in charges.iter().enumerate() {
                    logs.entry((number, index)).or_default().0.push((now, charge.cost));
                }
            }
            prop_assert!(limiter.len() <= capacity);
        }
        for ((_, index), log) in &logs {
            prop_assert!(log.fullest(limits[*index].window()) <= limits[*index].quota());
        }
    }
}

/// What is decided on `charges` at `at`, after what the logs hold.
fn replayed(limits: &[RateLimit], logs: &[Log], charges: &[Charge<'_>], at: u64) -> Decision {
    let limiter = LocalLimiter::new(1);
    let subject = Subject::new(address(1));
    for (limit, log) in limits.iter().zip(logs) {
        for (at, cost) in &log.0 {
            let decision = limiter.acquire(&subject, &[charge(limit, *cost)], moment(*at));
            assert!(decision.is_admitted());
        }
    }
    limiter.acquire(&subject, charges, moment(at))
}

#[test]
fn threads_that_come_at_once_are_admitted_up_to_the_quota() {
    for remembered in [true, false] {
        let limiter = LocalLimiter::new(100);
        let limits = [limit("a", 1_000, 1), limit("b", 1_500, 60)];
        let charges = limits.each_ref().map(|limit| charge(limit, 1));
        let shared = Subject::new(address(1));
        let (start, admitted) = (Barrier::new(8), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    start.wait();
                    for _ in 0..400 {
                        let own = Subject::new(shared.id().clone());
                        let subject = if remembered { &shared } else { &own };
                        let decision = limiter.acquire(subject, &charges, moment(SECOND));
                        admitted.fetch_add(decision.is_admitted().into(), Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(admitted.into_inner(), 1_000);
    }
}

#[test]
fn threads_that_evict_each_other_never_exceed_a_quota() {
    let limiter = LocalLimiter::new(2);
    let minute = limit("minute", 50, 60);
    let subjects: Vec<_> = (0..6).map(|number| Subject::new(address(number))).collect();
    let admitted: Vec<_> = subjects.iter().map(|_| AtomicU64::new(0)).collect();
    let start = Barrier::new(4);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (limiter, minute, subjects) = (&limiter, &minute, &subjects);
            let (admitted, start) = (&admitted, &start);
            scope.spawn(move || {
                start.wait();
                for turn in 0..5_000 {
                    let index = (turn * (thread + 1)) % subjects.len();
                    let charges = [charge(minute, 1)];
                    let decision = limiter.acquire(&subjects[index], &charges, moment(SECOND));
                    admitted[index].fetch_add(decision.is_admitted().into(), Ordering::Relaxed);
                }
            });
        }
    });
    for admitted in admitted {
        assert!(admitted.into_inner() <= 50);
    }
    assert!(limiter.len() <= 2);
}

#[test]
fn charges_that_meet_in_one_counter_are_added_up() {
    let limiter = LocalLimiter::new(10);
    let subject = Subject::new(address(1));
    let minute = limit("minute", 10, 60);
    let same = minute.clone();
    let meet = |cost| [charge(&minute, cost), charge(&same, cost)];
    let admitted = limiter.acquire(&subject, &meet(4), moment(0));
    assert!(admitted.is_admitted());
    assert_eq!(remaining(&admitted), [2, 2]);
    let denied = limiter.acquire(&subject, &meet(2), moment(0));
    assert!(!denied.is_admitted());
    assert_eq!(remaining(&denied), [2, 2]);
    let never = limiter.acquire(&subject, &meet(6), moment(0));
    assert_eq!(never.statuses()[0].verdict(), Verdict::Impossible);
    assert_eq!(never.retry_after(), None);
    assert!(limiter.acquire(&subject, &meet(1), moment(0)).is_admitted());
}

#[test]
fn a_counter_is_known_by_space_name_and_window() {
    let limiter = LocalLimiter::new(10);
    let subject = Subject::new(address(1));
    let spend = |limit: &RateLimit, space| {
        let cost = 3;
        let decision = limiter.acquire(&subject, &[Charge { limit, space, cost }], moment(0));
        remaining(&decision)[0]
    };
    let (key, route) = (LimitSpace::Key, LimitSpace::Route);
    assert_eq!(spend(&limit("burst", 10, 60), key), 7);
    assert_eq!(spend(&limit("burst", 10, 60), route), 7, "another space");
    assert_eq!(spend(&limit("daily", 10, 60), key), 7, "another name");
    assert_eq!(spend(&limit("burst", 10, 61), key), 7, "another window");
    assert_eq!(spend(&limit("burst", 20, 60), key), 14, "another quota");
    assert_eq!(
        spend(&limit("burst", 5, 60), key),
        0,
        "a quota below the count"
    );
    assert_eq!(spend(&limit("burst", 10, 60), key), 1);
}

#[test]
fn subjects_and_limiters_do_not_share_counters() {
    let limiters = [LocalLimiter::new(10), LocalLimiter::new(10)];
    let subjects = [Subject::new(address(1)), Subject::new(address(2))];
    let minute = limit("minute", 10, 60);
    for _ in 0..2 {
        for limiter in &limiters {
            for subject in &subjects {
                limiter.acquire(subject, &[charge(&minute, 2)], moment(0));
            }
        }
    }
    for limiter in &limiters {
        assert_eq!(limiter.len(), 2);
        for subject in &subjects {
            let decision = limiter.acquire(subject, &[charge(&minute, 0)], moment(0));
            assert_eq!(remaining(&decision), [6]);
        }
    }
}

#[test]
fn only_what_is_charged_takes_a_place() {
    let limiter = LocalLimiter::new(1);
    let minute = limit("minute", 10, 60);
    let ask = |number, cost| {
        let subject = Subject::new(address(number));
        limiter.acquire(&subject, &[charge(&minute, cost)], moment(0))
    };
    assert_eq!(remaining(&ask(1, 0)), [10]);
    assert!(!ask(1, 11).is_admitted());
    assert!(limiter.is_empty());
    ask(1, 4);
    ask(2, 0);
    ask(2, 11);
    assert_eq!(remaining(&ask(2, 0)), [10], "the first one was not evicted");
    ask(2, 1);
    assert_eq!(remaining(&ask(1, 0)), [6], "it was, and is not forgotten");
    assert_eq!(remaining(&ask(2, 0)), [9]);
    assert_eq!(limiter.len(), 1);
}

#[test]
fn a_request_without_limits_is_admitted_and_leaves_nothing() {
    let limiter = LocalLimiter::new(10);
    let decision = limiter.acquire(&Subject::new(address(1)), &[], moment(0));
    assert!(decision.is_admitted() && decision.statuses().is_empty());
    assert!(limiter.is_empty());
}

mod room;
