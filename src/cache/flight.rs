use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::Shared;
use tokio::sync::{Semaphore, oneshot};

use super::load::Found;
use super::{Asked, CacheConfig};
use crate::clock::{Clock, Moment};
use crate::store::{StoreError, StoreErrorKind, StoredKey};
use crate::telemetry;

/// A lookup under way, which any number of requests wait for.
#[derive(Clone)]
pub(super) struct Flight(Shared<oneshot::Receiver<Result<Found, Outage>>>);

/// The other end of a [`Flight`].
pub(super) struct Ticket(oneshot::Sender<Result<Found, Outage>>);

impl Flight {
    pub(super) fn new() -> (Self, Ticket) {
        let (sender, receiver) = oneshot::channel();
        (Self(receiver.shared()), Ticket(sender))
    }

    pub(super) async fn landed(self) -> Result<Found, Outage> {
        // The ticket is dropped unused only when the store panicked.
        self.0
            .await
            .unwrap_or_else(|_| Err(Outage::from_store("the key store panicked")))
    }
}

impl Ticket {
    pub(super) fn announce(self, answer: Result<Found, Outage>) {
        // Everybody who waited may have gone away; what was found is in the cache all the same.
        let _ = self.0.send(answer);
    }
}

/// Guards the store: how many lookups at once, how long each, and whether it is down.
pub(super) struct Lookups {
    permits: Semaphore,
    deadline: Duration,
    /// While the store is down: when it is to be asked again, in monotonic nanoseconds.
    retry_at: AtomicU64,
}

impl Lookups {
    /// How long a store that failed is spared requests that can do without it.
    const RETRY: Duration = Duration::from_secs(1);
    /// The value of `retry_at` while the store is not known to be down.
    const UP: u64 = u64::MAX;

    pub(super) fn new(config: &CacheConfig) -> Self {
        Self {
            permits: Semaphore::new(config.max_lookups.min(Semaphore::MAX_PERMITS)),
            deadline: config.lookup_deadline,
            retry_at: AtomicU64::new(Self::UP),
        }
    }

    /// Whether the last lookup failed.
    pub(super) fn is_down(&self) -> bool {
        self.retry_at.load(Ordering::Relaxed) != Self::UP
    }

    /// Whether it is this caller's turn to try a store that is down once more.
    pub(super) fn tries_again(&self, now: Moment) -> bool {
        let now = now.monotonic_nanos();
        let retry_at = self.retry_at.load(Ordering::Relaxed);
        now >= retry_at
            && self
                .retry_at
                .compare_exchange(retry_at, after(now), Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }

    /// Runs one lookup, when its turn comes and within the deadline.
    pub(super) async fn run<F>(
        &self,
        clock: &dyn Clock,
        lookup: F,
    ) -> Result<(Asked, Option<StoredKey>), Outage>
    where
        F: AsyncFnOnce() -> (Asked, Result<Option<StoredKey>, StoreError>),
    {
        let began = clock.now().monotonic();
        let answer = self.try_to(clock, lookup).await;
        let outcome = answer.as_ref().map(|(_, found)| found.is_some());
        let took = clock.now().monotonic().saturating_sub(began);
        telemetry::store_looked_up(outcome.map_err(Outage::kind), Some(took));
        answer
    }

    async fn try_to<F>(
        &self,
        clock: &dyn Clock,
        lookup: F,
    ) -> Result<(Asked, Option<StoredKey>), Outage>
    where
        F: AsyncFnOnce() -> (Asked, Result<Option<StoredKey>, StoreError>),
    {
        let in_turn = async {
            let _permit = self
                .permits
                .acquire()
                .await
                .expect("the semaphore is never closed");
            lookup().await
        };
        let outage = match tokio::time::timeout(self.deadline, in_turn).await {
            Ok((asked, Ok(answer))) => {
                self.retry_at.store(Self::UP, Ordering::Relaxed);
                return Ok((asked, answer));
            }
            Ok((_, Err(error))) if error.kind() == StoreErrorKind::Corrupt => {
                // One bad row says nothing about the others.
                return Err(Outage::from_store(error));
            }
            Ok((_, Err(error))) => Outage::from_store(error),
            Err(_) => Outage::deadline(),
        };
        self.retry_at
            .store(after(clock.now().monotonic_nanos()), Ordering::Relaxed);
        Err(outage)
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
}

/// Why there was no answer from the store.
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
    pub(super) fn deadline() -> Self {
        Self {
            kind: OutageKind::Deadline,
            source: None,
        }
    }

    pub(super) fn overloaded() -> Self {
        Self {
            kind: OutageKind::Overloaded,
            source: None,
        }
    }

    fn from_store(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self {
            kind: OutageKind::Store,
            source: Some(Arc::from(source.into())),
        }
    }

    /// Why there was no answer.
    pub fn kind(&self) -> OutageKind {
        self.kind
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
