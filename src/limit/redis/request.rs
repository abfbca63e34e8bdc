use std::sync::Arc;
use std::time::Instant;

use futures_util::FutureExt as _;
use smallvec::SmallVec;
use tokio::runtime::Handle;

use super::gate::{Gate, Pass};
use super::ledger::{Call, Patience, Step};
use super::outage::Cause;
use super::table::Entry;
use super::{OutagePolicy, RedisLimiter, lock};
use crate::clock::Moment;
use crate::limit::{Charge, Decision, LimitSpace, LimiterOutage, RateLimit};

/// A request that is being decided.
#[derive(Clone)]
pub(super) struct Request {
    pub(super) limiter: RedisLimiter,
    pub(super) entry: Arc<Entry>,
    pub(super) since: Since,
}

/// A call that has been made, or is about to be. Dropped without an answer, it is ended.
pub(super) struct Flight {
    request: Request,
    call: Call,
    pass: Option<Pass>,
}

/// What a request does next.
pub(super) enum Next {
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
pub(super) struct Since {
    now: Moment,
    instant: Instant,
}

impl Request {
    /// How often a request asks at most, and how often it waits for the call of another before it
    /// asks by itself.
    const CALLS: u32 = 4;
    const WAITS: u32 = 2;

    pub(super) async fn finish(
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
                Step::Ask(call) => match self.enter() {
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

    /// Whether a call may be made now.
    pub(super) fn enter(&self) -> Option<Pass> {
        let now = self.since.now();
        if self.entry.is_barred(now.monotonic_nanos()) {
            return None;
        }
        self.limiter.0.gate.enter(now)
    }

    /// Makes a call that nobody waits for.
    pub(super) fn fetch(self, call: Call) {
        let pass = self.enter();
        let (Some(pass), Ok(runtime)) = (pass, Handle::try_current()) else {
            return self.end(&call);
        };
        let mut flight = self.flight(call, pass);
        let mut fetched = Box::pin(async move {
            // When Redis has lost its data, the first answer asks for a report of it.
            while let Ok(Step::Ask(call)) = flight.land(&[]).await {
                let Some(pass) = self.enter() else {
                    return self.end(&call);
                };
                flight = self.flight(call, pass);
            }
        });
        // On its way before anything that is asked next: whoever is refused and comes again finds
        // taken back what was charged.
        if fetched.as_mut().now_or_never().is_none() {
            runtime.spawn(fetched);
        }
    }

    pub(super) fn flight(&self, call: Call, pass: Pass) -> Flight {
        Flight {
            request: self.clone(),
            call,
            pass: Some(pass),
        }
    }

    pub(super) fn end(&self, call: &Call) {
        self.entry.lock().unanswered(call);
        self.entry.ended.notify_waiters();
    }

    pub(super) fn by_policy(
        &self,
        charges: &[Charge<'_>],
        cause: Cause,
    ) -> Result<Decision, LimiterOutage> {
        // By the moment of the request, by which it may be refunded later.
        let now = self.since.now.monotonic_nanos();
        match self.limiter.0.on_outage {
            OutagePolicy::Local { percent } => {
                let percent = percent.clamp(1, 100);
                Ok(self.entry.lock().by_share(charges, percent, now))
            }
            OutagePolicy::Deny => Err(LimiterOutage::because(cause)),
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
        if inner.link.is_cluster() && matches!(cause, Cause::Late) {
            let until = now.monotonic() + Gate::PROBE_AFTER;
            let until = u64::try_from(until.as_nanos()).unwrap_or(u64::MAX);
            request.entry.bar_until(until);
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
    pub(super) fn new(now: Moment) -> Self {
        let instant = Instant::now();
        Self { now, instant }
    }

    fn now(&self) -> Moment {
        let monotonic = self.now.monotonic() + self.instant.elapsed();
        Moment::new(self.now.timestamp(), monotonic)
    }
}

/// A charge that outlives the call which asked for it.
pub(super) struct Owned {
    limit: RateLimit,
    space: LimitSpace,
    cost: u64,
}

pub(super) fn owned(charges: &[Charge<'_>]) -> SmallVec<[Owned; 2]> {
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
