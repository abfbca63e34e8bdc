use std::error::Error;
use std::future::Future;

use sqlx::error::DatabaseError;

use crate::store::StoreError;

/// PostgreSQL's `deadlock_detected`.
const DEADLOCK: &str = "40P01";

/// Runs a transaction, and runs it again for as long as PostgreSQL ends it to break a deadlock.
///
/// Plain SQL locks rows in any order, so a transaction in psql and one of the store can wait for each
/// other. PostgreSQL then rolls one of them back, after `deadlock_timeout`, which is 1 second by default.
/// If it is the store's, nothing was written, and the other transaction goes on. The caller's deadline
/// bounds the repetitions.
pub(super) async fn again_after_deadlock<T, F>(transaction: impl Fn() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    loop {
        match transaction().await {
            Err(error) if is_deadlock(&error) => {
                tracing::debug!("PostgreSQL has ended a transaction to break a deadlock");
            }
            outcome => return outcome,
        }
    }
}

fn is_deadlock(error: &StoreError) -> bool {
    let source = error
        .source()
        .and_then(|source| source.downcast_ref::<sqlx::Error>());
    let code = source
        .and_then(sqlx::Error::as_database_error)
        .and_then(DatabaseError::code);
    code.is_some_and(|code| code == DEADLOCK)
}
