use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout_at};

use super::flight::{Flight, Landed};
use super::gate::{Entrance, Pass};
use super::ledger::{Call, Patience, Step, Tended};
use super::ordinal::Share;
use super::outage::Cause;
use super::table::Entry;
use super::{OutagePolicy, RedisLimiter};
use crate::clock::Moment;
use crate::limit::{Acquire, Charge, Decision, LimitSpace, LimiterOutage, RateLimit};

/// A request that is being decided.
#[derive(Clone)]
pub(super) struct Request {
    pub(super) limiter: RedisLimiter,
    pub(super) entry: Arc<Entry>,
    pub(super) since: Since,
}

/// The next thing that a request does.
pub(super) enum Next {
    Begin,
    Fly(Box<Flight>),
    /// It waits until the limiter may make one more call.
    Room,
}

/// The time, as it goes on from the moment that a request was given.
#[derive(Clone, Copy)]
pub(super) struct Since {
    now: Moment,
    instant: Instant,
}

/// A request that waits for units which another call brings, until this is dropped.
struct Waiting<'a> {
    entry: &'a Entry,
    charges: &'a [Charge<'a>],
}

/// The task that gives back what is left of a subject's leases.
struct Keeper(Option<Request>);

impl Request {
    /// The most calls of one request, and the number of times that it waits for the call of another
    /// before it makes its own.
    const CALLS: u32 = 4;
    const WAITS: u32 = 2;

