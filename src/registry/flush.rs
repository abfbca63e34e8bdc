//! Writing what is gathered between two writes: use, and credits that were leased and not spent.

use std::sync::Weak;
use std::time::Duration;

use crate::credits::Unspent;
use crate::store::{KeyRepository, StoreError};
use crate::telemetry;
use crate::verify::{Parts, Verifier};

/// Writes the gathered use, and gives back the credits of idle keys, until the keys are gone. Between
/// two writes it holds nothing, so that the store can be closed when its owner is done with it.
pub(super) async fn flush_regularly(
    parts: Weak<Parts>,
    repository: Weak<dyn KeyRepository>,
    interval: Duration,
) {
    loop {
        tokio::time::sleep(interval).await;
        let (Some(parts), Some(repository)) = (parts.upgrade(), repository.upgrade()) else {
            return;
        };
        let verifier = Verifier { parts };
        // In a task of its own: to abort this one must not abort a write.
        let written =
            tokio::spawn(async move { flush(&verifier, &*repository, Unspent::OfIdle).await })
                .await;
        if let Ok(Err(error)) = written {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "use was not written yet"
            );
        }
    }
}

/// Writes all of it, as far as the store takes it.
pub(super) async fn flush(
    verifier: &Verifier,
    repository: &dyn KeyRepository,
    credits: Unspent,
) -> Result<(), StoreError> {
    let parts = &verifier.parts;
    let used = match &parts.usage {
        Some(usage) => {
            let flushed = usage.flush(repository).await;
            telemetry::flushed(flushed.is_ok());
            flushed
        }
        None => Ok(()),
    };
    let given_back = match &parts.accounts {
        Some(accounts) => accounts.give_back(credits).await,
        None => Ok(()),
    };
    used.and(given_back)
}
