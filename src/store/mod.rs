//! Where keys are kept: [`KeyStore`], the one method that verification needs, and
//! [`KeyRepository`], the write side.
//!
//! A service that only verifies implements, or is given, a [`KeyStore`]; [`MemoryStore`] and the
//! database stores are both. The contracts below are numbered, and the conformance suite in the
//! `testing` feature checks them one by one, over the crate's stores and over yours.

mod error;
mod memory;
mod page;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod sql;
#[cfg(feature = "sqlite")]
mod sqlite;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;

pub use error::{StoreError, StoreErrorKind};
pub use memory::MemoryStore;
pub use page::{EventCursor, EventPage, InvalidEventCursor, KeyPage, UnreadableKey};
#[cfg(feature = "postgres")]
pub use postgres::{PostgresBuilder, PostgresStore};
#[cfg(feature = "sqlite")]
pub use sqlite::SqliteStore;

use crate::invalidation::InvalidationBus;
use crate::key::KeyDigest;
use crate::record::{
    Credential, CreditBalance, CreditGrant, CreditReturn, Key, KeyEvent, KeyId, KeyRecord,
    KeyStatus, UsageBatch, UsageBucket,
};

/// Finds keys: all that a service which only verifies needs.
///
/// # Contract
///
/// 1. A credential that was written before the call began is found by its digest, with the key it
///    belongs to, also when either has expired, is disabled or revoked. Deciding is the verifier's.
///    Where a store reads from replicas, [`find`](Self::find) may be late by as much as they are;
///    [`find_latest`](Self::find_latest) never is.
/// 2. The key and the credential are of one point in time: never half of a change.
/// 3. An unknown digest is `Ok(None)`. A store that cannot tell answers with an error instead:
///    an error is an outage to the client, `None` is a denial.
/// 4. A row that cannot be read is a [`StoreErrorKind::Corrupt`] error that names the key.
#[async_trait]
pub trait KeyStore: fmt::Debug + Send + Sync + 'static {
    /// The credential with this digest, and its key.
    async fn find(&self, digest: &KeyDigest) -> Result<Option<StoredKey>, StoreError>;

    /// The same, and it sees every change that was committed before the call began: what has to
    /// follow an invalidation, where an answer from before the change would be believed again.
    ///
    /// A store that has replicas asks its primary. The default is [`find`](Self::find), which is
    /// right for all others.
    async fn find_latest(&self, digest: &KeyDigest) -> Result<Option<StoredKey>, StoreError> {
        self.find(digest).await
    }

    /// The bus over which the store itself tells what was changed in it, if it has one. Default:
    /// none.
    fn bus(&self) -> Option<Arc<dyn InvalidationBus>> {
        None
    }
}

/// What a lookup finds: a credential and the key that it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredKey {
    /// The key.
    pub record: KeyRecord,
    /// The one credential that was asked for.
    pub credential: Credential,
}

/// Keeps keys: the write side of a store.
///
/// # Contract
///
/// 1. Each method is atomic: it happens wholly or, on an error, not at all, and the next call on
///    any handle of the store sees it. Of [`insert_all`](Self::insert_all) each key is.
/// 2. [`insert`](Self::insert) and [`apply`](Self::apply) write their event in the same
///    transaction.
/// 3. A digest or id that exists already is a [`StoreErrorKind::Duplicate`] error, also when the
///    credential has long ended: no secret can come back under another key. Only a change
///    [removes](KeyChange::remove_credentials) credentials; the registry never names an imported
///    one.
/// 4. [`apply`](Self::apply) changes nothing unless the stored version is the expected one. Of
///    any number of concurrent changes computed from one version exactly one is applied.
/// 5. Times are kept to the microsecond.
/// 6. [`insert_all`](Self::insert_all) does with each key of the batch, in their order, what
///    [`insert`](Self::insert) does, but passes over those that are duplicates, of stored keys or
///    of earlier ones in the batch: they leave no trace and are told apart from those that were
///    written. After an error the same batch can be given again.
/// 7. [`insert`](Self::insert), [`insert_all`](Self::insert_all), and a change to the version that
///    its own [`CreditPlan`](crate::CreditPlan) names, [set](CreditBalance::set) the balance of the
///    key, at the time of the event. A change to any other version leaves the balance as it is,
///    unless there is no plan any more: then it goes.
/// 8. Of any number of concurrent calls of [`take_credits`](Self::take_credits) each takes what no
///    other one takes, and nothing that is not there. What is [given
///    back](Self::give_back_credits) goes to the balance it was taken from, or to none.
/// 9. A batch of use counts once: [`record_usage`](Self::record_usage) passes over a batch whose
///    [id](UsageBatch::id) it has recorded within the last [24 hours](UsageBatch::REMEMBERED_FOR).
///    The id is written in the same transaction as the counts.
#[async_trait]
pub trait KeyRepository: KeyStore {
    /// Writes a new key with its first credential.
    async fn insert(
        &self,
        record: &KeyRecord,
        credential: &Credential,
        event: &KeyEvent,
    ) -> Result<(), StoreError>;

