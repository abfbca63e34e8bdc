use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fmt;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::time::Instant;

use super::{
    EventCursor, EventPage, KeyChange, KeyFilter, KeyInsertion, KeyPage, KeyRepository, KeyStore,
    StoreError, StoredKey,
};
use crate::key::KeyDigest;
use crate::record::{
    Credential, CreditBalance, CreditGrant, CreditReturn, Key, KeyEvent, KeyId, KeyRecord,
    UsageBatch, UsageBatchId, UsageBucket,
};

/// Keys in memory, for tests and first steps: gone when the process ends. Clones share the keys.
///
/// It is also the worked example of the two contracts: one lock makes each method atomic.
#[derive(Clone, Default)]
pub struct MemoryStore {
    state: Arc<Mutex<State>>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No method panics half-way through a change, so a poisoned state is a whole one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Default)]
struct State {
    keys: BTreeMap<KeyId, Key>,
    owners: HashMap<KeyDigest, KeyId>,
    usage: BTreeMap<(KeyId, Timestamp), UsageBucket>,
    /// The batches of use that were recorded lately, and these again by time.
    batches: HashSet<UsageBatchId>,
    batches_by_time: VecDeque<(Instant, UsageBatchId)>,
    events: HashMap<KeyId, Vec<KeyEvent>>,
    credits: HashMap<KeyId, CreditBalance>,
}

impl State {
    /// Remembers a batch of use, and returns false when it was recorded already.
    fn remember(&mut self, batch: UsageBatchId, now: Instant) -> bool {
        while let Some((time, old)) = self.batches_by_time.front()
            && now.duration_since(*time) > UsageBatch::REMEMBERED_FOR
        {
            self.batches.remove(old);
            self.batches_by_time.pop_front();
        }
        let is_new = self.batches.insert(batch);
        if is_new {
            self.batches_by_time.push_back((now, batch));
        }
        is_new
    }

