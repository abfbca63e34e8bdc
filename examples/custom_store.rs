//! A store of one's own: keys in one JSON file, for a service with a few hundred keys and no
//! database.
//!
//! ```console
//! $ cargo run --example custom_store --features testing -- keys.json
//! $ cargo test --example custom_store --features testing
//! ```
//!
//! The first issues a key, uses it and lists what the file holds: run it twice. The second runs the
//! conformance suite. `docs/custom_store.md` walks through it.

use std::collections::BTreeMap;
use std::env;
use std::error::Error;
use std::fs::{self, File, TryLockError};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use tower_api_key::{
    ApiKeys, Attempt, Credential, CreditBalance, CreditGrant, CreditReturn, EventCursor, EventPage,
    Key, KeyChange, KeyDigest, KeyEvent, KeyFilter, KeyId, KeyPage, KeyRecord, KeyRepository,
    KeyStore, NewKey, Requirements, StoreError, StoredKey, UsageBatch, UsageBucket, UsageDelta,
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let path = env::args_os().nth(1).map(PathBuf::from);
    let path = path.unwrap_or_else(|| env::temp_dir().join("custom_store.json"));
    let keys = ApiKeys::builder(JsonStore::open(&path)?).build();

    let issued = keys
        .issue(NewKey::named("billing").scopes(["orders:read"]))
        .await?;
    let needs = Requirements::new().scopes(["orders:read"]);
    let attempt = Attempt::new(issued.secret().expose());
    let verified = keys.verifier().verify(attempt, &needs).await?;
    println!("{:?} may read orders", verified.principal().name());

    // Its use is in memory until now.
    keys.shutdown(Duration::from_secs(10)).await?;
    let known = keys.list(&KeyFilter::default()).await?.keys;
    println!("{} has these keys:", path.display());
    for key in known {
        let (record, start) = (&key.record, &key.credentials[0].start);
        println!("{} {} {start}…", record.id, record.name);
    }
    Ok(())
}

// ---- The store ----

/// Keys in a JSON file, which is written anew for each change. Clones share the keys.
///
/// All keys are in memory; the file is for the next start. One process at a time can open it.
#[derive(Clone, Debug)]
struct JsonStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    /// What readers see: always a whole state, and one that is on the disk.
    current: RwLock<Arc<Keys>>,
    /// Held from reading the current state until the next one is in its place.
    writing: Mutex<()>,
    /// Keeps other processes away until the last clone is gone.
    _lock: File,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
struct Keys {
    entries: BTreeMap<KeyId, Entry>,
    /// The batches of use that were recorded lately, each with the time.
    batches: BTreeMap<String, Timestamp>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
struct Entry {
    key: Key,
    events: Vec<KeyEvent>,
    usage: BTreeMap<Timestamp, UsageBucket>,
    credits: Option<CreditBalance>,
}

const REMEMBERED_FOR: SignedDuration =
    SignedDuration::from_secs(UsageBatch::REMEMBERED_FOR.as_secs().cast_signed());

impl JsonStore {
    /// Opens the file at `path`, or begins without a key where there is none.
    fn open(path: &Path) -> Result<Self, StoreError> {
        let lock = File::create(path.with_extension("lock")).map_err(StoreError::unavailable)?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => StoreError::unavailable("another process has the file"),
            TryLockError::Error(error) => StoreError::unavailable(error),
        })?;
        let keys = match fs::read(path) {
            Ok(text) => serde_json::from_slice(&text).map_err(StoreError::unavailable)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Keys::default(),
            Err(error) => return Err(StoreError::unavailable(error)),
        };
        Ok(Self(Arc::new(Inner {
            path: path.to_owned(),
            current: RwLock::new(Arc::new(keys)),
            writing: Mutex::default(),
            _lock: lock,
        })))
    }

    fn keys(&self) -> Arc<Keys> {
        self.0.keys()
    }

    /// Lets `change` work on a copy, and puts the copy on the disk and then in place, if it says
    /// that it has changed anything.
    ///
    /// On a thread that may block, and that goes on to the end when the caller goes away.
    async fn write(
        &self,
        change: impl FnOnce(&mut Keys) -> Result<bool, StoreError> + Send + 'static,
    ) -> Result<bool, StoreError> {
        let inner = Arc::clone(&self.0);
        let written = tokio::task::spawn_blocking(move || {
            let _writing = inner.writing.lock().unwrap_or_else(PoisonError::into_inner);
            let mut next = Keys::clone(&inner.keys());
            if !change(&mut next)? {
                return Ok(false);
            }
            save(&inner.path, &next).map_err(StoreError::unavailable)?;
            let mut current = inner
                .current
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            *current = Arc::new(next);
            Ok(true)
        });
        written.await.map_err(StoreError::unavailable)?
    }
}

