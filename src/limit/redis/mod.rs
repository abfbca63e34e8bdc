//! Limits that are counted in Redis, for all instances of a service together.
//!
//! - `acquire.lua` and its like are the policy, in Redis; `wire` is what is said to them.
//! - `link` is the way there, and `gate` decides whether it is taken. `request` is a request on
//!   that way, and `flight` a call, which is followed to its end even if its request is gone.
//! - `ledger` is what an instance knows and holds of one subject, and all that follows from it; it
//!   has no clock and does no input or output. `counter` and `lease` are its parts, and `table`
//!   has one for each subject.
//! - `ordinal` tells the instances apart, so that their shares in an outage add up to the quota.
//!
//! This file brings them together.

mod builder;
mod counter;
mod flight;
mod gate;
mod lease;
mod ledger;
mod link;
mod ordinal;
mod outage;
mod request;
mod table;
mod wire;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use smallvec::SmallVec;

use self::gate::Gate;
use self::ledger::{Ahead, Ledger, Patience, Step, Terms};
use self::link::Link;
use self::ordinal::Ordinal;
use self::request::{Request, Since};
use self::table::Table;
use super::{Acquire, Charge, Decision, LimiterOutage, Subject};
use crate::clock::Moment;

pub use self::builder::{ConnectError, OutagePolicy, RedisLimiterBuilder};

/// Limits that all instances of a service share, counted in Redis (6.2 or later), Valkey, or a
/// cluster of either. Cloning costs a reference count.
///
/// It decides as the [`LocalLimiter`](super::LocalLimiter) does, by the clock of Redis: those of
/// the instances may be as wrong as they like.
///
/// ```no_run
/// use std::time::Duration;
/// use tower_api_key::limit::{OutagePolicy, RedisLimiter};
///
/// # async fn connect() -> Result<(), Box<dyn std::error::Error>> {
/// let limiter = RedisLimiter::builder("redis://127.0.0.1/")
///     .leased()
///     .deadline(Duration::from_millis(20))
///     .on_outage(OutagePolicy::Local { percent: 25 })
///     .connect()
///     .await?;
/// # Ok(())
/// # }
/// ```
///
/// # Strict and leased
///
/// *Strict*, the default, asks Redis about each request: one command, whatever the number of
/// limits. *Leased* takes units of busy keys in batches, and spends them without asking. A batch is
/// what this instance is expected to spend until the sub-window ends (1/16 of the window), or
/// within four seconds if that is shorter, with a reserve for chance. It is at most an eighth of
/// the quota. Leased units are counted when they are leased, and may be spent until the sub-window
/// ends that counts them. What is left then, or when the traffic falls, is given back to Redis. A
/// key with less than about two requests in a sub-window is treated strictly.
///
/// At most 32 calls about one subject are on their way at a time. Requests beyond them share the
/// next call, in both modes.
///
/// In both, a request that is known to be denied is denied without asking, for up to ten seconds
/// after Redis has last told how the limit stands.
///
/// # What holds
///
/// As long as Redis keeps its data and its clock does not jump ahead, no trailing window holds more
/// than the quota, as seen when Redis decides or a leased unit is spent. The instances' clocks need
/// to run at the same speed as that of Redis within one in a thousand, which a machine does not do
/// that is suspended while it holds a lease.
///
/// When Redis *loses its data*, by a restart or by evicting keys, each instance reports again what
/// it was granted, before it is granted more. So a window in which that happens holds, beyond the
/// quota, at most what was granted to instances that have not asked about this subject since:
/// because they have no traffic for it, are gone, or had their calls in flight. That is at most one
/// quota for each loss; nothing where there is one instance that asks one request after the other.
/// A fail-over that loses the last writes only is not noticed, and adds what was granted in these
/// writes.
///
/// While Redis *cannot be asked*, because it is down, answers with errors or takes longer than the
/// deadline, requests follow the [`OutagePolicy`]. After five failures in a row nothing is called
/// any more; one call each second tries whether Redis is back. With [`OutagePolicy::Local`] a
/// window in which that happens holds, beyond the quota, at most the number of instances times
/// their share. A Redis that has lost its data may have given ordinals twice, until their holders
/// renew them within 20 seconds; an outage in this time adds at most one quota for each loss.
///
/// *Overload* is no outage. At most 1,024 calls of an instance are on their way at a time. Requests
/// beyond them wait, and are refused as unavailable when their deadline is over. No request waits
/// longer than one deadline, whatever it waits for.
#[derive(Clone)]
pub struct RedisLimiter(Arc<Inner>);

struct Inner {
    terms: Terms,
    deadline: Duration,
    on_outage: OutagePolicy,
    key_prefix: String,
    /// True if requests wait while Redis has too much to do; otherwise they go on at once.
    waits_for_room: bool,
    table: Table,
    gate: Arc<Gate>,
    /// The last measurement of Redis's clock, for subjects that have none of their own.
    clock: Mutex<Option<Ahead>>,
    link: Arc<Link>,
    /// Of this instance, among those that share the quotas in an outage.
    ordinal: Ordinal,
}

impl RedisLimiter {
    /// Sets up a limiter on the server of this URL, such as `redis://127.0.0.1/`. For `rediss:`
    /// the feature `redis-tls` has to be on.
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
    /// [`LimiterOutage`] when Redis cannot be asked and the policy is [`OutagePolicy::Deny`], or
    /// when more requests wait for Redis than it answers within the deadline.
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
        request.go_on(step, charges)
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
        match self.0.table.find(subject.id()) {
            Some(entry) => entry.lock().foresee(charges, &refunds, nanos),
            None => Ledger::default().foresee(charges, &refunds, nanos),
        }
    }

    /// A strict limiter for other subjects on the same Redis, which keeps `capacity` of them and
    /// lets requests through while Redis fails. However many there are and however often they ask,
    /// this one has its room and its calls.
    pub(crate) fn apart(&self, capacity: usize) -> Self {
        let inner = &*self.0;
        Self(Arc::new(Inner {
            terms: Terms {
                leased: false,
                ..inner.terms
            },
            deadline: inner.deadline,
            on_outage: OutagePolicy::Allow,
            key_prefix: inner.key_prefix.clone(),
            waits_for_room: false,
            table: Table::new(&inner.key_prefix, capacity),
            gate: Arc::new(Gate::new(
                Gate::IN_FLIGHT / 16,
                "addresses",
                inner.link.is_connected(),
            )),
            clock: Mutex::default(),
            link: Arc::clone(&inner.link),
            ordinal: Ordinal::new(
                OutagePolicy::Allow,
                &inner.key_prefix,
                Arc::clone(&inner.link),
            ),
        }))
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
