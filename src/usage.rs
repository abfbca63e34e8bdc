//! Counting use without a write per request.
//!
//! Every request adds to a counter of its credential, in memory. The counters that moved are
//! gathered and written in one batch every [`FLUSH_INTERVAL`], and at shutdown. A crash loses at
//! most what one interval gathered; a store that fails loses nothing.
//!
//! A batch that was given to the store and not answered may be stored or not. It is given again as
//! it was, under the same id, so that it counts once. What was gathered meanwhile waits for it, in
//! batches of its own.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use crate::cache::CachedKey;
use crate::clock::Moment;
use crate::key::KeyDigest;
use crate::record::{KeyId, UsageBatch, UsageDelta};
use crate::store::{KeyRepository, StoreError};

/// How often gathered use is written, unless the builder says otherwise.
pub const FLUSH_INTERVAL: Duration = Duration::from_secs(10);

/// Gathers the use of all credentials and writes it.
#[derive(Debug, Default)]
pub(crate) struct UsageRecorder {
    gathered: Mutex<Gathered>,
    /// The batch that the store was given last, until the store has answered that it is written.
    /// Locked while batches are written, so that a shutdown waits for a flush that is under way.
    unanswered: tokio::sync::Mutex<Option<UsageBatch>>,
}

#[derive(Debug, Default)]
struct Gathered {
    /// The keys whose cells hold anything, each once.
    keys: Vec<Arc<CachedKey>>,
    /// Use that has left its cell: because an hour ended, or because a flush did not come to it.
    deltas: HashMap<(KeyId, KeyDigest, Timestamp), UsageDelta>,
}

/// The use of one credential that was not written yet. It is a part of the cached key, beside what
/// else a request needs of it.
#[derive(Debug, Default)]
pub(crate) struct UsageCell(Mutex<Pending>);

#[derive(Clone, Copy, Debug, Default)]
struct Pending {
    /// Hours since the Unix epoch.
    hour: i64,
    allowed: u64,
    denied: u64,
    last_used_nanos: Option<i64>,
}

/// What became of a request, as far as counting goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It was let through.
    Allowed,
    /// The credential was good, but the request was refused.
    Refused,
    /// The credential itself had ended or was not accepted.
    NotValid,
}

impl UsageRecorder {
    /// The most (credential, hour) pairs that are kept for a store that does not take them.
    const MAX_DELTAS: usize = 1_000_000;
    /// How many are written in one call of the store.
    const BATCH: usize = 1_000;

    /// Counts one request.
    #[inline]
    pub(crate) fn record(&self, key: &Arc<CachedKey>, outcome: Outcome, now: Moment) {
        const HOUR_NANOS: i64 = 3_600_000_000_000;
        let hour = now.wall_nanos().div_euclid(HOUR_NANOS);
        let mut pending = key.usage.pending();
        if pending.is_empty() {
            pending.hour = hour;
            self.gathered().keys.push(Arc::clone(key));
        } else if pending.hour != hour {
            let ended = std::mem::replace(
                &mut *pending,
                Pending {
                    hour,
                    ..Pending::default()
                },
            );
            self.gathered().add(ended.delta(key));
        }
        match outcome {
            Outcome::Allowed => pending.allowed += 1,
            Outcome::Refused | Outcome::NotValid => pending.denied += 1,
        }
        if outcome != Outcome::NotValid {
            pending.last_used_nanos = pending.last_used_nanos.max(Some(now.wall_nanos()));
        }
    }

    /// Counts a request that an outer layer let through as refused after all.
    pub(crate) fn record_refusal_after_all(&self, key: &Arc<CachedKey>, now: Moment) {
        let mut pending = key.usage.pending();
        if pending.allowed > 0 {
            pending.allowed -= 1;
            pending.denied += 1;
            return;
        }
        // A flush came between, so it counts as both.
        drop(pending);
        self.record(key, Outcome::Refused, now);
    }

