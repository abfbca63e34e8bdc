use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use crate::clock::{Clock, Moment};

/// A clock that stands still until it is told to move. Clones show the same time.
///
/// ```
/// use std::time::Duration;
/// use tower_api_key::{ApiKeys, MemoryStore, testing::ManualClock};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let clock = ManualClock::new("2026-11-23T10:00:00Z".parse().unwrap());
/// let keys = ApiKeys::builder(MemoryStore::new()).clock(clock.clone()).build();
/// clock.advance(Duration::from_secs(60));
/// assert_eq!(keys.now().to_string(), "2026-11-23T10:01:00Z");
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct ManualClock {
    state: Arc<Mutex<(Timestamp, Duration)>>,
}

impl ManualClock {
    /// A clock that shows `wall`.
    pub fn new(wall: Timestamp) -> Self {
        // Not at the monotonic origin, where "long ago" could not be told from "never".
        Self {
            state: Arc::new(Mutex::new((wall, Duration::from_secs(1_000_000)))),
        }
    }

    /// Moves both clocks forward.
    ///
    /// # Panics
    ///
    /// When that is beyond the times that there are.
    pub fn advance(&self, time: Duration) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.0 += time;
        state.1 += time;
    }

    /// Sets the wall clock alone, forward or back, as an operator might.
    pub fn set_wall(&self, wall: Timestamp) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).0 = wall;
    }
}

/// Shows the beginning of 2026.
impl Default for ManualClock {
    fn default() -> Self {
        Self::new(Timestamp::constant(1_767_225_600, 0))
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Moment {
        let (wall, monotonic) = *self.state.lock().unwrap_or_else(PoisonError::into_inner);
        Moment::new(wall, monotonic)
    }
}