    /// Writes a new key, and tells whether it did: not when its id or digest exists already.
    fn insert(&mut self, record: &KeyRecord, credential: &Credential, event: &KeyEvent) -> bool {
        if self.keys.contains_key(&record.id) || self.owners.contains_key(&credential.digest) {
            return false;
        }
        self.owners.insert(credential.digest, record.id);
        if let Some(plan) = &record.credits {
            let balance = CreditBalance::set(plan, event.at);
            self.credits.insert(record.id, balance);
        }
        let key = Key {
            record: record.clone(),
            credentials: vec![credential.clone()],
        };
        self.keys.insert(record.id, key);
        self.events.insert(record.id, vec![event.clone()]);
        true
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore")
            .field("keys", &self.state().keys.len())
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl KeyStore for MemoryStore {
    async fn find(&self, digest: &KeyDigest) -> Result<Option<StoredKey>, StoreError> {
        let state = self.state();
        let key = state.owners.get(digest).and_then(|id| state.keys.get(id));
        Ok(key.and_then(|key| {
            let credential = key
                .credentials
                .iter()
                .find(|known| known.digest == *digest)?;
            Some(StoredKey {
                record: key.record.clone(),
                credential: credential.clone(),
            })
        }))
    }
}

#[async_trait]
impl KeyRepository for MemoryStore {
    async fn insert(
        &self,
        record: &KeyRecord,
        credential: &Credential,
        event: &KeyEvent,
    ) -> Result<(), StoreError> {
        if self.state().insert(record, credential, event) {
            Ok(())
        } else {
            Err(StoreError::duplicate(record.id))
        }
    }

    async fn insert_all(&self, batch: &[KeyInsertion]) -> Result<Vec<bool>, StoreError> {
        let state = &mut *self.state();
        let written = batch
            .iter()
            .map(|new| state.insert(&new.record, &new.credential, &new.event));
        Ok(written.collect())
    }

    async fn get(&self, id: KeyId) -> Result<Option<Key>, StoreError> {
        Ok(self.state().keys.get(&id).cloned())
    }

    async fn list(&self, filter: &KeyFilter) -> Result<KeyPage, StoreError> {
        let state = self.state();
        let below = filter.after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut fitting = state
            .keys
            .range((Bound::Unbounded, below))
            .rev()
            .filter(|(_, key)| {
                let record = &key.record;
                filter
                    .owner
                    .as_ref()
                    .is_none_or(|owner| record.owner.as_ref() == Some(owner))
                    && filter
                        .environment
                        .as_ref()
                        .is_none_or(|name| record.environment == *name)
                    && filter
                        .status
                        .is_none_or(|(status, now)| record.status(now) == status)
            });
        let keys: Vec<_> = fitting
            .by_ref()
            .take(filter.limit)
            .map(|(_, key)| key.clone())
            .collect();
        let last = keys.last().map(|key| key.record.id);
        let next = last.filter(|_| fitting.next().is_some());
        Ok(KeyPage::new(keys, next))
    }

    async fn apply(&self, change: &KeyChange) -> Result<bool, StoreError> {
        let state = &mut *self.state();
        let id = change.record.id;
        let Some(key) = state.keys.get_mut(&id) else {
            return Ok(false);
        };
        if key.record.version != change.expected_version() {
            return Ok(false);
        }
        if let Some(credential) = &change.add_credential {
            if state.owners.contains_key(&credential.digest) {
                return Err(StoreError::duplicate(id));
            }
            state.owners.insert(credential.digest, id);
        }
        let removed = key.credentials.extract_if(.., |known| {
            change.remove_credentials.contains(&known.digest)
        });
        for credential in removed {
            state.owners.remove(&credential.digest);
        }
        if let Some(end) = change.end_credentials_at {
            for credential in &mut key.credentials {
                credential.expires_at = Some(credential.expires_at.map_or(end, |own| own.min(end)));
            }
        }
        key.credentials.extend(change.add_credential.clone());
        key.record = change.record.clone();
        match &change.record.credits {
            Some(plan) if plan.since_version == change.record.version => {
                let balance = CreditBalance::set(plan, change.event.at);
                state.credits.insert(id, balance);
            }
            Some(_) => {}
            None => drop(state.credits.remove(&id)),
        }
        state
            .events
            .entry(id)
            .or_default()
            .push(change.event.clone());
        Ok(true)
    }

    async fn record_usage(&self, batch: &UsageBatch) -> Result<(), StoreError> {
        let state = &mut *self.state();
        if batch.deltas.is_empty() || !state.remember(batch.id, Instant::now()) {
            return Ok(());
        }
        for delta in &batch.deltas {
            let Some(key) = state.keys.get_mut(&delta.key) else {
                continue;
            };
            let bucket = state
                .usage
                .entry((delta.key, delta.hour))
                .or_insert(UsageBucket {
                    start: delta.hour,
                    allowed: 0,
                    denied: 0,
                });
            bucket.allowed = bucket.allowed.saturating_add(delta.allowed);
            bucket.denied = bucket.denied.saturating_add(delta.denied);
            let used = key
                .credentials
                .iter_mut()
                .find(|known| known.digest == delta.credential);
            if let Some(credential) = used {
                credential.last_used_at = credential.last_used_at.max(delta.last_used_at);
            }
        }
        Ok(())
    }

    async fn usage(
        &self,
        id: KeyId,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<Vec<UsageBucket>, StoreError> {
        if from >= to {
            return Ok(Vec::new());
        }
        Ok(self
            .state()
            .usage
            .range((id, from)..(id, to))
            .map(|(_, bucket)| *bucket)
            .collect())
    }

    async fn events(
        &self,
        id: KeyId,
        before: Option<EventCursor>,
        limit: usize,
    ) -> Result<EventPage, StoreError> {
        let state = self.state();
        let events = state.events.get(&id).map_or(&[][..], Vec::as_slice);
        // The position of an event is its index.
        let end = before.and_then(|before| usize::try_from(before.position()).ok());
        let end = end.map_or(events.len(), |end| end.min(events.len()));
        let start = end.saturating_sub(limit);
        let page = events[start..end].iter().rev().cloned().collect();
        let next = EventCursor::new(start as u64);
        Ok(EventPage::new(
            page,
            (start > 0 && start < end).then_some(next),
        ))
    }

    async fn take_credits(
        &self,
        id: KeyId,
        at_least: u64,
        at_most: u64,
        now: Timestamp,
    ) -> Result<Option<CreditGrant>, StoreError> {
        let state = &mut *self.state();
        Ok(state.credits.get_mut(&id).map(|balance| {
            *balance = balance.at(now);
            CreditGrant {
                granted: balance.take(at_least, at_most),
                left: *balance,
            }
        }))
    }

    async fn give_back_credits(&self, returns: &[CreditReturn]) -> Result<(), StoreError> {
        let state = &mut *self.state();
        for back in returns {
            if let Some(balance) = state.credits.get_mut(&back.key) {
                balance.give_back(back.credits, back.period);
            }
        }
        Ok(())
    }

    async fn credits(&self, ids: &[KeyId]) -> Result<Vec<(KeyId, CreditBalance)>, StoreError> {
        let state = self.state();
        let known = |id: &KeyId| Some((*id, *state.credits.get(id)?));
        Ok(ids.iter().filter_map(known).collect())
    }
}