impl Inner {
    fn keys(&self) -> Arc<Keys> {
        // The lock is held for no longer than it takes to count a reference, so it may be taken on
        // a thread that must not block. The state under it is replaced as a whole: poison means
        // nothing.
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Replaces the file by a whole one: after a crash there is the old one or the new one.
fn save(path: &Path, keys: &Keys) -> io::Result<()> {
    let beside = path.with_extension("tmp");
    let mut file = BufWriter::new(File::create(&beside)?);
    serde_json::to_writer_pretty(&mut file, keys)?;
    file.flush()?;
    file.get_ref().sync_all()?;
    fs::rename(&beside, path)?;
    // The new name is in the directory, which has to be on the disk too.
    #[cfg(unix)]
    if let Some(directory) = path.parent() {
        let here = directory.as_os_str().is_empty();
        File::open(if here { Path::new(".") } else { directory })?.sync_all()?;
    }
    Ok(())
}

impl Keys {
    fn find(&self, digest: &KeyDigest) -> Option<(&Entry, &Credential)> {
        // Nobody but the cache asks, so looking at each of a few hundred keys is no matter.
        let mut credentials = self.entries.values().flat_map(|entry| {
            let all = entry.key.credentials.iter();
            all.map(move |credential| (entry, credential))
        });
        credentials.find(|(_, credential)| credential.digest == *digest)
    }

    fn record(&mut self, delta: &UsageDelta) {
        let Some(entry) = self.entries.get_mut(&delta.key) else {
            return;
        };
        let bucket = entry.usage.entry(delta.hour).or_insert(UsageBucket {
            start: delta.hour,
            allowed: 0,
            denied: 0,
        });
        bucket.allowed = bucket.allowed.saturating_add(delta.allowed);
        bucket.denied = bucket.denied.saturating_add(delta.denied);
        for credential in &mut entry.key.credentials {
            if credential.digest == delta.credential {
                // `None` is less than any time.
                credential.last_used_at = credential.last_used_at.max(delta.last_used_at);
            }
        }
    }
}

#[async_trait]
impl KeyStore for JsonStore {
    async fn find(&self, digest: &KeyDigest) -> Result<Option<StoredKey>, StoreError> {
        let keys = self.keys();
        let found = keys.find(digest);
        Ok(found.map(|(entry, credential)| StoredKey {
            record: entry.key.record.clone(),
            credential: credential.clone(),
        }))
    }
}

#[async_trait]
impl KeyRepository for JsonStore {
    async fn insert(
        &self,
        record: &KeyRecord,
        credential: &Credential,
        event: &KeyEvent,
    ) -> Result<(), StoreError> {
        let (id, digest) = (record.id, credential.digest);
        let entry = Entry {
            key: Key {
                record: record.clone(),
                credentials: vec![credential.clone()],
            },
            events: vec![event.clone()],
            usage: BTreeMap::new(),
            credits: record
                .credits
                .map(|plan| CreditBalance::set(&plan, event.at)),
        };
        let insert = move |keys: &mut Keys| {
            if keys.entries.contains_key(&id) || keys.find(&digest).is_some() {
                return Err(StoreError::duplicate(id));
            }
            keys.entries.insert(id, entry);
            Ok(true)
        };
        self.write(insert).await.map(|_| ())
    }

    async fn get(&self, id: KeyId) -> Result<Option<Key>, StoreError> {
        Ok(self.keys().entries.get(&id).map(|entry| entry.key.clone()))
    }

    async fn list(&self, filter: &KeyFilter) -> Result<KeyPage, StoreError> {
        let fits = |record: &KeyRecord| {
            let owner = filter.owner.as_ref();
            let environment = filter.environment.as_ref();
            filter.after.is_none_or(|after| record.id < after)
                && (owner.is_none() || record.owner.as_ref() == owner)
                && environment.is_none_or(|name| record.environment == *name)
                && filter
                    .status
                    .is_none_or(|(status, now)| record.status(now) == status)
        };
        let keys = self.keys();
        // Ids sort by the time they were made.
        let newest_first = keys.entries.values().rev().map(|entry| &entry.key);
        let mut fitting = newest_first.filter(|key| fits(&key.record));
        let page: Vec<Key> = fitting.by_ref().take(filter.limit).cloned().collect();
        let last = page.last().map(|key| key.record.id);
        let next = last.filter(|_| fitting.next().is_some());
        Ok(KeyPage::new(page, next))
    }

    async fn apply(&self, change: &KeyChange) -> Result<bool, StoreError> {
        let change = change.clone();
        self.write(move |keys| {
            let id = change.record.id;
            let added = change.add_credential.as_ref();
            let taken = added.is_some_and(|credential| keys.find(&credential.digest).is_some());
            let Some(entry) = keys.entries.get_mut(&id) else {
                return Ok(false);
            };
            if entry.key.record.version != change.expected_version() {
                return Ok(false);
            }
            if taken {
                return Err(StoreError::duplicate(id));
            }
            if let Some(end) = change.end_credentials_at {
                for credential in &mut entry.key.credentials {
                    let own = credential.expires_at.unwrap_or(end);
                    credential.expires_at = Some(own.min(end));
                }
            }
            let removed = &change.remove_credentials;
            let credentials = &mut entry.key.credentials;
            credentials.retain(|credential| !removed.contains(&credential.digest));
            credentials.extend(change.add_credential);
            match &change.record.credits {
                // This change is the one that sets it.
                Some(plan) if plan.since_version == change.record.version => {
                    entry.credits = Some(CreditBalance::set(plan, change.event.at));
                }
                Some(_) => {}
                None => entry.credits = None,
            }
            entry.key.record = change.record;
            entry.events.push(change.event);
            Ok(true)
        })
        .await
    }

    async fn record_usage(&self, batch: &UsageBatch) -> Result<(), StoreError> {
        let batch = batch.clone();
        self.write(move |keys| {
            let now = Timestamp::now();
            // A batch that is here already comes again because its answer was lost.
            if batch.deltas.is_empty() || keys.batches.insert(batch.id.to_string(), now).is_some() {
                return Ok(false);
            }
            keys.batches
                .retain(|_, time| now.duration_since(*time) <= REMEMBERED_FOR);
            for delta in &batch.deltas {
                keys.record(delta);
            }
            Ok(true)
        })
        .await
        .map(|_| ())
    }

    async fn usage(
        &self,
        id: KeyId,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<Vec<UsageBucket>, StoreError> {
        let keys = self.keys();
        let buckets = keys
            .entries
            .get(&id)
            .into_iter()
            .flat_map(|entry| entry.usage.values());
        Ok(buckets
            .filter(|bucket| from <= bucket.start && bucket.start < to)
            .copied()
            .collect())
    }

    async fn events(
        &self,
        id: KeyId,
        before: Option<EventCursor>,
        limit: usize,
    ) -> Result<EventPage, StoreError> {
        let keys = self.keys();
        let events = keys.entries.get(&id).map_or(&[][..], |entry| &entry.events);
        // The position of an event is how many there were before it.
        let end = before.and_then(|before| usize::try_from(before.position()).ok());
        let end = end.map_or(events.len(), |end| end.min(events.len()));
        let start = end.saturating_sub(limit);
        let has_more = 0 < start && start < end;
        let next = has_more.then(|| EventCursor::new(start as u64));
        let newest_first = events[start..end].iter().rev().cloned().collect();
        Ok(EventPage::new(newest_first, next))
    }

    async fn take_credits(
        &self,
        id: KeyId,
        at_least: u64,
        at_most: u64,
        now: Timestamp,
    ) -> Result<Option<CreditGrant>, StoreError> {
        let (sender, receiver) = std::sync::mpsc::channel();
        self.write(move |keys| {
            let entry = keys.entries.get_mut(&id);
            let Some(balance) = entry.and_then(|entry| entry.credits.as_mut()) else {
                return Ok(false);
            };
            *balance = balance.at(now);
            let granted = balance.take(at_least, at_most);
            let left = *balance;
            // Nobody spends them before they are off the balance on the disk.
            let _ = sender.send(CreditGrant { granted, left });
            Ok(granted > 0)
        })
        .await?;
        Ok(receiver.try_recv().ok())
    }

    async fn give_back_credits(&self, returns: &[CreditReturn]) -> Result<(), StoreError> {
        let returns = returns.to_vec();
        self.write(move |keys| {
            let mut changed = false;
            for back in returns {
                let entry = keys.entries.get_mut(&back.key);
                if let Some(balance) = entry.and_then(|entry| entry.credits.as_mut()) {
                    changed |= balance.give_back(back.credits, back.period);
                }
            }
            Ok(changed)
        })
        .await
        .map(|_| ())
    }

    async fn credits(&self, ids: &[KeyId]) -> Result<Vec<(KeyId, CreditBalance)>, StoreError> {
        let keys = self.keys();
        let balance = |id: &KeyId| Some((*id, keys.entries.get(id)?.credits?));
        Ok(ids.iter().filter_map(balance).collect())
    }
}

#[cfg(test)]
mod tests {
    use tower_api_key::testing::conformance;
    use tower_api_key::{ApiKeys, KeyFilter, NewKey};

    use super::JsonStore;

    #[tokio::test(flavor = "multi_thread")]
    async fn it_keeps_the_contracts() {
        let directory = tempfile::tempdir().unwrap();
        let store = JsonStore::open(&directory.path().join("keys.json")).unwrap();
        conformance::check(async || store.clone()).await;
    }

    #[tokio::test]
    async fn what_was_written_is_in_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys.json");
        let keys = ApiKeys::builder(JsonStore::open(&path).unwrap()).build();
        let issued = keys.issue(NewKey::named("billing")).await.unwrap();
        let revoked = keys.revoke(issued.key().record.id).await.unwrap();
        JsonStore::open(&path).expect_err("one process at a time");

        // As if this process had ended just now.
        let copy = directory.path().join("copy.json");
        std::fs::copy(&path, &copy).unwrap();
        let keys = ApiKeys::builder(JsonStore::open(&copy).unwrap()).build();
        let page = keys.list(&KeyFilter::default()).await.unwrap();
        assert_eq!(page.keys, [revoked.into_key()]);
    }

    #[test]
    fn a_file_that_cannot_be_read_is_not_opened() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys.json");
        std::fs::write(&path, r#"{"key_01": {}}"#).unwrap();
        JsonStore::open(&path).expect_err("half of the keys would be none of them");
    }
}
