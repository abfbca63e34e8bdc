use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::{BusError, Invalidation, InvalidationBus};

/// Publishes what has changed, and sees to it that nothing is left unsaid.
#[derive(Clone, Debug)]
pub(crate) struct Publisher {
    bus: Arc<dyn InvalidationBus>,
    /// Whether something could not be said, and a task is trying to make up for it.
    owes: Arc<AtomicBool>,
}

impl Publisher {
    /// How long a change waits for the bus. The change itself is stored by then.
    const PATIENCE: Duration = Duration::from_secs(1);

    pub(crate) fn new(bus: Arc<dyn InvalidationBus>) -> Self {
        Self {
            bus,
            owes: Arc::default(),
        }
    }

    /// Tells all instances. Where that fails it is made up for in the background.
    pub(crate) async fn publish(&self, invalidation: &Invalidation) {
        let Err(error) = self.try_to(invalidation).await else {
            return;
        };
        tracing::error!(
            error = &error as &dyn Error,
            "a change could not be told to other instances yet"
        );
        if !self.owes.swap(true, Ordering::SeqCst) {
            tokio::spawn(self.clone().make_up());
        }
    }

    /// What was not said may concern any key, so all of them are forgotten.
    async fn make_up(self) {
        while self.owes.load(Ordering::SeqCst) {
            sleep(Self::PATIENCE).await;
            // Before it is said: what fails from now on is owed anew.
            self.owes.store(false, Ordering::SeqCst);
            if self.try_to(&Invalidation::Everything).await.is_err() {
                self.owes.store(true, Ordering::SeqCst);
            }
        }
    }

    async fn try_to(&self, invalidation: &Invalidation) -> Result<(), BusError> {
        let published = timeout(Self::PATIENCE, self.bus.publish(invalidation)).await;
        published.unwrap_or_else(|_| Err(BusError::new("it does not answer")))
    }
}