    /// Goes on after the first step of a ledger, which was not the last.
    pub(super) fn go_on(self, step: Step, charges: &[Charge<'_>]) -> Acquire {
        let next = match step {
            Step::Decided(decision, more) => {
                if let Some(call) = more {
                    self.fetch(call);
                }
                return Acquire::Done(Ok(decision));
            }
            Step::Ask(call) => match self.enter() {
                Entrance::Pass(pass) => self.flight(call, pass, self.expires()).into(),
                Entrance::Full if self.limiter.0.waits_for_room => {
                    self.end(&call);
                    Next::Room
                }
                Entrance::Barred | Entrance::Full => {
                    self.end(&call);
                    return Acquire::Done(self.by_policy(charges, Cause::Barred));
                }
            },
            Step::Wait | Step::Again => Next::Begin,
        };
        Acquire::Wait(Box::pin(self.finish(next, owned(charges))))
    }

    /// Waits for the decision, not longer than the deadline whatever happens in between.
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
                    match flight.land(&charges, self.expires()).await {
                        Landed::Answered(step) => step,
                        Landed::Failed(cause) => return self.by_policy(&charges, cause),
                        Landed::Late(late) => {
                            let decision = if late.has_failed() {
                                self.by_policy(&charges, Cause::Late)
                            } else {
                                self.expired(&charges)
                            };
                            late.follow(decision.as_ref().is_ok_and(Decision::is_admitted));
                            return decision;
                        }
                    }
                }
                Next::Begin => {
                    // Before the ledger is looked at, so that no end is missed in between.
                    let ended = self.entry.ended.notified();
                    match self.begin(&charges, waits) {
                        Step::Wait => {
                            waits += 1;
                            let waiting = Waiting {
                                entry: &self.entry,
                                charges: &charges,
                            };
                            let ended = timeout_at(self.expires(), ended).await;
                            drop(waiting);
                            if ended.is_err() {
                                return self.expired(&charges);
                            }
                            Step::Again
                        }
                        step => step,
                    }
                }
                Next::Room => {
                    let room = self.limiter.0.gate.room();
                    if timeout_at(self.expires(), room).await.is_err() {
                        return self.expired(&charges);
                    }
                    Step::Again
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
                    Entrance::Pass(pass) if calls < Self::CALLS => {
                        let due = self.deadline_from(Instant::now());
                        self.flight(call, pass, due).into()
                    }
                    Entrance::Full if self.limiter.0.waits_for_room => {
                        self.end(&call);
                        Next::Room
                    }
                    entrance => {
                        self.end(&call);
                        let cause = match entrance {
                            Entrance::Pass(_) => Cause::Undecided,
                            Entrance::Barred | Entrance::Full => Cause::Barred,
                        };
                        return self.by_policy(&charges, cause);
                    }
                },
                Step::Wait | Step::Again => Next::Begin,
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
        let step = ledger.begin(charges, patience, &self.limiter.0.terms, now);
        if matches!(step, Step::Wait) {
            ledger.wait(charges);
        }
        step
    }

    /// Enters the gate, unless the subject's node does not answer.
    fn enter(&self) -> Entrance {
        let now = self.since.now();
        if self.entry.is_barred(now.monotonic_nanos()) {
            return Entrance::Barred;
        }
        self.limiter.0.gate.enter(now)
    }

    /// Makes a call that nobody waits for.
    pub(super) fn fetch(&self, call: Call) {
        let (Entrance::Pass(pass), Ok(runtime)) = (self.enter(), Handle::try_current()) else {
            return self.end(&call);
        };
        let request = self.clone();
        let mut due = self.deadline_from(Instant::now());
        let mut flight = self.flight(call, pass, due);
        let mut fetched = Box::pin(async move {
            loop {
                match flight.land(&[], due).await {
                    // When Redis has lost its data, the first answer asks for a report of it.
                    Landed::Answered(Step::Ask(call)) => {
                        let Entrance::Pass(pass) = request.enter() else {
                            return request.end(&call);
                        };
                        due = request.deadline_from(Instant::now());
                        flight = request.flight(call, pass, due);
                    }
                    Landed::Late(late) => return late.follow(false),
                    Landed::Answered(_) | Landed::Failed(_) => return,
                }
            }
        });
        // On its way before anything that is asked next: a client that is refused and comes again
        // finds its charge taken back.
        if futures_util::FutureExt::now_or_never(fetched.as_mut()).is_none() {
            runtime.spawn(fetched);
        }
    }

    fn flight(&self, call: Call, pass: Pass, due: Instant) -> Flight {
        Flight::new(self.clone(), call, pass, due)
    }

    /// Ends a call without an answer.
    pub(super) fn end(&self, call: &Call) {
        self.entry.lock().unanswered(call);
        self.entry.ended.notify_waiters();
    }

    /// Starts the task that gives back what is left of the leases, where there is none yet.
    pub(super) fn tend(&self) {
        if let Ok(runtime) = Handle::try_current()
            && self.entry.lock().needs_tending()
        {
            runtime.spawn(Keeper(Some(self.clone())).run());
        }
    }

    /// The time at which the request has waited long enough.
    fn expires(&self) -> Instant {
        self.deadline_from(self.since.instant)
    }

    fn deadline_from(&self, instant: Instant) -> Instant {
        const LONGEST: Duration = Duration::from_hours(24);
        instant + self.limiter.0.deadline.min(LONGEST)
    }

    /// The decision about a request whose deadline is over while it waited for others: they have
    /// found out whether Redis is down or has too much to do.
    fn expired(&self, charges: &[Charge<'_>]) -> Result<Decision, LimiterOutage> {
        let (now, inner) = (self.since.now(), &*self.limiter.0);
        let barred = self.entry.is_barred(now.monotonic_nanos());
        if barred || inner.gate.is_failing(inner.deadline / 2, now) || !inner.waits_for_room {
            self.by_policy(charges, Cause::Late)
        } else {
            Err(LimiterOutage::because(Cause::Overloaded))
        }
    }

    fn by_policy(&self, charges: &[Charge<'_>], cause: Cause) -> Result<Decision, LimiterOutage> {
        // By the moment of the request, by which it may be refunded later.
        let now = self.since.now.monotonic_nanos();
        match self.limiter.0.on_outage {
            OutagePolicy::Local { percent } => {
                let share = Share {
                    percent: percent.clamp(1, 100),
                    ordinal: self.limiter.0.ordinal.held(),
                    tag: &self.entry.tag,
                };
                Ok(self.entry.lock().by_share(charges, share, now))
            }
            OutagePolicy::Deny => Err(LimiterOutage::because(cause)),
            OutagePolicy::Allow => Ok(self.entry.lock().unlimited(charges, now)),
        }
    }
}

impl From<Flight> for Next {
    fn from(flight: Flight) -> Self {
        Self::Fly(Box::new(flight))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.entry.lock().stop_waiting(self.charges);
    }
}

impl Keeper {
    async fn run(mut self) {
        while let Some(request) = &self.0 {
            let now = request.since.now().monotonic_nanos();
            let Tended { call, next } = request.entry.lock().tend(now);
            if let Some(call) = call {
                request.fetch(call);
            }
            match next {
                Some(next) => {
                    let wait = Duration::from_nanos(next.saturating_sub(now));
                    tokio::time::sleep(wait).await;
                }
                None => self.0 = None,
            }
        }
    }
}

/// The runtime has ended before the leases have.
impl Drop for Keeper {
    fn drop(&mut self) {
        if let Some(request) = &self.0 {
            request.entry.lock().untended();
        }
    }
}

impl Since {
    pub(super) fn new(now: Moment) -> Self {
        let instant = Instant::now();
        Self { now, instant }
    }

    pub(super) fn now(&self) -> Moment {
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
