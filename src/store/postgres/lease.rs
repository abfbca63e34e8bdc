use std::ops::{Deref, DerefMut};
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::{PgConnection, PgPool, Postgres};
use tokio::time::timeout;

use crate::store::StoreError;

/// A connection on loan from a pool, which takes it back only when its work is finished.
///
/// A connection that was abandoned half-way is closed at once, and its place in the pool is free.
/// The caller gave up, its deadline passed, or a statement failed. The pool itself would wait for
/// the server's answer before it takes a connection back. Behind a network that has gone silent a
/// few lookups would then block all others until TCP gives up, a quarter of an hour later.
pub(super) struct Lease {
    /// None once it is on its way back.
    connection: Option<PoolConnection<Postgres>>,
}

/// Time limit of the pool's test of a connection that is given back. Past it the connection is
/// closed.
const RETURN: Duration = Duration::from_secs(1);

const GIVEN_BACK: &str = "a lease has its connection until it is finished or dropped";

impl Lease {
    pub(super) async fn of(pool: &PgPool) -> Result<Self, StoreError> {
        let connection = pool.acquire().await.map_err(StoreError::unavailable)?;
        Ok(Self {
            connection: Some(connection),
        })
    }

    /// Gives the connection back.
    ///
    /// The pool asks the server for a sign of life first, without a time limit of its own. A
    /// network that falls silent at that moment would take the connection's place for good.
    pub(super) fn finish(mut self) {
        let connection = self.connection.take();
        let returned = connection.expect(GIVEN_BACK).return_to_pool();
        tokio::spawn(timeout(RETURN, returned));
    }
}

impl Deref for Lease {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        self.connection.as_ref().expect(GIVEN_BACK)
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.connection.as_mut().expect(GIVEN_BACK)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            // Without a word to the server, which need not be there. It notices the end by itself.
            drop(connection.detach());
        }
    }
}
