use std::fmt;
use std::future::Future;
use std::time::Duration;

use tokio::time::timeout;

use crate::store::StoreError;

/// Runs a call of a store, and gives it up at `deadline`.
///
/// A database behind a network that has gone silent never answers. The call is then dropped
/// half-way, so whether it has changed anything is not known.
pub(in crate::store) fn within<'a, T: 'a>(
    deadline: Duration,
    call: impl Future<Output = Result<T, StoreError>> + Send + 'a,
) -> impl Future<Output = Result<T, StoreError>> + Send + 'a {
    // The futures of sqlx are large, and each caller would hold one more.
    let call = Box::pin(call);
    async move {
        let answer = timeout(deadline, call).await;
        answer.unwrap_or_else(|_| Err(StoreError::unavailable(Late(deadline))))
    }
}

#[derive(Debug)]
struct Late(Duration);

impl fmt::Display for Late {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the database did not answer within {:?}", self.0)
    }
}

impl std::error::Error for Late {}
