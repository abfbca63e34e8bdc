//! Against real servers, against the pure function, and in a simulation.

mod agreement;
mod cluster;
mod faults;
mod leases;
mod ledger;
mod model;
mod ordinals;
mod overload;
mod server;
mod sharing;
mod simulation;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::{RedisLimiter, RedisLimiterBuilder};
use crate::clock::{Clock as _, Moment, SystemClock};
use crate::limit::{Charge, Decision, LimitSpace, RateLimit, Subject, SubjectId};

fn limit(name: &str, quota: u64, seconds: u64) -> RateLimit {
    RateLimit::new(name, quota, Duration::from_secs(seconds)).unwrap()
}

fn charge(limit: &RateLimit, cost: u64) -> Charge<'_> {
    let space = LimitSpace::Key;
    Charge { limit, space, cost }
}

/// A subject that no other test and no earlier run has.
fn stranger() -> Subject {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let owner = format!("{}-{number}", std::process::id());
    Subject::new(SubjectId::Owner(owner.into()))
}

fn remaining(decision: &Decision) -> Vec<u64> {
    let statuses = decision.statuses().iter();
    statuses.map(crate::limit::LimitStatus::remaining).collect()
}

/// On the server of `REDIS_URL`, which is shared by all tests: with a deadline that a busy machine
/// keeps too.
fn builder() -> RedisLimiterBuilder {
    let prefix = format!("test-{}", std::process::id());
    let deadline = Duration::from_secs(5);
    RedisLimiter::builder(&server::url())
        .key_prefix(&prefix)
        .deadline(deadline)
}

/// The time of this process, of which all limiters of a test see the same.
fn now() -> Moment {
    static CLOCK: std::sync::LazyLock<SystemClock> = std::sync::LazyLock::new(SystemClock::new);
    CLOCK.now()
}
