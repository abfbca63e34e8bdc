//! Keys in SQLite: one writer, several readers, one transaction for each change.

mod batch;
mod changes;
mod credits;
mod migrations;
mod open;
#[cfg(test)]
mod plans;
mod read;
mod rows;
mod write;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use sqlx::SqlitePool;

use super::sql::deadline::within;
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

/// Time limit of a call, for a disk that does not answer. SQLite itself waits for another process's
/// lock, for five seconds.
const DEADLINE: Duration = Duration::from_secs(30);

/// The same for a batch of new keys.
const BATCH_DEADLINE: Duration = Duration::from_mins(3);

/// Keys in an SQLite database. Clones share the connections.
///
/// The tables' names begin with `tower_api_key_`, so the database can be the application's own;
/// they are made and brought up to date when the store is opened, by any number of processes at
/// once. Ids are text, times are microseconds since the Unix epoch, and scopes, limits, metadata
/// and addresses are JSON.
///
/// What has returned is on the disk: a revocation survives a power cut. Several processes can open
/// one file, on one machine. What another one changes, a command-line tool or plain SQL included,
/// is noticed within a second, whatever is in the cache: triggers keep a table of changes, which is
/// looked at four times a second. Such a change also raises the key's version, so that no change
/// that was computed before undoes it; `REPLACE` is noticed whatever the writer's pragmas are.
#[derive(Clone)]
pub struct SqliteStore {
    readers: SqlitePool,
    /// A pool of one connection, so that writes queue here and not at SQLite's file lock, where
    /// they would poll.
    writer: SqlitePool,
    /// The connections of the listings, and a limit for how many of them read at a time.
    listings: SqlitePool,
    listing_slots: ListingSlots,
    shares_pool: bool,
    /// Whether other processes can change the database.
    is_shared: bool,
}

impl SqliteStore {
    /// Opens a database, and makes the file where it is missing, but not its directory.
    ///
    /// `database` is a path (`keys.db`), a URL (`sqlite:keys.db`, with sqlx's query parameters), or
    /// `sqlite::memory:` for a database that lives as long as this store and its clones. Any other
    /// scheme, as in `postgresql:`, is refused rather than taken as the name of a file. A path that
    /// begins with letters and a colon needs `sqlite:` or `./` before it.
    ///
    /// A file is put into WAL mode and synchronized on every commit. A write that another process
    /// blocks for five seconds fails, and so does a call that the disk has not answered after
    /// thirty, or after three minutes for a batch of new keys.
    ///
    /// # Errors
    ///
    /// [`StoreErrorKind::Unavailable`](super::StoreErrorKind::Unavailable) when `database` names
    /// no SQLite database, it cannot be opened, or it was written by a later version of this crate.
    pub async fn open(database: &str) -> Result<Self, StoreError> {
        let options = open::options(database)?;
        let writer = open::writer(&options).await?;
        migrations::run(&writer).await?;
        let in_memory = open::in_memory(database);
        let (readers, listings) = if in_memory {
            // A database in memory belongs to its one connection.
            (writer.clone(), writer.clone())
        } else {
            (open::readers(&options), open::listing_readers(&options))
        };
        let connections = listings.options().get_max_connections();
        let slots = usize::try_from(connections).unwrap_or(1);
        Ok(Self {
            readers,
            writer,
            listings,
            listing_slots: ListingSlots::new(slots, open::PATIENCE),
            shares_pool: false,
            is_shared: !in_memory,
        })
    }