    /// Writes everything gathered so far.
    pub(crate) async fn flush(&self, store: &dyn KeyRepository) -> Result<(), StoreError> {
        let mut unanswered = self.unanswered.lock().await;
        if let Some(batch) = &*unanswered {
            store.record_usage(batch).await?;
            *unanswered = None;
        }
        let mut taken = Taken {
            recorder: self,
            deltas: self.take(),
        };
        while !taken.deltas.is_empty() {
            let rest = taken.deltas.len().saturating_sub(Self::BATCH);
            let batch = UsageBatch::new(taken.deltas.split_off(rest));
            // Before the store is asked: it may panic, and the caller may give up.
            store.record_usage(unanswered.insert(batch)).await?;
            *unanswered = None;
        }
        Ok(())
    }

    /// Returns how many counted requests are not written, once a flush that ends has let go of its
    /// batch. A batch without an answer counts as not written, although the store may have it.
    pub(crate) async fn unwritten(&self) -> u64 {
        const PATIENCE: Duration = Duration::from_secs(1);
        let of = |delta: &UsageDelta| delta.allowed.saturating_add(delta.denied);
        let unanswered = tokio::time::timeout(PATIENCE, self.unanswered.lock()).await;
        let unanswered: u64 = unanswered
            .iter()
            .flat_map(|batch| batch.iter().flat_map(|batch| &batch.deltas))
            .map(of)
            .sum();
        let gathered = self.gathered();
        let deltas: u64 = gathered.deltas.values().map(of).sum();
        let keys = gathered.keys.clone();
        drop(gathered);
        let cells = keys.iter().map(|key| {
            let pending = key.usage.pending();
            pending.allowed.saturating_add(pending.denied)
        });
        unanswered
            .saturating_add(deltas)
            .saturating_add(cells.sum())
    }

    /// Empties the cells.
    fn take(&self) -> Vec<UsageDelta> {
        let keys = std::mem::take(&mut self.gathered().keys);
        let taken: Vec<_> = keys
            .iter()
            .map(|key| std::mem::take(&mut *key.usage.pending()).delta(key))
            .collect();
        let mut gathered = self.gathered();
        gathered.extend(taken);
        std::mem::take(&mut gathered.deltas).into_values().collect()
    }

    fn gathered(&self) -> MutexGuard<'_, Gathered> {
        self.gathered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Use that a flush has not given to the store yet. It is given back however the flush ends, also
/// by a panic of the store.
struct Taken<'a> {
    recorder: &'a UsageRecorder,
    deltas: Vec<UsageDelta>,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let deltas = std::mem::take(&mut self.deltas);
        self.recorder.gathered().extend(deltas);
    }
}

impl Gathered {
    fn extend(&mut self, deltas: Vec<UsageDelta>) {
        for delta in deltas {
            self.add(delta);
        }
    }

    fn add(&mut self, delta: UsageDelta) {
        if self.deltas.len() >= UsageRecorder::MAX_DELTAS {
            tracing::error!("usage dropped: the key store has not taken any for a long time");
            self.deltas.clear();
        }
        let place = (delta.key, delta.credential, delta.hour);
        self.deltas
            .entry(place)
            .and_modify(|known| {
                known.allowed += delta.allowed;
                known.denied += delta.denied;
                known.last_used_at = known.last_used_at.max(delta.last_used_at);
            })
            .or_insert(delta);
    }
}

impl UsageCell {
    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.allowed == 0 && self.denied == 0
    }

    /// What is to be written of it.
    fn delta(self, key: &CachedKey) -> UsageDelta {
        let second = self.hour.saturating_mul(3_600);
        let last_used = self.last_used_nanos.map(|nanos| nanos.div_euclid(1_000));
        UsageDelta {
            key: key.record.id,
            credential: key.credential.digest,
            hour: Timestamp::from_second(second).unwrap_or(Timestamp::MAX),
            allowed: self.allowed,
            denied: self.denied,
            last_used_at: last_used.and_then(|micros| Timestamp::from_microsecond(micros).ok()),
        }
    }
}
