//! The bus of a PostgreSQL store: what its triggers notify of.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::postgres::{PgListener, PgNotification, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions, Executor, PgConnection, PgPool, Row, raw_sql};
use tokio::time::{Instant, timeout, timeout_at};

use crate::invalidation::{BusError, Invalidation, InvalidationBus, Subscription, random_id};

/// Listens to the store's channel.
///
/// Both connections of a listener are its own. In the store's pool a listener that has fallen
/// silent would keep a place for good, and a pool that is busy with lookups would make a sound bus
/// look dead.
pub(super) struct Notifications {
    /// The store's connections: how they are made, and whether the store is closed.
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

    async fn connect(&self) -> Result<Listener, BusError> {
        let options = self.pool.connect_options();
        // sqlx makes listeners over pools only.
        let own = PgPoolOptions::new()
            .max_connections(1)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_lazy_with((*options).clone());
        let mut listening = PgListener::connect_with(&own).await.map_err(lost)?;
        // A lost connection must be known: nobody keeps what is sent meanwhile.
        listening.eager_reconnect(false);
        let mut sending = options.connect().await.map_err(lost)?;
        if shares_servers(&mut listening, &mut sending)
            .await
            .map_err(lost)?
        {
            return Err(BusError::new(UNHEARD));
        }
        let own_channel = format!("tower_api_key.proof.{:016x}", random_id());
        listening
            .listen_all([&*self.channel, &*own_channel])
            .await
            .map_err(lost)?;
        Ok(Listener {
            listening,
            sending,
            own_channel,
            proofs: 0,
            unread: VecDeque::new(),
            store: self.pool.clone(),
        })
    }
}

/// Returns whether a pooler of transactions is between: statements of one connection go to the
/// server process of the other one, or to changing processes.
///
/// The proof would find that out too. But by then the process of somebody else's next statement has
/// executed `LISTEN`, and sends it notifications that it does not expect.
async fn shares_servers(
    listening: &mut PgListener,
    sending: &mut PgConnection,
) -> sqlx::Result<bool> {
    const PROCESS: &str = "SELECT pg_backend_pid()";

    let before: i32 = raw_sql(PROCESS)
        .fetch_one(&mut *listening)
        .await?
        .try_get(0)?;
    // A transaction keeps its process, so that the other connection gets another one meanwhile.
    sending.execute("BEGIN").await?;
    let other: i32 = raw_sql(PROCESS)
        .fetch_one(&mut *sending)
        .await?
        .try_get(0)?;
    let after: i32 = raw_sql(PROCESS)
        .fetch_one(&mut *listening)
        .await?
        .try_get(0)?;
    sending.execute("ROLLBACK").await?;
    Ok(before != after || before == other)
}

/// Time limit of the first proof, which takes milliseconds on a connection that works.
const FIRST_PROOF: Duration = Duration::from_secs(2);

#[async_trait]
impl InvalidationBus for Notifications {
    async fn subscribe(&self) -> Result<Box<dyn Subscription>, BusError> {
        let subscribing = async {
            let mut listener = self.connect().await?;
            timeout(FIRST_PROOF, listener.prove())
                .await
                .map_err(|_| BusError::new(UNHEARD))??;
            Ok(Box::new(listener) as Box<dyn Subscription>)
        };
        let mut closed = self.pool.close_event();
        closed.do_until(subscribing).await.map_err(lost)?
    }
}

const UNHEARD: &str = "PostgreSQL accepts LISTEN, but a notification does not arrive: PgBouncer with \
                       pool_mode = transaction or statement delivers none, so connect to the server itself";

/// One end of the bus.
///
/// A proof is a notification that has gone round. An answer to a statement proves nothing: a pooler
/// that pools transactions answers each statement, over whichever connection is free, and drops
/// notifications. One that this connection sends to itself would prove as little, because it comes
/// with the answer.
struct Listener {
    listening: PgListener,
    sending: PgConnection,
    /// The channel on which this listener alone sends and listens.
    own_channel: String,
    /// The number of the last proof.
    proofs: u64,
    unread: VecDeque<Invalidation>,
    store: PgPool,
}

#[async_trait]
impl Subscription for Listener {
    async fn next(&mut self, until: Instant) -> Result<Option<Invalidation>, BusError> {
        let mut closed = self.store.close_event();
        closed
            .do_until(self.next_or_proof(until))
            .await
            .map_err(lost)?
    }
}

impl Listener {
    async fn next_or_proof(&mut self, until: Instant) -> Result<Option<Invalidation>, BusError> {
        while Instant::now() < until {
            if let Some(unread) = self.unread.pop_front() {
                return Ok(Some(unread));
            }
            match timeout_at(until, self.listening.try_recv()).await {
                Ok(notification) => _ = self.read(notification)?,
                Err(_) => break,
            }
        }
        self.prove().await?;
        Ok(None)
    }

    /// Sends a notification and waits for it. Those of earlier transactions arrive before it.
    async fn prove(&mut self) -> Result<(), BusError> {
        self.proofs += 1;
        let notify = format!("NOTIFY \"{}\", '{}'", self.own_channel, self.proofs);
        let sent = self.sending.execute(AssertSqlSafe(notify)).await;
        sent.map_err(|error| match error {
            // The notification came back to its sender, which does not listen.
            sqlx::Error::Protocol(_) => BusError::new(UNHEARD),
            error => lost(error),
        })?;
        loop {
            let notification = self.listening.try_recv().await;
            if self.read(notification)? == Some(self.proofs) {
                return Ok(());
            }
        }
    }

    /// Keeps an invalidation for later, and returns the number of a proof.
    fn read(
        &mut self,
        notification: sqlx::Result<Option<PgNotification>>,
    ) -> Result<Option<u64>, BusError> {
        let notification = notification.map_err(lost)?;
        let notification =
            notification.ok_or_else(|| BusError::new("the connection to PostgreSQL is lost"))?;
        let payload = notification.payload();
        if notification.channel() == self.own_channel {
            return Ok(payload.parse().ok());
        }
        self.unread.push_back(payload.parse().unwrap_or_else(|_| {
            tracing::warn!("a notification cannot be read, so all keys are forgotten");
            Invalidation::Everything
        }));
        Ok(None)
    }
}

fn lost(error: sqlx::Error) -> BusError {
    BusError::new(error)
}

impl fmt::Debug for Notifications {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Notifications")
            .field("channel", &self.channel)
            .finish_non_exhaustive()
    }
}
