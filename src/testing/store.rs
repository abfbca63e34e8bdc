use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::watch;

use crate::invalidation::InvalidationBus;
use crate::key::KeyDigest;
use crate::record::{
    Credential, CreditBalance, CreditGrant, CreditReturn, Key, KeyEvent, KeyId, KeyRecord,
    UsageBatch, UsageBucket,
};
use crate::store::{
    EventCursor, EventPage, KeyChange, KeyFilter, KeyInsertion, KeyPage, KeyRepository, KeyStore,
    StoreError, StoredKey,
};

/// Any store, made to count, to wait and to fail on command. Clones obey together.
///
/// ```
/// use tower_api_key::{ApiKeys, MemoryStore, NewKey, testing::ScriptedStore};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = ScriptedStore::new(MemoryStore::new());
/// let keys = ApiKeys::builder(store.clone()).build();
/// keys.issue(NewKey::named("billing")).await?;
/// assert_eq!((store.lookups(), store.writes()), (0, 1));
///
/// store.fail(true);
/// assert!(keys.issue(NewKey::named("another")).await.is_err());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct ScriptedStore<S> {
    inner: S,
    replica: Option<Arc<dyn KeyStore>>,
    script: Arc<Script>,
}

#[derive(Debug)]
struct Script {
    lookups: watch::Sender<usize>,
    writes: watch::Sender<usize>,
    lookups_held: watch::Sender<bool>,
    writes_held: watch::Sender<bool>,
    failing: watch::Sender<bool>,
}

impl<S> ScriptedStore<S> {
    /// `inner`, which obeys as soon as it is told something.
    pub fn new(inner: S) -> Self {
        let script = Script {
            lookups: watch::Sender::new(0),
            writes: watch::Sender::new(0),
            lookups_held: watch::Sender::new(false),
            writes_held: watch::Sender::new(false),
            failing: watch::Sender::new(false),
        };
        Self {
            inner,
            replica: None,
            script: Arc::new(script),
        }
    }

    /// Has `replica` answer [`find`](KeyStore::find), as it may where a store reads from replicas:
    /// late, or never up to date again. Default: the store itself answers.
    #[must_use]
    pub fn replica(mut self, replica: impl KeyStore) -> Self {
        self.replica = Some(Arc::new(replica));
        self
    }

    /// How many lookups of a key were begun, by either method.
    pub fn lookups(&self) -> usize {
        *self.script.lookups.borrow()
    }

    /// How many writes were done; a batch is one.
    pub fn writes(&self) -> usize {
        *self.script.writes.borrow()
    }

    /// Waits until that many lookups have been begun, and have read what is stored.
    pub async fn begun(&self, lookups: usize) {
        reached(&self.script.lookups, lookups).await;
    }

    /// Waits until that many writes have been done, whether or not they were answered.
    pub async fn written(&self, writes: usize) {
        reached(&self.script.writes, writes).await;
    }

    /// Holds the answers of lookups back, or lets them go. A lookup reads what is stored first
    /// and is then held: what it answers can be old by then.
    pub fn hold_lookups(&self, hold: bool) {
        self.script.lookups_held.send_replace(hold);
    }

    /// Holds the answers of writes back, or lets them go. The write itself is done before.
    pub fn hold_writes(&self, hold: bool) {
        self.script.writes_held.send_replace(hold);
    }

    /// Makes every call fail, or succeed again. A call that is being held learns it when it is
    /// let go.
    pub fn fail(&self, fail: bool) {
        self.script.failing.send_replace(fail);
    }

    fn check(&self) -> Result<(), StoreError> {
        if *self.script.failing.borrow() {
            return Err(StoreError::unavailable("the test says so"));
        }
        Ok(())
    }

    async fn look_up<T>(
        &self,
        reading: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let found = reading.await;
        self.script.lookups.send_modify(|count| *count += 1);
        released(&self.script.lookups_held).await;
        self.check()?;
        found
    }

    async fn write<T>(
        &self,
        done: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        self.check()?;
        let output = done.await;
        self.script.writes.send_modify(|count| *count += 1);
        released(&self.script.writes_held).await;
        self.check()?;
        output
    }
}

async fn reached(count: &watch::Sender<usize>, least: usize) {
    // The sender is in the store itself, so it is not dropped while anybody waits.
    let _ = count.subscribe().wait_for(|count| *count >= least).await;
}

async fn released(held: &watch::Sender<bool>) {
    let _ = held.subscribe().wait_for(|held| !held).await;
}

#[async_trait]
impl<S: KeyStore> KeyStore for ScriptedStore<S> {
    async fn find(&self, digest: &KeyDigest) -> Result<Option<StoredKey>, StoreError> {
        match &self.replica {
            Some(replica) => self.look_up(replica.find(digest)).await,
            None => self.look_up(self.inner.find(digest)).await,
        }
    }

    async fn find_latest(&self, digest: &KeyDigest) -> Result<Option<StoredKey>, StoreError> {
        self.look_up(self.inner.find_latest(digest)).await
    }

    fn bus(&self) -> Option<Arc<dyn InvalidationBus>> {
        self.inner.bus()
    }
}

#[async_trait]
impl<S: KeyRepository> KeyRepository for ScriptedStore<S> {
    async fn insert(
        &self,
        record: &KeyRecord,
        credential: &Credential,
        event: &KeyEvent,
    ) -> Result<(), StoreError> {
        self.write(self.inner.insert(record, credential, event))
            .await
    }

    async fn insert_all(&self, batch: &[KeyInsertion]) -> Result<Vec<bool>, StoreError> {
        self.write(self.inner.insert_all(batch)).await
    }

    async fn get(&self, id: KeyId) -> Result<Option<Key>, StoreError> {
        self.check()?;
        self.inner.get(id).await
    }

    async fn list(&self, filter: &KeyFilter) -> Result<KeyPage, StoreError> {
        self.check()?;
        self.inner.list(filter).await
    }

    async fn apply(&self, change: &KeyChange) -> Result<bool, StoreError> {
        self.write(self.inner.apply(change)).await
    }

    async fn record_usage(&self, batch: &UsageBatch) -> Result<(), StoreError> {
        self.write(self.inner.record_usage(batch)).await
    }

    async fn usage(
        &self,
        id: KeyId,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<Vec<UsageBucket>, StoreError> {
        self.check()?;
        self.inner.usage(id, from, to).await
    }

    async fn events(
        &self,
        id: KeyId,
        before: Option<EventCursor>,
        limit: usize,
    ) -> Result<EventPage, StoreError> {
        self.check()?;
        self.inner.events(id, before, limit).await
    }

    async fn take_credits(
        &self,
        id: KeyId,
        at_least: u64,
        at_most: u64,
        now: Timestamp,
    ) -> Result<Option<CreditGrant>, StoreError> {
        self.write(self.inner.take_credits(id, at_least, at_most, now))
            .await
    }

    async fn give_back_credits(&self, returns: &[CreditReturn]) -> Result<(), StoreError> {
        self.write(self.inner.give_back_credits(returns)).await
    }

    async fn credits(&self, ids: &[KeyId]) -> Result<Vec<(KeyId, CreditBalance)>, StoreError> {
        self.check()?;
        self.inner.credits(ids).await
    }
}
