//! Keys in PostgreSQL: a pool for the primary, another for a replica, one transaction for each
//! change.

mod batch;
mod calls;
mod credits;
mod deadlock;
mod lease;
mod migrations;
mod notifications;
mod open;
mod read;
mod replica;
mod rows;
mod schema;
mod timestamptz;
mod url;
mod write;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use sqlx::PgPool;

pub use open::PostgresBuilder;

use self::calls::Calls;
use self::deadlock::again_after_deadlock;
use self::notifications::Notifications;
use self::replica::Replica;
use self::schema::Schema;
use super::sql::listing_slots::ListingSlots;
use super::{
    EventCursor, EventPage, KeyChange, KeyFilter, KeyInsertion, KeyPage, KeyRepository, KeyStore,
    StoreError, StoredKey,
};
use crate::invalidation::InvalidationBus;
use crate::key::KeyDigest;
use crate::record::{
    Credential, CreditBalance, CreditGrant, CreditReturn, Key, KeyEvent, KeyId, KeyRecord,
    UsageBatch, UsageBucket,
};

/// Keys in a PostgreSQL database, version 14 or later. Clones share the connections.
///
/// ```no_run
/// # use tower_api_key::{ApiKeys, PostgresStore, StoreError};
/// # async fn f() -> Result<(), StoreError> {
/// let store = PostgresStore::connect("postgres://api@db.example/app?sslmode=verify-full").await?;
/// // Or with a schema of another name, lookups from a replica, and so on:
/// let store = PostgresStore::builder()
///     .schema("api_keys")
///     .replica("postgres://api@replica.example/app?sslmode=verify-full")
///     .connect("postgres://api@db.example/app?sslmode=verify-full")
///     .await?;
/// let keys = ApiKeys::builder(store).build();
/// # Ok(())
/// # }
/// ```
///
/// # The database
///
/// The tables are in a schema of their own, by default `tower_api_key`. Any number of instances
/// that start at once make it, or bring it up to date, once. The role needs the right to create a
/// schema in the database, or to own one that exists; where the tables are up to date it needs no
/// more than to read and write them.
///
/// What has returned is on the disk, whatever `synchronous_commit` says: a revocation survives a
/// power cut. A fail-over to a standby that is not synchronous can lose it, as any write.
///
/// # Connections
///
/// TLS takes the feature `postgres-tls`, and `sslmode=verify-full` in the URL: sqlx's default,
/// `prefer`, checks no certificate, and falls back to plain text. `sslrootcert` names a file with
/// the root of a provider that uses its own.
///
/// An instance takes up to [`max_connections`](PostgresBuilder::max_connections), and two more for
/// its bus: one listens, and the other one sends the notifications whose arrival proves that it
/// can. Listings of keys, of use and of events take a quarter of the connections at most, so that
/// lookups find one.
///
/// A firewall may drop a connection without a word to either end. Each wait of this store is
/// bounded, since sqlx sets no TCP keepalive on its sockets:
///
/// | a connection that | is closed after |
/// | --- | --- |
/// | has a call under way | the [deadline](PostgresBuilder::deadline), 10 seconds, or when its caller gives up |
/// | has lain idle | a quarter of a second, when the next call wants it; that call gets a new one |
/// | is given back to the pool | a second |
/// | listens | [`max_bus_silence`](crate::CacheConfig::max_bus_silence), 5 seconds |
///
/// The server's side of such a connection ends about a minute later, by `tcp_keepalives_idle` and
/// `tcp_user_timeout`. A transaction that receives no further statement ends after the deadline, by
/// `idle_in_transaction_session_timeout`, so that the row which it has locked can be changed again.
///
/// # `PgBouncer`
///
/// Statements are prepared once for each connection. A `PgBouncer` that pools transactions has to
/// know them (`max_prepared_statements`, since its version 1.21), and refuses a
/// [statement timeout](PostgresBuilder::statement_timeout).
///
/// It also accepts `LISTEN` and delivers nothing. The bus notices that, says so in the log, and is
/// not trusted: every key is then read again each
/// [`max_bus_silence`](crate::CacheConfig::max_bus_silence). For notifications, connect to
/// PostgreSQL itself, or to a `PgBouncer` that pools sessions.
///
/// # Notifications
///
/// Triggers notify listeners of each change of a key or credential on a [channel](Self::channel),
/// in its own transaction and also where it was made by plain SQL; use alone is no change. A
/// payload is `*` for everything, as after a change of more than 100 keys, or `key_… tag …`: the
/// key's id, and for each of the credentials concerned the first 8 bytes of the digest as 16
/// hexadecimal digits.
///
/// Plain SQL that changes a key, its credentials or its budget also raises the key's version,
/// unless the statement does so itself. A change that the store has computed before is then not
/// applied. A key that is deleted and inserted again goes on from its last version.
///
/// The triggers also run in a session whose `session_replication_role` is `replica`. Where they are
/// switched off (`ALTER TABLE … DISABLE TRIGGER`), a change is in force after the cache's
/// [`ttl`](crate::CacheConfig::ttl), and a change of the store that was computed before can undo
/// it.
///
/// Plain SQL may lock rows in another order than the store, and PostgreSQL then ends one of the two
/// transactions. One of the store is begun again, within its
/// [deadline](PostgresBuilder::deadline).
#[derive(Clone)]
pub struct PostgresStore {
    primary: PgPool,
    shares_pool: bool,
    replica: Option<Arc<Replica>>,
    /// Limits how many listings read at a time.
    listing_slots: ListingSlots,
    schema: Arc<Schema>,
    calls: Arc<Calls>,
}

