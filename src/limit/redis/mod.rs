//! Limits that are counted in Redis, for all instances of a service together.
//!
//! - `acquire.lua` and its like are the policy, in Redis; `wire` is what is said to them.
//! - `link` is the way there, and `gate` decides whether it is taken.
//! - `ledger` is what an instance knows and holds of one subject, and all that follows from it; it
//!   has no clock and does no input or output. `counter` and `lease` are its parts, and `table`
//!   has one for each subject.
//!
//! This file brings them together.

mod builder;
mod counter;
mod gate;
mod lease;
mod ledger;
mod link;
mod outage;
mod table;
mod wire;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use smallvec::SmallVec;

use self::gate::{Gate, Pass};
use self::ledger::{Ahead, Call, Patience, Step, Terms};
use self::link::Link;
use self::outage::Cause;
use self::table::{Entry, Table};
use super::{Charge, Decision, LimitSpace, RateLimit, Subject};
use crate::clock::Moment;

pub use self::builder::{ConnectError, OutagePolicy, RedisLimiterBuilder};
pub use self::outage::LimiterOutage;

/// Limits that all instances of a service share, counted in Redis (6.2 or later), Valkey, or a
/// cluster of either. Cloning costs a reference count.
#[derive(Clone)]
pub struct RedisLimiter(Arc<Inner>);

struct Inner {
    terms: Terms,
    deadline: Duration,
    on_outage: OutagePolicy,
    table: Table,
    gate: Arc<Gate>,
    /// The last measurement of Redis's clock, for subjects that have none of their own.
    clock: Mutex<Option<Ahead>>,
    link: Link,
}

/// How far a request came without waiting.
pub(crate) enum Acquire {
    /// All the way.
    Done(Result<Decision, LimiterOutage>),
    /// Redis has to be asked.
    Wait(BoxFuture<'static, Result<Decision, LimiterOutage>>),
}

impl RedisLimiter {
    /// Sets up a limiter on the server of this URL, such as `redis://127.0.0.1/`.
    pub fn builder(url: &str) -> RedisLimiterBuilder {
        RedisLimiterBuilder::new(vec![url.to_owned()])
    }

    /// Sets up a limiter on the cluster of which these URLs name some nodes.
    pub fn cluster_builder<'a>(urls: impl IntoIterator<Item = &'a str>) -> RedisLimiterBuilder {
        RedisLimiterBuilder::new(urls.into_iter().map(str::to_owned).collect()).cluster()
    }

