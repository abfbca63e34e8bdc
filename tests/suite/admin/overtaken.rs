use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use jiff::Timestamp;
use tower_api_key::{
    ApiKeys, Credential, CreditBalance, CreditGrant, CreditReturn, EventCursor, EventPage, Key,
    KeyChange, KeyDigest, KeyEvent, KeyFilter, KeyId, KeyPage, KeyRecord, KeyRepository, KeyStore,
    MemoryStore, StoreError, StoredKey, UsageBatch, UsageBucket,
};

use super::clock;

/// A store in which another process is faster, when a test says so: it changes something after a
/// key was read and before the next change is written. It can also answer with the wrong key.
#[derive(Clone, Default)]
pub(super) struct Overtaken {
    inner: MemoryStore,
    first: Arc<Mutex<Option<Overtaking>>>,
    mistaken: Arc<Mutex<Option<KeyDigest>>>,
}

type Overtaking = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Overtaken {
    /// Lets another process do this before the next change is written.
    pub(super) fn before_next_change<F>(&self, overtaking: impl FnOnce(ApiKeys) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let other = ApiKeys::builder(self.inner.clone()).clock(clock()).build();
        *self.first.lock().unwrap() = Some(Box::pin(overtaking(other)));
    }

    /// Answers every lookup with this credential from now on, as a corrupt index does.
    pub(super) fn mistake_all_for(&self, digest: KeyDigest) {
        *self.mistaken.lock().unwrap() = Some(digest);
    }
}

impl fmt::Debug for Overtaken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Overtaken").finish_non_exhaustive()
    }
}

#[async_trait]
impl KeyStore for Overtaken {
    async fn find(&self, digest: &KeyDigest) -> Result<Option<StoredKey>, StoreError> {
        let mistaken = *self.mistaken.lock().unwrap();
        self.inner.find(mistaken.as_ref().unwrap_or(digest)).await
    }
}

#[async_trait]
impl KeyRepository for Overtaken {
    async fn apply(&self, change: &KeyChange) -> Result<bool, StoreError> {
        let first = self.first.lock().unwrap().take();
        if let Some(first) = first {
            first.await;
        }
        self.inner.apply(change).await
    }

    async fn insert(
        &self,
        record: &KeyRecord,
        credential: &Credential,
        event: &KeyEvent,
    ) -> Result<(), StoreError> {
        self.inner.insert(record, credential, event).await
    }

    async fn get(&self, id: KeyId) -> Result<Option<Key>, StoreError> {
        self.inner.get(id).await
    }

    async fn list(&self, filter: &KeyFilter) -> Result<KeyPage, StoreError> {
        self.inner.list(filter).await
    }

    async fn record_usage(&self, batch: &UsageBatch) -> Result<(), StoreError> {
        self.inner.record_usage(batch).await
    }

    async fn usage(
        &self,
        id: KeyId,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<Vec<UsageBucket>, StoreError> {
        self.inner.usage(id, from, to).await
    }

    async fn events(
        &self,
        id: KeyId,
        before: Option<EventCursor>,
        limit: usize,
    ) -> Result<EventPage, StoreError> {
        self.inner.events(id, before, limit).await
    }

    async fn take_credits(
        &self,
        id: KeyId,
        at_least: u64,
        at_most: u64,
        now: Timestamp,
    ) -> Result<Option<CreditGrant>, StoreError> {
        self.inner.take_credits(id, at_least, at_most, now).await
    }

    async fn give_back_credits(&self, returns: &[CreditReturn]) -> Result<(), StoreError> {
        self.inner.give_back_credits(returns).await
    }

    async fn credits(&self, ids: &[KeyId]) -> Result<Vec<(KeyId, CreditBalance)>, StoreError> {
        self.inner.credits(ids).await
    }
}