impl PostgresStore {
    /// Connects to `url`, as in `postgres://user:password@host/database`, with every default of the
    /// [builder](Self::builder).
    ///
    /// # Errors
    ///
    /// As [`PostgresBuilder::connect`].
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        Self::builder().connect(url).await
    }

    /// Keeps keys in the database of an application's own pool, in the schema `tower_api_key`. The
    /// pool's settings stay as they are; its `acquire_timeout` should be below the cache's
    /// [`lookup_deadline`](crate::CacheConfig::lookup_deadline), and a `statement_timeout` should
    /// end what nobody waits for any more. The bus makes its two connections by the pool's options,
    /// without its hooks.
    ///
    /// # Errors
    ///
    /// As [`PostgresBuilder::connect`].
    pub async fn from_pool(pool: PgPool) -> Result<Self, StoreError> {
        Self::builder().with_pool(pool).await
    }

    /// Sets how to connect.
    pub fn builder() -> PostgresBuilder {
        PostgresBuilder::new()
    }

    /// The channel of [`NOTIFY`](Self#notifications): `tower_api_key`, and for a schema of another
    /// name that name after a dot, or a hash of it where that would pass PostgreSQL's 63 bytes.
    pub fn channel(&self) -> &str {
        self.schema.channel()
    }

    /// Closes the connections, after what they are doing; later calls on any clone fail. A pool
    /// that was given to the store stays open.
    pub async fn close(&self) {
        if let Some(replica) = &self.replica {
            replica.close().await;
        }
        if !self.shares_pool {
            self.primary.close().await;
        }
    }
}

/// A listing waits for its turn as long as a statement waits for a connection.
fn listing_slots(primary: &PgPool) -> ListingSlots {
    let options = primary.options();
    ListingSlots::share_of(options.get_max_connections(), options.get_acquire_timeout())
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore")
            .field("schema", &self.schema.name())
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl KeyStore for PostgresStore {
    async fn find(&self, digest: &KeyDigest) -> Result<Option<StoredKey>, StoreError> {
        if let Some(replica) = &self.replica
            && let Some(answer) = replica.find(&self.primary, &self.schema, digest).await
        {
            return Ok(answer);
        }
        self.find_latest(digest).await
    }

    async fn find_latest(&self, digest: &KeyDigest) -> Result<Option<StoredKey>, StoreError> {
        let found = read::find(&self.primary, &self.schema, digest);
        self.calls.for_request(found).await
    }

    fn bus(&self) -> Option<Arc<dyn InvalidationBus>> {
        let (pool, channel) = (self.primary.clone(), self.schema.channel());
        Some(Arc::new(Notifications::new(pool, channel)))
    }
}

#[async_trait]
impl KeyRepository for PostgresStore {
    async fn insert(
        &self,
        record: &KeyRecord,
        credential: &Credential,
        event: &KeyEvent,
    ) -> Result<(), StoreError> {
        let insert = || write::insert(&self.primary, &self.schema, record, credential, event);
        self.calls.other(again_after_deadlock(insert)).await
    }

    async fn insert_all(&self, batch: &[KeyInsertion]) -> Result<Vec<bool>, StoreError> {
        let insert = || batch::insert(&self.primary, &self.schema, batch);
        self.calls.batch(again_after_deadlock(insert)).await
    }

    async fn get(&self, id: KeyId) -> Result<Option<Key>, StoreError> {
        let key = read::key(&self.primary, &self.schema, id);
        self.calls.other(key).await
    }

    async fn list(&self, filter: &KeyFilter) -> Result<KeyPage, StoreError> {
        let _slot = self.listing_slots.take().await?;
        let page = read::page(&self.primary, &self.schema, filter);
        self.calls.other(page).await
    }

    async fn apply(&self, change: &KeyChange) -> Result<bool, StoreError> {
        let apply = || write::apply(&self.primary, &self.schema, change);
        self.calls.other(again_after_deadlock(apply)).await
    }

    async fn record_usage(&self, batch: &UsageBatch) -> Result<(), StoreError> {
        let record = || write::record_usage(&self.primary, &self.schema, batch);
        self.calls.other(again_after_deadlock(record)).await
    }

    async fn usage(
        &self,
        id: KeyId,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<Vec<UsageBucket>, StoreError> {
        let _slot = self.listing_slots.take().await?;
        let usage = read::usage(&self.primary, &self.schema, id, from, to);
        self.calls.other(usage).await
    }

    async fn events(
        &self,
        id: KeyId,
        before: Option<EventCursor>,
        limit: usize,
    ) -> Result<EventPage, StoreError> {
        let _slot = self.listing_slots.take().await?;
        let events = read::events(&self.primary, &self.schema, id, before, limit);
        self.calls.other(events).await
    }

    async fn take_credits(
        &self,
        id: KeyId,
        at_least: u64,
        at_most: u64,
        now: Timestamp,
    ) -> Result<Option<CreditGrant>, StoreError> {
        let take = || credits::take(&self.primary, &self.schema, id, at_least, at_most, now);
        self.calls.for_request(again_after_deadlock(take)).await
    }

    async fn give_back_credits(&self, returns: &[CreditReturn]) -> Result<(), StoreError> {
        if returns.is_empty() {
            return Ok(());
        }
        let give_back = || credits::give_back(&self.primary, &self.schema, returns);
        self.calls.other(again_after_deadlock(give_back)).await
    }

    async fn credits(&self, ids: &[KeyId]) -> Result<Vec<(KeyId, CreditBalance)>, StoreError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let _slot = self.listing_slots.take().await?;
        let balances = credits::balances(&self.primary, &self.schema, ids);
        self.calls.other(balances).await
    }
}
