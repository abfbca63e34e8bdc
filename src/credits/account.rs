use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::{Accounts, CreditOutage, Refused, Reserve, Reserved, Shortage, Unspent};
use crate::clock::{Moment, saturating_nanos};
use crate::flight::{Flight, NotLanded};
use crate::record::{CreditGrant, CreditPeriod, CreditPlan, CreditReturn, KeyId, Refill};
use crate::telemetry;

/// The credits of one key, as far as this instance has leased them.
pub(crate) struct Account {
    state: Mutex<State>,
    key: KeyId,
    accounts: Arc<Accounts>,
}

#[derive(Default)]
struct State {
    lease: Lease,
    /// What was spent in all, and how much of that by the last grant and by the last flush.
    spent: u64,
    spent_at_grant: u64,
    spent_at_flush: u64,
    /// When the last grant was asked for, in monotonic nanoseconds, and what it was.
    granted_at: u64,
    granted: u64,
    short: Option<Short>,
    /// The newest setting of the balance that is known of.
    since_version: u64,
    call: Option<Call>,
}

/// Credits that are off the balance already.
#[derive(Default)]
pub(super) struct Lease {
    credits: u64,
    /// When their period ends, in wall-clock nanoseconds.
    until: i64,
    /// Another one for each period.
    number: u64,
    period: Option<CreditPeriod>,
}

/// That there were too few, and how long that is remembered.
struct Short {
    remaining: u64,
    /// In monotonic nanoseconds.
    until: u64,
    shortage: Shortage,
}

/// A call of the store under way, which any number of requests wait for.
type Call = Flight<Result<(), CreditOutage>>;

impl Account {
    /// How long it is remembered that too few credits remain: another instance may give some back.
    pub(crate) const SHORT_FOR: Duration = Duration::from_secs(1);

    /// A batch is at most so many times the one before.
    const GROWTH: u64 = 8;

    /// With what this instance has left of an earlier lease.
    pub(super) fn new(key: KeyId, accounts: Arc<Accounts>, lease: Lease) -> Self {
        let state = State {
            lease,
            ..State::default()
        };
        Self {
            state: Mutex::new(state),
            key,
            accounts,
        }
    }

    /// Takes `cost` credits, all of them or none.
    #[inline]
    pub(crate) fn reserve(self: &Arc<Self>, cost: u64, now: Moment) -> Reserve {
        let mut state = self.state();
        if let Some(reserved) = state.spend(cost, now) {
            return Reserve::Done(Ok(reserved));
        }
        let known = state.shortage(cost, now);
        drop(state);
        match known {
            Some(shortage) => Reserve::Done(Err(Refused::Short(shortage))),
            None => Reserve::Wait(Box::pin(Arc::clone(self).wait(cost))),
        }
    }

    /// Takes back what was reserved for a request that came to nothing.
    pub(crate) fn release(&self, cost: u64, reserved: Reserved) {
        let lease = &mut self.state().lease;
        // Those of a period that is over are worth nothing.
        if lease.number == reserved.0 {
            lease.credits = lease.credits.saturating_add(cost);
        }
    }

    async fn wait(self: Arc<Self>, cost: u64) -> Result<Reserved, Refused> {
        let give_up = Instant::now().checked_add(self.accounts.deadline);
        loop {
            let call = match self.reserve_or_call(cost) {
                Ok(done) => return done,
                Err(call) => call,
            };
            let answer = call.landed(give_up).await.unwrap_or_else(|why| {
                Err(match why {
                    NotLanded::Late => CreditOutage::Deadline,
                    NotLanded::Lost => CreditOutage::from_store(why),
                })
            });
            answer.map_err(Refused::Outage)?;
            if give_up.is_some_and(|end| Instant::now() >= end) {
                return Err(Refused::Outage(CreditOutage::Deadline));
            }
        }
    }

    /// What is known by now, or else the call to wait for.
    fn reserve_or_call(self: &Arc<Self>, cost: u64) -> Result<Result<Reserved, Refused>, Call> {
        let now = self.accounts.clock.now();
        let mut state = self.state();
        if let Some(reserved) = state.spend(cost, now) {
            return Ok(Ok(reserved));
        }
        if let Some(shortage) = state.shortage(cost, now) {
            return Ok(Err(Refused::Short(shortage)));
        }
        if let Some(call) = &state.call {
            return Err(call.clone());
        }
        // What the lease lacks: to ask for all would be to refuse what is there, in two parts.
        let at_least = cost - state.lease.held(now);
        let at_most = cost.saturating_add(state.batch(self.accounts.interval, now));
        let (call, departure) = Flight::prepare();
        state.call = Some(call.clone());
        // A task that cannot begin ends at once, and so does `calling`, which takes the lock.
        drop(state);
        let (account, calling) = (Arc::clone(self), Calling(Arc::clone(self)));
        let work = async move { account.ask(at_least, at_most, now).await };
        departure.start(work, calling);
        Err(call)
    }

    async fn ask(&self, at_least: u64, at_most: u64, now: Moment) -> Result<(), CreditOutage> {
        let grant = self.take(at_least, at_most, now).await;
        telemetry::credits_asked_for(&grant);
        let answered = self.accounts.clock.now();
        self.state().take_in(&grant?, now, answered);
        Ok(())
    }

    async fn take(
        &self,
        at_least: u64,
        at_most: u64,
        now: Moment,
    ) -> Result<CreditGrant, CreditOutage> {
        let store = &self.accounts.store;
        let asked = store.take_credits(self.key, at_least, at_most, now.timestamp());
        // A grant that comes too late is lost. That is the price of not waiting for it.
        let answer = timeout(self.accounts.deadline, asked).await;
        answer
            .map_err(|_| CreditOutage::Deadline)?
            .map_err(CreditOutage::from_store)?
            .ok_or(CreditOutage::NoBudget)
    }

