//! What the triggers tell.

use std::fmt;

use async_trait::async_trait;
use sqlx::PgPool;
use sqlx::postgres::PgListener;
use tokio::time::{Instant, timeout_at};

use crate::invalidation::{BusError, Invalidation, InvalidationBus, Subscription};

/// Listens to the store's channel, on a connection that it keeps from the pool.
pub(super) struct Notifications {
    pool: PgPool,
    channel: String,
}

impl Notifications {
    pub(super) fn new(pool: PgPool, channel: &str) -> Self {
        Self {
            pool,
            channel: channel.to_owned(),
        }
    }
}

#[async_trait]
impl InvalidationBus for Notifications {
    async fn subscribe(&self) -> Result<Box<dyn Subscription>, BusError> {
        let listener = PgListener::connect_with(&self.pool).await;
        let mut listener = listener.map_err(BusError::new)?;
        // A lost connection must be known: what is told meanwhile is not kept for anybody.
        listener.eager_reconnect(false);
        listener
            .listen(&self.channel)
            .await
            .map_err(BusError::new)?;
        Ok(Box::new(Listener(listener)))
    }
}

struct Listener(PgListener);

#[async_trait]
impl Subscription for Listener {
    async fn next(&mut self, until: Instant) -> Result<Option<Invalidation>, BusError> {
        if Instant::now() < until
            && let Ok(told) = timeout_at(until, self.0.try_recv()).await
        {
            let told = told.map_err(BusError::new)?;
            let told = told.ok_or_else(|| BusError::new("the connection to PostgreSQL is lost"))?;
            return Ok(Some(read(told.payload())));
        }
        // PostgreSQL sends what it has to tell before it answers the next statement; the listener
        // keeps it.
        sqlx::query("SELECT 1")
            .execute(&mut self.0)
            .await
            .map_err(BusError::new)?;
        Ok(None)
    }
}

fn read(payload: &str) -> Invalidation {
    payload.parse().unwrap_or_else(|_| {
        tracing::warn!("a notification cannot be read, so all keys are forgotten");
        Invalidation::Everything
    })
}

impl fmt::Debug for Notifications {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Notifications")
            .field("channel", &self.channel)
            .finish_non_exhaustive()
    }
}
