use std::fmt;

use async_trait::async_trait;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::time::Instant;

use super::{BusError, Invalidation, InvalidationBus, Subscription};

/// Connects several [`ApiKeys`](crate::ApiKeys) over one store in one process, each with a cache
/// of its own. Clones are the same bus.
#[derive(Clone)]
pub struct InProcessBus {
    sender: broadcast::Sender<Invalidation>,
}

impl InProcessBus {
    /// How many invalidations may wait for a listener; one that lags further behind forgets
    /// everything instead.
    const CAPACITY: usize = 1_024;

    /// A bus without listeners.
    pub fn new() -> Self {
        Self {
            sender: broadcast::Sender::new(Self::CAPACITY),
        }
    }
}

impl Default for InProcessBus {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl InvalidationBus for InProcessBus {
    async fn subscribe(&self) -> Result<Box<dyn Subscription>, BusError> {
        Ok(Box::new(Listener(self.sender.subscribe())))
    }

    async fn publish(&self, invalidation: &Invalidation) -> Result<(), BusError> {
        // Without listeners there is nobody to be told.
        let _ = self.sender.send(invalidation.clone());
        Ok(())
    }
}

struct Listener(broadcast::Receiver<Invalidation>);

#[async_trait]
impl Subscription for Listener {
    async fn next(&mut self, until: Instant) -> Result<Option<Invalidation>, BusError> {
        if Instant::now() >= until {
            return Ok(None);
        }
        match tokio::time::timeout_at(until, self.0.recv()).await {
            Ok(Ok(invalidation)) => Ok(Some(invalidation)),
            Ok(Err(RecvError::Lagged(_))) => Ok(Some(Invalidation::Everything)),
            Ok(Err(RecvError::Closed)) => Err(BusError::new("the bus is gone")),
            // Memory does not fail, so silence is proof enough.
            Err(_) => Ok(None),
        }
    }
}

impl fmt::Debug for InProcessBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InProcessBus")
            .field("listeners", &self.sender.receiver_count())
            .finish_non_exhaustive()
    }
}
