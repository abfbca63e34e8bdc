use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, PgPool};
use tokio::time::timeout;

use super::calls::Calls;
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
    deadline: Duration,
}

#[derive(Clone)]
enum ReplicaSource {
    Pool(PgPool),
    Url(String),
}

/// How long the first connection may take: a database that sleeps while nobody uses it has to wake
/// up first.
const FIRST_CONNECTION: Duration = Duration::from_secs(10);

/// Time limit for the sign of life of an idle connection. Past it another connection is made in its
/// place.
const SIGN_OF_LIFE: Duration = Duration::from_millis(250);

/// Silence of a client after which the server asks for a sign of life, and the time limit for that
/// sign, in seconds.
const SILENT_CLIENT: u32 = 30;

impl PostgresBuilder {
    pub(super) fn new() -> Self {
        Self {
            schema: Schema::DEFAULT.to_owned(),
            replica: None,
            max_connections: 10,
            acquire_timeout: Duration::from_millis(1_500),
            statement_timeout: Some(Duration::from_secs(5)),
            deadline: Duration::from_secs(10),
        }
    }

    /// The schema of the tables, which should hold nothing else: 1 to 63 bytes, taken as they are.
    /// It is made when it is missing. Default: `tower_api_key`.
    pub fn schema(mut self, schema: impl Into<String>) -> Self {
        self.schema = schema.into();
        self
    }

    /// A replica of the database that answers [`find`](crate::KeyStore::find), on connections of
    /// its own. Everything else asks the primary, and so do lookups for five seconds after the
    /// replica has failed, taken over half a second or was behind. Default: none.
    ///
    /// It has to be a standby that replays the primary's write-ahead log (streaming replication).
    /// Each answer says how far the standby has replayed, and counts only when that is what the
    /// primary had written five seconds before, or more. So a replica that has stalled is left
    /// within five seconds, also where the primary is idle. A server that cannot say how far it is,
    /// such as a subscriber of logical replication, is never asked, and the log says so once; nor
    /// is a replica while the primary does not answer.
    ///
    /// A replica does not know yet what was issued or changed within these seconds; it takes no
    /// part where [`find_latest`](crate::KeyStore::find_latest) is asked. Keep
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
    /// and a batch of use take one each. A quarter, and at least one, is kept for lookups where
    /// there are several. The bus has two connections of its own for as long as it listens.
    /// Default: 10.
    ///
    /// # Panics
    ///
    /// When `most` is 0.
    pub fn max_connections(mut self, most: u32) -> Self {
        assert!(most > 0, "a store without connections finds no key");
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
    /// With it go limits for the server's side of a connection that has fallen silent: its TCP
    /// keepalive, and the idle time of a transaction, which is the [deadline](Self::deadline).
    ///
    /// They are parameters of the connection. `PgBouncer` refuses those that it does not know:
    /// choose none there, and set the limits for the role (`ALTER ROLE … SET statement_timeout`).
    pub fn statement_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.statement_timeout = timeout.into();
        self
    }

    /// Sets the time limit of a call of the store, its wait for a connection included; a batch of
    /// new keys has six times as long. Past it the call fails and its connection is closed, since a
    /// connection that a firewall has dropped brings no answer and no error. Nobody knows then
    /// whether a change was made. Default: 10 seconds.
    ///
    /// Choose more than the [statement timeout](Self::statement_timeout), after which a server that
    /// is there says so. Lookups for requests have the shorter
    /// [`lookup_deadline`](crate::CacheConfig::lookup_deadline) of the cache as well.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Connects to `url`, as in `postgres://user:password@host/database`, and makes the tables or
    /// brings them up to date.
    ///
    /// # Errors
    ///
    /// [`StoreErrorKind::Unavailable`](crate::StoreErrorKind::Unavailable) when the schema's name
    /// or a URL cannot be used, the server cannot be reached, or the tables cannot be made or were
    /// made by a later version of this crate. A replica need not be reachable yet.
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
            calls: Arc::new(Calls::new(self.deadline, self.max_connections)),
        })
    }

    /// Keeps keys in the database of an application's own pool: see [`PostgresStore::from_pool`].
    /// The pool's settings stay as they are; the builder's are those of a replica's URL, and the
    /// [deadline](Self::deadline).
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
        let connections = pool.options().get_max_connections();
        Ok(PostgresStore {
            listing_slots: listing_slots(&pool),
            primary: pool,
            shares_pool: true,
            replica,
            schema: Arc::new(schema),
            calls: Arc::new(Calls::new(self.deadline, connections)),
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
        let chosen = options.get_options().unwrap_or_default().to_owned();
        let limits = self.server_limits().into_iter();
        let missing = limits.filter(|(name, _)| !chosen.contains(name));
        Ok(missing.fold(options, |options, limit| options.options([limit])))
    }

    /// The limits that the server is asked to keep to.
    fn server_limits(&self) -> Vec<(&'static str, u128)> {
        let Some(statement) = self.statement_timeout else {
            return Vec::new();
        };
        // To the server, 0 would be no limit.
        let millis = |time: Duration| time.as_millis().max(1);
        vec![
            ("statement_timeout", millis(statement)),
            ("idle_in_transaction_session_timeout", millis(self.deadline)),
            ("tcp_keepalives_idle", SILENT_CLIENT.into()),
            ("tcp_keepalives_interval", u128::from(SILENT_CLIENT) / 3),
            ("tcp_user_timeout", u128::from(SILENT_CLIENT) * 1_000),
        ]
    }

    fn pool(&self, options: PgConnectOptions) -> PgPool {
        let patience = SIGN_OF_LIFE.min(self.acquire_timeout / 3);
        PgPoolOptions::new()
            .max_connections(self.max_connections)
            .acquire_timeout(self.acquire_timeout)
            // In the place of the pool's own test, which has no time limit: behind a firewall that
            // has dropped them, each idle connection would cost a call its whole time.
            .test_before_acquire(false)
            .before_acquire(move |connection, _| {
                let answer = timeout(patience, connection.ping());
                Box::pin(async move { Ok(matches!(answer.await, Ok(Ok(())))) })
            })
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
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}
