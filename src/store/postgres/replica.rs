use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use sqlx::PgPool;
use tokio::time::{Instant, timeout};

use super::read;
use super::schema::Schema;
use crate::key::KeyDigest;
use crate::store::{StoreError, StoredKey};

/// A copy of the database that answers lookups, as long as it can.
pub(super) struct Replica {
    pool: PgPool,
    shares_pool: bool,
    rests_until: Mutex<Option<Instant>>,
}

/// How long a lookup may take before the primary is asked: short enough that it still has time to
/// answer.
const PATIENCE: Duration = Duration::from_millis(500);

/// How long it is not asked after it has failed, so that not every lookup waits for it first.
const REST: Duration = Duration::from_secs(5);

impl Replica {
    pub(super) fn new(pool: PgPool, shares_pool: bool) -> Self {
        Self {
            pool,
            shares_pool,
            rests_until: Mutex::new(None),
        }
    }

    /// What the replica knows of `digest`; none when the primary has to be asked instead.
    pub(super) async fn find(
        &self,
        schema: &Schema,
        digest: &KeyDigest,
    ) -> Option<Option<StoredKey>> {
        if self.rests() {
            return None;
        }
        let lookup = timeout(PATIENCE, read::find(&self.pool, schema, digest)).await;
        match lookup.map_err(StoreError::unavailable) {
            Ok(Ok(found)) => Some(found),
            Ok(Err(error)) | Err(error) => {
                self.rest(&error);
                None
            }
        }
    }

    pub(super) async fn close(&self) {
        if !self.shares_pool {
            self.pool.close().await;
        }
    }

    fn rests(&self) -> bool {
        let until = *self
            .rests_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| Instant::now() < until)
    }

    fn rest(&self, error: &StoreError) {
        let source = std::error::Error::source(error).map(ToString::to_string);
        tracing::warn!(%error, source, "the replica failed, the primary is asked for 5 seconds");
        let until = Instant::now() + REST;
        *self
            .rests_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(until);
    }
}
