use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use super::CacheConfig;
use super::load::Answer;
use crate::clock::{Clock, Moment};
use crate::store::{StoreError, StoreErrorKind};
use crate::telemetry;

/// Guards the store: the number of lookups at one time, the time that each may take, and the
/// knowledge that the store is down.
///
/// Only a lookup that ran proves anything about the store. One that waited for its turn in vain
/// proves that others ask for much, which anybody can bring about with made-up keys.
pub(super) struct Lookups {
    permits: Semaphore,
    /// As many as `permits`. Strangers need one of these first, so that few of them queue for a
    /// permit at one time and a known key is next but for those.
    strangers: Semaphore,
    deadline: Duration,
    /// The time of the next attempt while the store is down, in monotonic nanoseconds.
    retry_at: AtomicU64,
    /// Number of times that an outage was put in doubt.
    doubts: AtomicU64,
}

/// The asker's claim to a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// The digest was found before.
    Known,
    /// Nobody knows the digest, so the text may be made up.
    Stranger,
}

impl Lookups {
    /// For so long a store that failed is spared requests that can do without it.
    const RETRY: Duration = Duration::from_secs(1);
    /// The value of `retry_at` while the store is not known to be down.
    const UP: u64 = u64::MAX;

    pub(super) fn new(config: &CacheConfig) -> Self {
        let at_once = config.max_lookups.min(Semaphore::MAX_PERMITS);
        Self {
            permits: Semaphore::new(at_once),
            strangers: Semaphore::new(at_once),
            deadline: config.lookup_deadline,
            retry_at: AtomicU64::new(Self::UP),
            doubts: AtomicU64::new(0),
        }
    }

    /// Returns whether the last lookup that ran has failed.
    pub(super) fn is_down(&self) -> bool {
        self.retry_at.load(Ordering::SeqCst) != Self::UP
    }

    /// Returns whether this caller is the one who tries a store that is down once more.
    pub(super) fn tries_again(&self, now: Moment) -> bool {
        let now = now.monotonic_nanos();
        let retry_at = self.retry_at.load(Ordering::SeqCst);
        now >= retry_at
            && self
                .retry_at
                .compare_exchange(retry_at, after(now), Ordering::SeqCst, Ordering::SeqCst)
                .is_ok()
    }

    /// Forgets that the store is down, because something suggests that it is back. No lookup that
    /// runs already can mark it as down again.
    pub(super) fn doubt_outage(&self) {
        self.doubts.fetch_add(1, Ordering::SeqCst);
        self.retry_at.store(Self::UP, Ordering::SeqCst);
    }

    /// Runs one lookup, when its turn comes. The turn has to come within the deadline, and the
    /// lookup has the whole deadline for itself.
    pub(super) async fn run<F>(
        &self,
        clock: &dyn Clock,
        turn: Turn,
        lookup: F,
    ) -> Result<Answer, Outage>
    where
        F: AsyncFnOnce() -> Result<Answer, StoreError>,
    {
        let began = clock.now().monotonic();
        // Somewhat longer, so that the first lookups of a store that hangs have failed by then.
        let patience = self.deadline.saturating_add(self.deadline / 16);
        let answer = match timeout(patience, self.permit(turn)).await {
            Ok(_permits) => self.run_now(clock, lookup).await,
            Err(_) => Err(Outage::deadline()),
        };
        let outcome = answer.as_ref().map(|answer| answer.found.is_some());
        let took = clock.now().monotonic().saturating_sub(began);
        telemetry::store_looked_up(outcome.map_err(Outage::kind), Some(took));
        answer
    }

    async fn permit(&self, turn: Turn) -> (Option<SemaphorePermit<'_>>, SemaphorePermit<'_>) {
        const OPEN: &str = "the semaphore is never closed";
        let stranger = match turn {
            Turn::Known => None,
            Turn::Stranger => Some(self.strangers.acquire().await.expect(OPEN)),
        };
        (stranger, self.permits.acquire().await.expect(OPEN))
    }

    async fn run_now<F>(&self, clock: &dyn Clock, lookup: F) -> Result<Answer, Outage>
    where
        F: AsyncFnOnce() -> Result<Answer, StoreError>,
    {
        let doubts = self.doubts.load(Ordering::SeqCst);
        let outage = match timeout(self.deadline, lookup()).await {
            Ok(Ok(answer)) => {
                self.retry_at.store(Self::UP, Ordering::SeqCst);
                return Ok(answer);
            }
            Ok(Err(error)) if error.kind() == StoreErrorKind::Corrupt => {
                // One bad row says nothing about the others.
                return Err(Outage::from_store(error));
            }
            Ok(Err(error)) => Outage::from_store(error),
            Err(_) => Outage {
                lookup_ran: true,
                ..Outage::deadline()
            },
        };
        self.mark_as_down(doubts, clock.now());
        Err(outage)
    }

    /// Notes that a lookup failed which began after so many doubts.
    fn mark_as_down(&self, doubts: u64, now: Moment) {
        let is_news = || self.doubts.load(Ordering::SeqCst) == doubts;
        if is_news() {
            let retry_at = after(now.monotonic_nanos());
            self.retry_at.store(retry_at, Ordering::SeqCst);
            // A doubt that came between was overwritten just now.
            if !is_news() {
                self.retry_at.store(Self::UP, Ordering::SeqCst);
            }
        }
    }
}

fn after(now: u64) -> u64 {
    let retry = u64::try_from(Lookups::RETRY.as_nanos()).unwrap_or(u64::MAX);
    now.saturating_add(retry).min(Lookups::UP - 1)
}

/// The store could not tell whether there is such a key.
#[derive(Clone, Debug)]
pub struct Outage {
    kind: OutageKind,
    source: Option<Arc<dyn Error + Send + Sync>>,
    lookup_ran: bool,
}

/// Reason for which the store gave no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OutageKind {
    /// The lookup took longer than its deadline.
    Deadline,
    /// Too many lookups were waiting already.
    Overloaded,
    /// The store answered with an error.
    Store,
}

impl Outage {
    /// No turn, or no answer, in time.
    pub(super) fn deadline() -> Self {
        Self {
            kind: OutageKind::Deadline,
            source: None,
            lookup_ran: false,
        }
    }

    pub(super) fn overloaded() -> Self {
        Self {
            kind: OutageKind::Overloaded,
            source: None,
            lookup_ran: false,
        }
    }

    pub(super) fn from_store(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self {
            kind: OutageKind::Store,
            source: Some(Arc::from(source.into())),
            lookup_ran: true,
        }
    }

    /// Reason for the outage.
    pub fn kind(&self) -> OutageKind {
        self.kind
    }

    /// Returns whether a lookup ran and failed. Otherwise the store was not even asked in time.
    pub(super) fn lookup_ran(&self) -> bool {
        self.lookup_ran
    }
}

impl fmt::Display for Outage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            OutageKind::Deadline => "the lookup of a key took longer than its deadline",
            OutageKind::Overloaded => "too many lookups of keys are waiting",
            OutageKind::Store => "the lookup of a key failed",
        })
    }
}

impl Error for Outage {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}