    /// Keeps keys in the database of an application's own pool, beside its tables and its
    /// migrations.
    ///
    /// The pool's settings stay as they are: leave `synchronous` at SQLite's default, `FULL`, so
    /// that a revocation survives a power cut, `foreign_keys` at sqlx's default, on, and choose
    /// WAL mode so that reads do not wait for writes. Listings take a quarter of the connections at
    /// most, so that lookups find one. A pool of `sqlite::memory:` needs
    /// `max_connections(1)` and neither an idle timeout nor a maximum lifetime.
    ///
    /// # Errors
    ///
    /// [`StoreErrorKind::Unavailable`](super::StoreErrorKind::Unavailable) when the tables cannot
    /// be made, or were made by a later version of this crate.
    pub async fn from_pool(pool: SqlitePool) -> Result<Self, StoreError> {
        migrations::run(&pool).await?;
        let (connections, patience) = {
            let options = pool.options();
            (options.get_max_connections(), options.get_acquire_timeout())
        };
        Ok(Self {
            readers: pool.clone(),
            listings: pool.clone(),
            listing_slots: ListingSlots::share_of(connections, patience),
            writer: pool,
            shares_pool: true,
            is_shared: true,
        })
    }

    /// Closes the connections, after what they are doing; later calls on any clone fail. A pool
    /// that was given to [`SqliteStore::from_pool`] stays open.
    pub async fn close(&self) {
        if !self.shares_pool {
            self.readers.close().await;
            self.listings.close().await;
            self.writer.close().await;
        }
    }
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore").finish_non_exhaustive()
    }
}

#[async_trait]
impl KeyStore for SqliteStore {
    async fn find(&self, digest: &KeyDigest) -> Result<Option<StoredKey>, StoreError> {
        within(DEADLINE, read::find(&self.readers, digest)).await
    }

    fn bus(&self) -> Option<Arc<dyn InvalidationBus>> {
        let changes = || Arc::new(changes::Changes::new(self.readers.clone())) as _;
        self.is_shared.then(changes)
    }
}

#[async_trait]
impl KeyRepository for SqliteStore {
    async fn insert(
        &self,
        record: &KeyRecord,
        credential: &Credential,
        event: &KeyEvent,
    ) -> Result<(), StoreError> {
        within(
            DEADLINE,
            write::insert(&self.writer, record, credential, event),
        )
        .await
    }

    async fn insert_all(&self, batch: &[KeyInsertion]) -> Result<Vec<bool>, StoreError> {
        within(BATCH_DEADLINE, batch::insert(&self.writer, batch)).await
    }

    async fn get(&self, id: KeyId) -> Result<Option<Key>, StoreError> {
        within(DEADLINE, read::key(&self.readers, id)).await
    }

    async fn list(&self, filter: &KeyFilter) -> Result<KeyPage, StoreError> {
        let _slot = self.listing_slots.take().await?;
        within(DEADLINE, read::page(&self.listings, filter)).await
    }

    async fn apply(&self, change: &KeyChange) -> Result<bool, StoreError> {
        within(DEADLINE, write::apply(&self.writer, change)).await
    }

    async fn record_usage(&self, batch: &UsageBatch) -> Result<(), StoreError> {
        within(DEADLINE, write::record_usage(&self.writer, batch)).await
    }

    async fn usage(
        &self,
        id: KeyId,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<Vec<UsageBucket>, StoreError> {
        let _slot = self.listing_slots.take().await?;
        within(DEADLINE, read::usage(&self.listings, id, from, to)).await
    }

    async fn events(
        &self,
        id: KeyId,
        before: Option<EventCursor>,
        limit: usize,
    ) -> Result<EventPage, StoreError> {
        let _slot = self.listing_slots.take().await?;
        let events = read::events(&self.listings, id, before, limit);
        within(DEADLINE, events).await
    }

    async fn take_credits(
        &self,
        id: KeyId,
        at_least: u64,
        at_most: u64,
        now: Timestamp,
    ) -> Result<Option<CreditGrant>, StoreError> {
        within(
            DEADLINE,
            credits::take(&self.writer, id, at_least, at_most, now),
        )
        .await
    }

    async fn give_back_credits(&self, returns: &[CreditReturn]) -> Result<(), StoreError> {
        if returns.is_empty() {
            return Ok(());
        }
        within(DEADLINE, credits::give_back(&self.writer, returns)).await
    }

    async fn credits(&self, ids: &[KeyId]) -> Result<Vec<(KeyId, CreditBalance)>, StoreError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let _slot = self.listing_slots.take().await?;
        within(DEADLINE, credits::balances(&self.listings, ids)).await
    }
}