    /// Writes many new keys, and tells for each of them, in their order, whether it was written.
    /// False: its id or digest exists already.
    ///
    /// The default inserts them one by one. A database does better with the whole batch in one
    /// transaction; callers keep batches to a few thousand keys.
    async fn insert_all(&self, batch: &[KeyInsertion]) -> Result<Vec<bool>, StoreError> {
        let mut written = Vec::with_capacity(batch.len());
        for new in batch {
            let inserted = self.insert(&new.record, &new.credential, &new.event);
            match inserted.await {
                Ok(()) => written.push(true),
                Err(error) if error.kind() == StoreErrorKind::Duplicate => written.push(false),
                Err(error) => return Err(error),
            }
        }
        Ok(written)
    }

    /// The key with this id and all its credentials, oldest first.
    async fn get(&self, id: KeyId) -> Result<Option<Key>, StoreError>;

    /// The keys that fit `filter`, newest first, that is by id downwards. A row that cannot be read
    /// is [named](KeyPage::unreadable) on the page and keeps no other key from it.
    async fn list(&self, filter: &KeyFilter) -> Result<KeyPage, StoreError>;

    /// Applies a change and tells whether it did: false when the key's version is no longer the
    /// expected one, or there is no such key.
    async fn apply(&self, change: &KeyChange) -> Result<bool, StoreError>;

    /// Adds the batch to the counts of use, and moves `last_used_at` forwards, never back. What
    /// belongs to a key or credential that does not exist is passed over.
    ///
    /// After an error the same batch is given again, as the answer may have been lost and not the
    /// batch: see the contract's clause 9.
    async fn record_usage(&self, batch: &UsageBatch) -> Result<(), StoreError>;

    /// The hours from `from` up to, but without, `to` in which the key was used, oldest first,
    /// all its credentials added up.
    async fn usage(
        &self,
        id: KeyId,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<Vec<UsageBucket>, StoreError>;

    /// A page of at most `limit` events of a key, newest first, in the reverse of the order in
    /// which they were written. With `before`, which is the [`next`](EventPage::next) of another
    /// page, only events that are older than that page.
    async fn events(
        &self,
        id: KeyId,
        before: Option<EventCursor>,
        limit: usize,
    ) -> Result<EventPage, StoreError>;

    /// [Takes](CreditBalance::take) credits out of a key's balance [as it is at
    /// `now`](CreditBalance::at), for an instance to spend. None for a key without a budget.
    async fn take_credits(
        &self,
        id: KeyId,
        at_least: u64,
        at_most: u64,
        now: Timestamp,
    ) -> Result<Option<CreditGrant>, StoreError>;

    /// [Gives back](CreditBalance::give_back) what was not spent. What belongs to a key or to a
    /// period that does not exist any more is passed over. It is not asked to do it again after an
    /// error, for then it may have been done.
    async fn give_back_credits(&self, returns: &[CreditReturn]) -> Result<(), StoreError>;

    /// The balances of those of `ids` that have a budget, as they are stored: a refill that is due
    /// may not have been made.
    async fn credits(&self, ids: &[KeyId]) -> Result<Vec<(KeyId, CreditBalance)>, StoreError>;
}

/// A new key as [`KeyRepository::insert_all`] takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyInsertion {
    /// The key.
    pub record: KeyRecord,
    /// Its first credential.
    pub credential: Credential,
    /// What to write into the audit trail.
    pub event: KeyEvent,
}