    /// Waits until no call is under way.
    pub(super) async fn answered(&self) {
        let call = self.state().call.clone();
        if let Some(call) = call {
            // The call itself takes no longer than the deadline.
            let patience = self.accounts.deadline.saturating_mul(2);
            _ = call.landed(Instant::now().checked_add(patience)).await;
        }
    }

    /// Takes the unspent credits out, to be given back.
    pub(super) fn unspent(&self, whose: Unspent) -> Option<CreditReturn> {
        let mut state = self.state();
        let is_idle = state.spent == state.spent_at_flush;
        state.spent_at_flush = state.spent;
        let gives_back = is_idle || whose == Unspent::OfAll;
        gives_back.then(|| state.lease.empty(self.key)).flatten()
    }

    /// Returns how many credits are leased and not spent, of whichever period.
    pub(super) fn held(&self) -> u64 {
        self.state().lease.credits
    }

    pub(super) fn leased(&self, period: CreditPeriod) -> u64 {
        let lease = &self.state().lease;
        if lease.period == Some(period) {
            lease.credits
        } else {
            0
        }
    }

    /// The key was loaded, with this plan.
    pub(super) fn learn(&self, plan: &CreditPlan) {
        self.state().know(plan.since_version);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing under it is left half-done by a panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    #[inline]
    fn spend(&mut self, cost: u64, now: Moment) -> Option<Reserved> {
        let lease = &mut self.lease;
        if cost > lease.held(now) {
            return None;
        }
        lease.credits -= cost;
        self.spent = self.spent.wrapping_add(cost);
        Some(Reserved(lease.number))
    }

    fn shortage(&self, cost: u64, now: Moment) -> Option<Shortage> {
        let short = self.short.as_ref()?;
        let refilled = short.shortage.refills_at.map_or(i64::MAX, saturating_nanos);
        let there_are = short.remaining.saturating_add(self.lease.held(now));
        let holds =
            cost > there_are && now.monotonic_nanos() < short.until && now.wall_nanos() < refilled;
        holds.then_some(short.shortage)
    }

    /// What the key is expected to spend in one interval.
    fn batch(&self, interval: Duration, now: Moment) -> u64 {
        let spent = u128::from(self.spent.wrapping_sub(self.spent_at_grant));
        let passed = now.monotonic_nanos().saturating_sub(self.granted_at).max(1);
        let expected = spent.saturating_mul(interval.as_nanos()) / u128::from(passed);
        let most = self.granted.saturating_mul(Account::GROWTH);
        u64::try_from(expected).unwrap_or(u64::MAX).min(most)
    }

    /// Takes in what was granted to a question of this time.
    fn take_in(&mut self, grant: &CreditGrant, asked: Moment, answered: Moment) {
        let CreditGrant { granted, left } = grant;
        self.know(left.period.since_version);
        if left.period.since_version < self.since_version {
            // The balance was set anew meanwhile.
            return;
        }
        let refills_at = left.refills_at();
        if *granted == 0 {
            let held = u64::try_from(Account::SHORT_FOR.as_nanos()).unwrap_or(u64::MAX);
            self.short = Some(Short {
                remaining: left.remaining,
                // From now on: those who wait for it have to hear it, however long it took.
                until: answered.monotonic_nanos().saturating_add(held),
                shortage: Shortage {
                    refill: left.refill,
                    refills_at,
                },
            });
            return;
        }
        self.short = None;
        let lease = &mut self.lease;
        if lease.period != Some(left.period) {
            *lease = Lease {
                credits: 0,
                until: refills_at.map_or(i64::MAX, saturating_nanos),
                number: lease.number + 1,
                period: Some(left.period),
            };
        }
        lease.credits = lease.credits.saturating_add(*granted);
        self.spent_at_grant = self.spent;
        self.granted_at = asked.monotonic_nanos();
        self.granted = *granted;
    }

    /// Whatever is known of an older setting of the balance holds no longer.
    fn know(&mut self, since_version: u64) {
        if since_version > self.since_version {
            self.since_version = since_version;
            self.short = None;
            let period = self.lease.period;
            if period.is_some_and(|period| period.since_version < since_version) {
                self.lease.credits = 0;
                self.lease.number += 1;
                self.lease.period = None;
            }
        }
    }
}

impl Lease {
    /// What was leased by an account of `plan` that is gone.
    pub(super) fn left(left: &CreditReturn, plan: &CreditPlan) -> Self {
        let ends = |refill: Refill| saturating_nanos(refill.every.ends(left.period.begun_at));
        Self {
            credits: left.credits,
            until: plan.refill.map_or(i64::MAX, ends),
            number: 1,
            period: Some(left.period),
        }
    }

    /// How many of them can be spent at `now`.
    #[inline]
    fn held(&self, now: Moment) -> u64 {
        if now.wall_nanos() < self.until {
            self.credits
        } else {
            0
        }
    }

    fn empty(&mut self, key: KeyId) -> Option<CreditReturn> {
        let credits = std::mem::take(&mut self.credits);
        let period = self.period.filter(|_| credits > 0)?;
        Some(CreditReturn {
            key,
            credits,
            period,
        })
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        let unspent = state.lease.empty(self.key);
        self.accounts.closed(self.key, unspent);
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account")
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

/// Ends the call of an account, however it ends.
struct Calling(Arc<Account>);

impl Drop for Calling {
    fn drop(&mut self) {
        self.0.state().call = None;
    }
}
