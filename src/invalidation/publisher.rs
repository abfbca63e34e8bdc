use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::{BusError, Invalidation, InvalidationBus};

/// Publishes what has changed, and sees to it that nothing is left unsaid.
#[derive(Debug)]
pub(crate) struct Publisher(Arc<State>);

#[derive(Debug)]
struct State {
    bus: Arc<dyn InvalidationBus>,
    /// Whether something could not be said.
    owes: AtomicBool,
    /// Whether a task is trying to make up for it.
    makes_up: AtomicBool,
}

impl Publisher {
    /// How long a change waits for the bus. The change itself is stored by then.
    const PATIENCE: Duration = Duration::from_secs(1);

    pub(crate) fn new(bus: Arc<dyn InvalidationBus>) -> Self {
        Self(Arc::new(State {
            bus,
            owes: AtomicBool::new(false),
            makes_up: AtomicBool::new(false),
        }))
    }

    /// Notifies all instances, and returns whether the bus took the message. Where it did not, all
    /// instances are made to forget everything as soon as the bus can be reached again.
    pub(crate) async fn publish(&self, invalidation: &Invalidation) -> bool {
        let Err(error) = self.0.try_to(invalidation).await else {
            return true;
        };
        tracing::error!(
            error = &error as &dyn Error,
            "a change could not be told to other instances yet"
        );
        self.0.owes.store(true, Ordering::SeqCst);
        if !self.0.makes_up.swap(true, Ordering::SeqCst) {
            tokio::spawn(make_up(Arc::downgrade(&self.0)));
        }
        false
    }
}

/// What was not said may concern any key, so all of them are forgotten. Ends with the publisher.
async fn make_up(state: Weak<State>) {
    loop {
        sleep(Publisher::PATIENCE).await;
        let Some(state) = state.upgrade() else { return };
        // Before it is said: what fails from now on is owed anew.
        state.owes.store(false, Ordering::SeqCst);
        if state.try_to(&Invalidation::Everything).await.is_err() {
            state.owes.store(true, Ordering::SeqCst);
            continue;
        }
        state.makes_up.store(false, Ordering::SeqCst);
        // What has failed meanwhile saw this task at work, and left it to it.
        if !state.owes.load(Ordering::SeqCst) || state.makes_up.swap(true, Ordering::SeqCst) {
            return;
        }
    }
}

impl State {
    async fn try_to(&self, invalidation: &Invalidation) -> Result<(), BusError> {
        let published = timeout(Publisher::PATIENCE, self.bus.publish(invalidation)).await;
        published.unwrap_or_else(|_| Err(BusError::new("it does not answer")))
    }
}