/// One atomic change of a key.
///
/// ```
/// use tower_api_key::{Key, KeyChange, KeyEvent};
///
/// /// The change that renames `key`.
/// fn renamed(key: &Key, name: &str, event: KeyEvent) -> KeyChange {
///     let mut record = key.record.clone();
///     record.version += 1;
///     record.name = name.to_owned();
///     KeyChange::new(record, event)
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyChange {
    /// The key as it shall be. Its `version` is one above the one that must be stored now; its
    /// id, prefix, environment and `created_at` do not change.
    pub record: KeyRecord,
    /// Ends every credential of the key that has no end yet, or a later one, at this time.
    pub end_credentials_at: Option<Timestamp>,
    /// A further credential, added after the others were given their end.
    pub add_credential: Option<Credential>,
    /// Digests of credentials of the key that are deleted. What is no credential of the key is
    /// passed over. The key's use and its events stay.
    pub remove_credentials: Vec<KeyDigest>,
    /// What to write into the audit trail.
    pub event: KeyEvent,
}

impl KeyChange {
    /// The change that makes the key what `record` says, and leaves its credentials alone.
    pub fn new(record: KeyRecord, event: KeyEvent) -> Self {
        Self {
            record,
            end_credentials_at: None,
            add_credential: None,
            remove_credentials: Vec::new(),
            event,
        }
    }

    /// The version that the stored key must have for the change to apply. 0, which no stored key
    /// has, where `record.version` is not above 1.
    pub fn expected_version(&self) -> u64 {
        self.record.version.saturating_sub(1)
    }
}

/// Which keys to list.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyFilter {
    /// Only keys of this owner.
    pub owner: Option<String>,
    /// Only keys of this environment.
    pub environment: Option<String>,
    /// Only keys that have this status at that time.
    pub status: Option<(KeyStatus, Timestamp)>,
    /// Only keys whose id is below this one: the page after the one that ended with it.
    pub after: Option<KeyId>,
    /// At most this many. Default: 50.
    pub limit: usize,
}

impl Default for KeyFilter {
    fn default() -> Self {
        Self {
            owner: None,
            environment: None,
            status: None,
            after: None,
            limit: 50,
        }
    }
}

#[async_trait]
impl<S: KeyStore + ?Sized> KeyStore for Arc<S> {
    async fn find(&self, digest: &KeyDigest) -> Result<Option<StoredKey>, StoreError> {
        (**self).find(digest).await
    }

    async fn find_latest(&self, digest: &KeyDigest) -> Result<Option<StoredKey>, StoreError> {
        (**self).find_latest(digest).await
    }

    fn bus(&self) -> Option<Arc<dyn InvalidationBus>> {
        (**self).bus()
    }
}

#[async_trait]
impl<S: KeyRepository + ?Sized> KeyRepository for Arc<S> {
    async fn insert(
        &self,
        record: &KeyRecord,
        credential: &Credential,
        event: &KeyEvent,
    ) -> Result<(), StoreError> {
        (**self).insert(record, credential, event).await
    }

    async fn insert_all(&self, batch: &[KeyInsertion]) -> Result<Vec<bool>, StoreError> {
        (**self).insert_all(batch).await
    }

    async fn get(&self, id: KeyId) -> Result<Option<Key>, StoreError> {
        (**self).get(id).await
    }

    async fn list(&self, filter: &KeyFilter) -> Result<KeyPage, StoreError> {
        (**self).list(filter).await
    }

    async fn apply(&self, change: &KeyChange) -> Result<bool, StoreError> {
        (**self).apply(change).await
    }

    async fn record_usage(&self, batch: &UsageBatch) -> Result<(), StoreError> {
        (**self).record_usage(batch).await
    }

    async fn usage(
        &self,
        id: KeyId,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<Vec<UsageBucket>, StoreError> {
        (**self).usage(id, from, to).await
    }

    async fn events(
        &self,
        id: KeyId,
        before: Option<EventCursor>,
        limit: usize,
    ) -> Result<EventPage, StoreError> {
        (**self).events(id, before, limit).await
    }

    async fn take_credits(
        &self,
        id: KeyId,
        at_least: u64,
        at_most: u64,
        now: Timestamp,
    ) -> Result<Option<CreditGrant>, StoreError> {
        (**self).take_credits(id, at_least, at_most, now).await
    }

    async fn give_back_credits(&self, returns: &[CreditReturn]) -> Result<(), StoreError> {
        (**self).give_back_credits(returns).await
    }

    async fn credits(&self, ids: &[KeyId]) -> Result<Vec<(KeyId, CreditBalance)>, StoreError> {
        (**self).credits(ids).await
    }
}
