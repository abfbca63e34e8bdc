use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, PgPool};
use tokio::time::timeout;

use super::lease::Lease;
use super::replica::Replica;
use super::schema::Schema;
use super::{PostgresStore, listing_slots, migrations, url};
use crate::store::StoreError;

/// How a [`PostgresStore`] connects; made by [`PostgresStore::builder`].
#[derive(Clone)]
#[must_use]
pub struct PostgresBuilder {
    schema: String,
    replica: Option<ReplicaSource>,
    max_connections: u32,
    acquire_timeout: Duration,
    statement_timeout: Option<Duration>,
}

#[derive(Clone)]
enum ReplicaSource {
    Pool(PgPool),
    Url(String),
}

/// How long the first connection may take: a database that sleeps while nobody uses it has to wake
/// up first.
const FIRST_CONNECTION: Duration = Duration::from_secs(10);

impl PostgresBuilder {
    pub(super) fn new() -> Self {
        Self {
            schema: Schema::DEFAULT.to_owned(),
            replica: None,
            max_connections: 10,
            acquire_timeout: Duration::from_millis(1_500),
            statement_timeout: Some(Duration::from_secs(5)),
        }
    }

    /// The schema of the tables, which should hold nothing else: 1 to 63 bytes, taken as they are.
    /// It is made when it is missing. Default: `tower_api_key`.
    pub fn schema(mut self, schema: impl Into<String>) -> Self {
        self.schema = schema.into();
        self
    }

    /// A replica of the database that answers [`find`](crate::KeyStore::find), on connections of its
    /// own. Everything else asks the primary, and so do lookups for five seconds after the replica
    /// has failed, taken over half a second or was behind. Default: none.
    ///
    /// It has to be a standby that replays the primary's write-ahead log (streaming replication). Each
    /// answer says how far the standby has replayed, and counts only when that is what the primary
    /// had written five seconds before, or more. So a replica that has stalled is left within five
    /// seconds, also where the primary is idle. A server that cannot say how far it is, such as a
    /// subscriber of logical replication, is never asked, and the log says so once; nor is a replica
    /// while the primary does not answer.
    ///
    /// A replica does not know yet what was issued or changed within these seconds; it takes no part
    /// where [`find_latest`](crate::KeyStore::find_latest) is asked. Keep
    /// [`CacheConfig::replica_lag`](crate::CacheConfig::replica_lag) above five seconds.
    pub fn replica(mut self, url: impl Into<String>) -> Self {
        self.replica = Some(ReplicaSource::Url(url.into()));
        self
    }

    /// The same, on connections of the application's own pool.
    pub fn replica_pool(mut self, pool: PgPool) -> Self {
        self.replica = Some(ReplicaSource::Pool(pool));
        self
    }

    /// At most this many connections to each server, made as they are needed. A lookup, a change
    /// and a batch of use take one each, and the bus keeps one for as long as it listens. Default:
    /// 10.
    ///
    /// # Panics
    ///
    /// When `most` is below 2.
    pub fn max_connections(mut self, most: u32) -> Self {
        assert!(
            most > 1,
            "a store needs two connections: one of them listens for changes"
        );
        self.max_connections = most;
        self
    }

    /// How long to wait for a connection, a new or a free one. More than the cache's
    /// [`lookup_deadline`](crate::CacheConfig::lookup_deadline) serves changes only. Default: 1.5
    /// seconds.
    pub fn acquire_timeout(mut self, timeout: Duration) -> Self {
        self.acquire_timeout = timeout;
        self
    }

    /// How long a statement may run before the server ends it, also when nobody waits for it any
    /// more; none for the server's own limit. One in the URL (`?options=-c%20statement_timeout=2s`)
    /// comes first. Default: 5 seconds.
    ///
    /// It is a parameter of the connection. `PgBouncer` refuses those that it does not know: choose
    /// none there, and set the limit for the role (`ALTER ROLE … SET statement_timeout`).
    pub fn statement_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.statement_timeout = timeout.into();
        self
    }

    /// Connects to `url`, as in `postgres://user:password@host/database`, and makes the tables or
    /// brings them up to date.
    ///
    /// # Errors
    ///
    /// [`StoreErrorKind::Unavailable`](crate::StoreErrorKind::Unavailable) when the schema's name or
    /// a URL cannot be used, the server cannot be reached, or the tables cannot be made or were made
    /// by a later version of this crate. A replica need not be reachable yet.
    pub async fn connect(self, url: &str) -> Result<PostgresStore, StoreError> {
        let schema = Schema::new(&self.schema)?;
        let options = self.options(url)?;
        let replica = self.open_replica()?;
        // A connection of its own tells at once, and why, when it cannot be made; a pool tries on
        // until its time is up.
        let mut first = timeout(FIRST_CONNECTION, options.connect())
            .await
            .map_err(|_| StoreError::unavailable("PostgreSQL does not answer within 10 seconds"))?
            .map_err(StoreError::unavailable)?;
        migrations::run(&mut first, &schema).await?;
        // It has done its work, so nothing is lost where it does not close well.
        let _ = first.close().await;
        let primary = self.pool(options);
        Ok(PostgresStore {
            listing_slots: listing_slots(&primary),
            primary,
            shares_pool: false,
            replica,
            schema: Arc::new(schema),
        })
    }

    /// Keeps keys in the database of an application's own pool: see [`PostgresStore::from_pool`].
    /// The pool's settings stay as they are; the builder's are those of a replica's URL.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect).
    pub async fn with_pool(self, pool: PgPool) -> Result<PostgresStore, StoreError> {
        let schema = Schema::new(&self.schema)?;
        let replica = self.open_replica()?;
        let mut lease = Lease::of(&pool).await?;
        migrations::run(&mut lease, &schema).await?;
        lease.finish();
        Ok(PostgresStore {
            listing_slots: listing_slots(&pool),
            primary: pool,
            shares_pool: true,
            replica,
            schema: Arc::new(schema),
        })
    }

    fn open_replica(&self) -> Result<Option<Arc<Replica>>, StoreError> {
        let replica = match &self.replica {
            None => return Ok(None),
            Some(ReplicaSource::Pool(pool)) => Replica::new(pool.clone(), true),
            Some(ReplicaSource::Url(url)) => Replica::new(self.pool(self.options(url)?), false),
        };
        Ok(Some(Arc::new(replica)))
    }

    fn options(&self, url: &str) -> Result<PgConnectOptions, StoreError> {
        let mut options = url::options(url)?
            // Nothing here is a floating-point number, and PgBouncer refuses the parameter.
            .extra_float_digits(None);
        if options.get_application_name().is_none() {
            options = options.application_name("tower-api-key");
        }
        let chosen = options.get_options().unwrap_or_default();
        if let Some(timeout) = self.statement_timeout
            && !chosen.contains("statement_timeout")
        {
            // To the server, 0 would be no limit.
            let millis = timeout.as_millis().max(1);
            options = options.options([("statement_timeout", millis)]);
        }
        Ok(options)
    }

    fn pool(&self, options: PgConnectOptions) -> PgPool {
        PgPoolOptions::new()
            .max_connections(self.max_connections)
            .acquire_timeout(self.acquire_timeout)
            .connect_lazy_with(options)
    }
}

impl fmt::Debug for PostgresBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the URL of the replica: there may be a password in it.
        f.debug_struct("PostgresBuilder")
            .field("schema", &self.schema)
            .field("max_connections", &self.max_connections)
            .field("acquire_timeout", &self.acquire_timeout)
            .field("statement_timeout", &self.statement_timeout)
            .finish_non_exhaustive()
    }
}
