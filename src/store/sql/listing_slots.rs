//! A limit for listings that run at once.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use crate::store::StoreError;

/// The connections that listings may take at a time, so that lookups always find one.
///
/// A listing reads many rows, and a verification waits for its lookup: without a limit, a few dozen
/// people with the list of keys open could hold every connection.
#[derive(Clone, Debug)]
pub(in crate::store) struct ListingSlots {
    slots: Arc<Semaphore>,
    patience: Duration,
}

impl ListingSlots {
    /// Makes so many slots. A listing waits for one as long as `patience`.
    pub(in crate::store) fn new(slots: usize, patience: Duration) -> Self {
        Self {
            slots: Arc::new(Semaphore::new(slots)),
            patience,
        }
    }

    /// Makes a slot for each fourth connection of a pool, at least one.
    pub(in crate::store) fn share_of(connections: u32, patience: Duration) -> Self {
        let slots = usize::try_from(connections / 4).unwrap_or(1).max(1);
        Self::new(slots, patience)
    }

    /// Waits for a slot, which is free again when the permit is dropped.
    pub(in crate::store) async fn take(&self) -> Result<SemaphorePermit<'_>, StoreError> {
        let waited = timeout(self.patience, self.slots.acquire()).await;
        waited
            .map_err(|_| StoreError::unavailable("too many listings are under way"))?
            .map_err(StoreError::unavailable)
    }
}