    /// Charges everything in `charges` to `subject` at `now`, or nothing of it.
    ///
    /// Charges that meet in one counter are added up.
    ///
    /// # Errors
    ///
    /// [`LimiterOutage`] when Redis cannot be asked and the policy is [`OutagePolicy::Deny`].
    pub async fn acquire(
        &self,
        subject: &Subject,
        charges: &[Charge<'_>],
        now: Moment,
    ) -> Result<Decision, LimiterOutage> {
        match self.begin(subject, charges, now) {
            Acquire::Done(decision) => decision,
            Acquire::Wait(decision) => decision.await,
        }
    }

    /// As [`acquire`](Self::acquire), as far as it goes without waiting: all the way for a lease
    /// with enough units, a denial that still holds, a cost above a quota, or while Redis fails.
    pub(crate) fn begin(&self, subject: &Subject, charges: &[Charge<'_>], now: Moment) -> Acquire {
        if charges.is_empty() {
            return Acquire::Done(Ok(Decision::default()));
        }
        let nanos = now.monotonic_nanos();
        let entry = self.0.table.entry(subject.id(), nanos);
        let mut ledger = entry.lock();
        if ledger.clock().is_none() {
            ledger.adopt_clock(*lock(&self.0.clock));
        }
        let step = ledger.begin(charges, Patience::Fresh, &self.0.terms, nanos);
        drop(ledger);
        if let Step::Decided(decision, None) = step {
            return Acquire::Done(Ok(decision));
        }
        let request = Request {
            limiter: self.clone(),
            entry,
            since: Since::new(now),
        };
        match step {
            Step::Decided(decision, more) => {
                if let Some(call) = more {
                    request.fetch(call);
                }
                Acquire::Done(Ok(decision))
            }
            Step::Ask(call) => {
                let Some(pass) = self.0.gate.enter(now) else {
                    request.end(&call);
                    return Acquire::Done(request.by_policy(charges, Cause::Barred));
                };
                let flight = request.flight(call, pass);
                Acquire::Wait(request.finish(flight.into(), owned(charges)).boxed())
            }
            Step::Wait | Step::Again => {
                Acquire::Wait(request.finish(Next::Wait, owned(charges)).boxed())
            }
        }
    }

    /// Takes back what was charged at `then`, for a request that came to nothing after all. Does
    /// not wait for Redis, and does its best: what it cannot take back stays charged.
    pub fn refund(&self, subject: &Subject, charges: &[Charge<'_>], then: Moment, now: Moment) {
        let Some(entry) = self.0.table.find(subject.id()) else {
            return;
        };
        let (then, nanos) = (then.monotonic_nanos(), now.monotonic_nanos());
        let call = entry.lock().refund(charges, then, &self.0.terms, nanos);
        if let Some(call) = call {
            let request = Request {
                limiter: self.clone(),
                entry,
                since: Since::new(now),
            };
            request.fetch(call);
        }
    }

    /// What [`acquire`](Self::acquire) would say if `refunds`, each with the time of its charge,
    /// were taken back before. Asks nobody and charges nothing: an estimate by what was last heard
    /// from Redis.
    #[cfg_attr(not(test), expect(dead_code, reason = "for the verifier"))]
    pub(crate) fn foresee(
        &self,
        subject: &Subject,
        charges: &[Charge<'_>],
        refunds: &[(Charge<'_>, Moment)],
        now: Moment,
    ) -> Decision {
        let refunds: SmallVec<[_; 4]> = refunds
            .iter()
            .map(|(charge, then)| (*charge, then.monotonic_nanos()))
            .collect();
        let nanos = now.monotonic_nanos();
        let entry = self.0.table.entry(subject.id(), nanos);
        entry.lock().foresee(charges, &refunds, nanos)
    }

    /// How many calls were made to Redis, each of one command.
    pub fn calls(&self) -> u64 {
        self.0.gate.calls()
    }

    /// How many subjects are remembered here.
    pub fn len(&self) -> usize {
        self.0.table.len()
    }

    /// Whether no subject is remembered here.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl fmt::Debug for RedisLimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisLimiter")
            .field("terms", &self.0.terms)
            .field("on_outage", &self.0.on_outage)
            .field("link", &self.0.link)
            .field("subjects", &self.len())
            .finish_non_exhaustive()
    }
}

/// A request that is being decided.
#[derive(Clone)]
struct Request {
    limiter: RedisLimiter,
    entry: Arc<Entry>,
    since: Since,
}

/// A call that has been made, or is about to be. Dropped without an answer, it is ended.
struct Flight {
    request: Request,
    call: Call,
    pass: Option<Pass>,
}

/// What a request does next.
enum Next {
    Again,
    Fly(Box<Flight>),
    Wait,
}

impl From<Flight> for Next {
    fn from(flight: Flight) -> Self {
        Self::Fly(Box::new(flight))
    }
}

/// The time, as it goes on from the moment that a request was given.
#[derive(Clone, Copy)]
struct Since {
    now: Moment,
    instant: Instant,
}

impl Request {
    /// How often a request asks at most, and how often it waits for the call of another before it
    /// asks by itself.
    const CALLS: u32 = 4;
    const WAITS: u32 = 2;

    async fn finish(
        self,
        mut next: Next,
        charges: SmallVec<[Owned; 2]>,
    ) -> Result<Decision, LimiterOutage> {
        let charges: SmallVec<[Charge<'_>; 2]> = charges.iter().map(Owned::charge).collect();
        let (mut calls, mut waits) = (0, 0);
        loop {
            let step = match next {
                Next::Fly(flight) => {
                    calls += 1;
                    match flight.land(&charges).await {
                        Ok(step) => step,
                        Err(cause) => return self.by_policy(&charges, cause),
                    }
                }
                Next::Again | Next::Wait => {
                    // Before the ledger is looked at, so that no end is missed in between.
                    let ended = self.entry.ended.notified();
                    match self.begin(&charges, waits) {
                        Step::Wait => {
                            waits += 1;
                            _ = tokio::time::timeout(self.limiter.0.deadline, ended).await;
                            self.begin(&charges, waits)
                        }
                        step => step,
                    }
                }
            };
            next = match step {
                Step::Decided(decision, more) => {
                    if let Some(call) = more {
                        self.fetch(call);
                    }
                    return Ok(decision);
                }
                Step::Ask(call) => match self.limiter.0.gate.enter(self.since.now()) {
                    Some(pass) if calls < Self::CALLS => self.flight(call, pass).into(),
                    pass => {
                        self.end(&call);
                        let cause = pass.map_or(Cause::Barred, |_| Cause::Undecided);
                        return self.by_policy(&charges, cause);
                    }
                },
                Step::Wait if waits > Self::CALLS => {
                    return self.by_policy(&charges, Cause::Undecided);
                }
                Step::Wait => Next::Wait,
                Step::Again => Next::Again,
            };
        }
    }

    fn begin(&self, charges: &[Charge<'_>], waits: u32) -> Step {
        let patience = if waits < Self::WAITS {
            Patience::Waiting
        } else {
            Patience::Gone
        };
        let now = self.since.now().monotonic_nanos();
        let mut ledger = self.entry.lock();
        ledger.begin(charges, patience, &self.limiter.0.terms, now)
    }

    /// Makes a call that nobody waits for.
    fn fetch(self, call: Call) {
        let Some(pass) = self.limiter.0.gate.enter(self.since.now()) else {
            return self.end(&call);
        };
        let mut flight = self.flight(call, pass);
        tokio::spawn(async move {
            // When Redis has lost its data, the first answer asks for a report of it.
            while let Ok(Step::Ask(call)) = flight.land(&[]).await {
                let Some(pass) = self.limiter.0.gate.enter(self.since.now()) else {
                    return self.end(&call);
                };
                flight = self.flight(call, pass);
            }
        });
    }

    fn flight(&self, call: Call, pass: Pass) -> Flight {
        Flight {
            request: self.clone(),
            call,
            pass: Some(pass),
        }
    }

    fn end(&self, call: &Call) {
        self.entry.lock().unanswered(call);
        self.entry.ended.notify_waiters();
    }

    fn by_policy(&self, charges: &[Charge<'_>], cause: Cause) -> Result<Decision, LimiterOutage> {
        // By the moment of the request, by which it may be refunded later.
        let now = self.since.now.monotonic_nanos();
        match self.limiter.0.on_outage {
            OutagePolicy::Local { percent } => {
                let percent = percent.clamp(1, 100);
                Ok(self.entry.lock().by_share(charges, percent, now))
            }
            OutagePolicy::Deny => Err(LimiterOutage(cause)),
            OutagePolicy::Allow => Ok(self.entry.lock().unlimited(charges, now)),
        }
    }
}

impl Flight {
    /// Waits for the answer, not longer than the deadline.
    async fn land(mut self, charges: &[Charge<'_>]) -> Result<Step, Cause> {
        let (request, call) = (&self.request, &self.call);
        let inner = &*request.limiter.0;
        let asked = inner.link.ask(&call.question, &request.entry.tag, 0);
        let answer = tokio::time::timeout(inner.deadline, asked).await;
        let now = request.since.now();
        let cause = match answer {
            Ok(Ok(reply)) => {
                let mut ledger = request.entry.lock();
                let step = ledger.answered(charges, call, &reply, now.monotonic_nanos());
                *lock(&inner.clock) = ledger.clock();
                drop(ledger);
                request.entry.ended.notify_waiters();
                if let Some(pass) = self.pass.take() {
                    pass.succeeded();
                }
                return Ok(step);
            }
            Ok(Err(error)) => Cause::Failed(Arc::new(error)),
            Err(_) => Cause::Late,
        };
        if let Some(pass) = self.pass.take() {
            if pass.is_probe() {
                inner.link.renew();
            }
            pass.failed(&cause, now);
        }
        request.end(call);
        Err(cause)
    }
}

/// The client went away: what was asked may be counted, but nobody spends it.
impl Drop for Flight {
    fn drop(&mut self) {
        if self.pass.is_some() {
            self.request.end(&self.call);
        }
    }
}

impl Since {
    fn new(now: Moment) -> Self {
        let instant = Instant::now();
        Self { now, instant }
    }

    fn now(&self) -> Moment {
        let monotonic = self.now.monotonic() + self.instant.elapsed();
        Moment::new(self.now.timestamp(), monotonic)
    }
}

/// A charge that outlives the call which asked for it.
struct Owned {
    limit: RateLimit,
    space: LimitSpace,
    cost: u64,
}

fn owned(charges: &[Charge<'_>]) -> SmallVec<[Owned; 2]> {
    let owned = |charge: &Charge<'_>| Owned {
        limit: charge.limit.clone(),
        space: charge.space,
        cost: charge.cost,
    };
    charges.iter().map(owned).collect()
}

impl Owned {
    fn charge(&self) -> Charge<'_> {
        Charge {
            limit: &self.limit,
            space: self.space,
            cost: self.cost,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
