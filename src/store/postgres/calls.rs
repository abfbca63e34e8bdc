use std::future::Future;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::store::StoreError;
use crate::store::sql::deadline::within;

/// Deadlines of calls to the primary, and the connections that are kept free for requests.
///
/// A change that is stuck holds its connection until the deadline. However many changes are stuck,
/// the lookup of a request finds a connection.
pub(super) struct Calls {
    deadline: Duration,
    /// A permit for each connection that calls of other kinds may take.
    others: Semaphore,
}

/// A batch of new keys is many statements, so it has that many deadlines.
const BATCH: u32 = 6;

impl Calls {
    pub(super) fn new(deadline: Duration, connections: u32) -> Self {
        let reserved = (connections / 4).max(1);
        let others = connections.saturating_sub(reserved).max(1);
        Self {
            deadline,
            others: Semaphore::new(usize::try_from(others).unwrap_or(Semaphore::MAX_PERMITS)),
        }
    }

    /// Runs a call that a request waits for.
    pub(super) fn for_request<'a, T: Send + 'a>(
        &'a self,
        call: impl Future<Output = Result<T, StoreError>> + Send + 'a,
    ) -> impl Future<Output = Result<T, StoreError>> + Send + 'a {
        within(self.deadline, call)
    }

    /// Runs any other call.
    pub(super) fn other<'a, T: Send + 'a>(
        &'a self,
        call: impl Future<Output = Result<T, StoreError>> + Send + 'a,
    ) -> impl Future<Output = Result<T, StoreError>> + Send + 'a {
        within(self.deadline, self.in_turn(call))
    }

    /// Runs a call that writes a batch of new keys.
    pub(super) fn batch<'a, T: Send + 'a>(
        &'a self,
        call: impl Future<Output = Result<T, StoreError>> + Send + 'a,
    ) -> impl Future<Output = Result<T, StoreError>> + Send + 'a {
        within(self.deadline.saturating_mul(BATCH), self.in_turn(call))
    }

    async fn in_turn<T>(
        &self,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let turn = self.others.acquire().await;
        let _turn = turn.expect("the semaphore is never closed");
        call.await
    }
}
