use std::ops::{Deref, DerefMut};

use sqlx::pool::PoolConnection;
use sqlx::{PgConnection, PgPool, Postgres};

use crate::store::StoreError;

/// A connection on loan from a pool, which takes it back only when its work is finished.
///
/// One that was abandoned half-way, because the caller gave up or something failed, is closed. The
/// pool would keep its place taken until the server answers, and behind a network that has gone
/// silent a few lookups would block all others until TCP gives up, a quarter of an hour later.
pub(super) struct Lease {
    connection: PoolConnection<Postgres>,
    finished: bool,
}

impl Lease {
    pub(super) async fn of(pool: &PgPool) -> Result<Self, StoreError> {
        let connection = pool.acquire().await.map_err(StoreError::unavailable)?;
        Ok(Self {
            connection,
            finished: false,
        })
    }

    /// Gives the connection back.
    pub(super) fn finish(mut self) {
        self.finished = true;
    }
}

impl Deref for Lease {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.connection
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.connection
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !self.finished {
            self.connection.close_on_drop();
        }
    }
}
