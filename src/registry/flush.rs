//! Writing what is gathered between two writes: use, and credits that were leased and not spent.

use std::pin::pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{Either, join, select};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout_at};

use super::ShutdownError;
use crate::credits::Unspent;
use crate::store::{KeyRepository, StoreError};
use crate::telemetry;
use crate::verify::{Parts, Verifier};

/// Writes regularly, on demand and at shutdown.
///
/// Each flush runs in tasks of its own, so that none is lost with its caller. Only a shutdown gives
/// up a flush whose store does not answer: the next flush would wait for it, and so would the end
/// of the process.
pub(super) struct Flusher {
    regularly: AbortHandle,
    /// Interrupts the flushes that are under way.
    interrupt: watch::Sender<()>,
}

impl Flusher {
    /// Attempts without an answer for which a shutdown has time.
    const ATTEMPTS: u32 = 3;
    /// The pause after an attempt that failed. It doubles up to a second.
    const FIRST_PAUSE: Duration = Duration::from_millis(50);
    const LAST_PAUSE: Duration = Duration::from_secs(1);
    /// Above it a deadline is none.
    const LONGEST: Duration = Duration::from_hours(24 * 365);

    /// Writes every `interval`, until the keys are gone. Between two writes it holds nothing of
    /// them, so that the store can be closed when its owner is done with it.
    pub(super) fn start(
        parts: Weak<Parts>,
        repository: Weak<dyn KeyRepository>,
        interval: Duration,
    ) -> Self {
        let interrupt = watch::Sender::new(());
        let interrupts = interrupt.clone();
        let regularly = tokio::spawn(async move {
            loop {
                sleep(interval).await;
                let (Some(parts), Some(repository)) = (parts.upgrade(), repository.upgrade())
                else {
                    return;
                };
                let verifier = Verifier { parts };
                let flushed = flush(verifier, repository, Unspent::OfIdle, &interrupts);
                if let Err(error) = flushed.await {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "use was not written yet"
                    );
                }
            }
        });
        Self {
            regularly: regularly.abort_handle(),
            interrupt,
        }
    }

    /// Writes all of it, as far as the store takes it.
    pub(super) async fn flush(
        &self,
        verifier: &Verifier,
        repository: &Arc<dyn KeyRepository>,
    ) -> Result<(), StoreError> {
        let (verifier, repository) = (verifier.clone(), Arc::clone(repository));
        flush(verifier, repository, Unspent::OfIdle, &self.interrupt).await
    }

    /// Ends the regular writing and writes all of it. Tries again until `deadline` has passed.
    pub(super) async fn shutdown(
        &self,
        verifier: &Verifier,
        repository: &Arc<dyn KeyRepository>,
        deadline: Duration,
    ) -> Result<(), ShutdownError> {
        let parts = &verifier.parts;
        let lost = || {
            parts
                .accounts
                .as_ref()
                .map_or(0, |accounts| accounts.lost())
        };
        let lost_before = lost();
        // First, so that no flush begins after the last interrupt and keeps its batch from being counted below.
        self.regularly.abort();
        let (flushed, failure) = self.flush_until(verifier, repository, deadline).await;
        let lost = lost() - lost_before;
        let Some(source) = failure.filter(|_| !flushed || lost > 0) else {
            return Ok(());
        };
        let uses = match &parts.usage {
            Some(usage) => usage.unwritten().await,
            None => 0,
        };
        let held = parts
            .accounts
            .as_ref()
            .map_or(0, |accounts| accounts.held());
        Err(ShutdownError::new(uses, held.saturating_add(lost), source))
    }

    /// Returns whether the last attempt has written everything, and why one before it has not.
    async fn flush_until(
        &self,
        verifier: &Verifier,
        repository: &Arc<dyn KeyRepository>,
        deadline: Duration,
    ) -> (bool, Option<StoreError>) {
        let mut failure = None;
        let deadline = deadline.min(Self::LONGEST);
        let end = Instant::now() + deadline;
        let mut pause = Self::FIRST_PAUSE;
        loop {
            let give_up = end.min(Instant::now() + deadline / Self::ATTEMPTS);
            let (verifier, repository) = (verifier.clone(), Arc::clone(repository));
            let attempt = flush(verifier, repository, Unspent::OfAll, &self.interrupt);
            let mut attempt = pin!(attempt);
            let flushed = if let Ok(flushed) = timeout_at(give_up, &mut attempt).await {
                flushed
            } else {
                // Also the flush that this one may have waited for.
                self.interrupt.send_replace(());
                attempt.await
            };
            let again = Instant::now() + pause;
            match flushed {
                Ok(()) => return (true, failure),
                Err(error) => failure = Some(error),
            }
            if again >= end {
                return (false, failure);
            }
            sleep(pause).await;
            pause = (pause * 2).min(Self::LAST_PAUSE);
        }
    }
}

/// Writes use and returns credits at the same time: a store that does not take the one may take the other.
async fn flush(
    verifier: Verifier,
    repository: Arc<dyn KeyRepository>,
    credits: Unspent,
    interrupt: &watch::Sender<()>,
) -> Result<(), StoreError> {
    let parts = Arc::clone(&verifier.parts);
    let used = async move {
        let Some(usage) = &parts.usage else {
            return Ok(());
        };
        let flushed = usage.flush(&*repository).await;
        telemetry::flushed(flushed.is_ok());
        flushed
    };
    let given_back = async move {
        match &verifier.parts.accounts {
            Some(accounts) => accounts.give_back(credits).await,
            None => Ok(()),
        }
    };
    let used = in_a_task(used, interrupt.subscribe());
    let given_back = in_a_task(given_back, interrupt.subscribe());
    let (used, given_back) = join(used, given_back).await;
    used.and(given_back)
}

/// Writes in a task of its own, which goes on without its caller and ends at an interrupt.
fn in_a_task(
    writing: impl Future<Output = Result<(), StoreError>> + Send + 'static,
    mut interrupts: watch::Receiver<()>,
) -> impl Future<Output = Result<(), StoreError>> {
    let written = tokio::spawn(async move {
        match select(pin!(writing), pin!(interrupts.changed())).await {
            Either::Right((Ok(()), _)) => Err(StoreError::unavailable("it did not answer in time")),
            // The keys are gone, so that no interrupt can come.
            Either::Right((Err(_), writing)) => writing.await,
            Either::Left((written, _)) => written,
        }
    });
    // A store that panics has failed.
    written.map(|written| written.unwrap_or_else(|failed| Err(StoreError::unavailable(failed))))
}
