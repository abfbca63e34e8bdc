use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use rand::TryRng;
use rand::rngs::SysRng;
use serde::{Deserialize, Serialize};

use super::KeyId;
use crate::key::KeyDigest;

/// How much a key was used in one hour, or in the longer time that hours were added up to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageBucket {
    /// The beginning of that time.
    pub start: Timestamp,
    /// How many requests were let through.
    pub allowed: u64,
    /// How many requests with this key were refused, for whatever reason.
    pub denied: u64,
}

/// How long the time is that one [`UsageBucket`] tells of, in UTC.
///
/// ```
/// use tower_api_key::{BucketSize, UsageBucket};
///
/// let hour = |time: &str, allowed| UsageBucket { start: time.parse().unwrap(), allowed, denied: 0 };
/// let hours = [
///     hour("2026-11-23T10:00:00Z", 1),
///     hour("2026-11-23T23:00:00Z", 2),
///     hour("2026-11-24T00:00:00Z", 4),
/// ];
/// let days = BucketSize::Day.gather(hours);
/// assert_eq!(days, [hour("2026-11-23T00:00:00Z", 3), hour("2026-11-24T00:00:00Z", 4)]);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BucketSize {
    /// 24 hours from midnight on.
    Day,
    /// One hour, as stores count.
    Hour,
}

impl BucketSize {
    /// Adds up what [`ApiKeys::usage`](crate::ApiKeys::usage) tells, oldest first, to buckets of
    /// this size. Those without use are left out.
    pub fn gather(self, hours: impl IntoIterator<Item = UsageBucket>) -> Vec<UsageBucket> {
        let mut gathered: Vec<UsageBucket> = Vec::new();
        for hour in hours {
            let start = self.start(hour.start);
            match gathered.last_mut() {
                Some(last) if last.start == start => {
                    last.allowed = last.allowed.saturating_add(hour.allowed);
                    last.denied = last.denied.saturating_add(hour.denied);
                }
                _ => gathered.push(UsageBucket { start, ..hour }),
            }
        }
        gathered
    }

    /// The beginning of the bucket that `time` is in.
    pub fn start(self, time: Timestamp) -> Timestamp {
        let seconds = match self {
            Self::Day => 86_400,
            Self::Hour => 3_600,
        };
        let start = time.as_second().div_euclid(seconds) * seconds;
        Timestamp::from_second(start).unwrap_or(Timestamp::MIN)
    }
}

/// What one credential's use in one hour has grown by since it was last written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageDelta {
    /// The key.
    pub key: KeyId,
    /// The credential that the requests presented.
    pub credential: KeyDigest,
    /// The beginning of the hour.
    pub hour: Timestamp,
    /// Further requests let through.
    pub allowed: u64,
    /// Further requests refused.
    pub denied: u64,
    /// When the credential was last presented while it was valid, if it was.
    pub last_used_at: Option<Timestamp>,
}

/// Use that is recorded together, and once.
///
/// The answer to [`KeyRepository::record_usage`](crate::KeyRepository::record_usage) can be lost
/// after the batch was written. The same batch is then given again, and the store knows it by its
/// id. What was counted meanwhile goes into another batch.
///
/// ```
/// # use tower_api_key::UsageBatch;
/// let batch = UsageBatch::new(vec![]);
/// let again = batch.clone();
/// assert_eq!(batch.id, again.id);
/// assert_ne!(batch.id, UsageBatch::new(vec![]).id);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct UsageBatch {
    /// Identifies the batch, however often it is given to a store.
    pub id: UsageBatchId,
    /// The use that it adds.
    pub deltas: Vec<UsageDelta>,
}

impl UsageBatch {
    /// The time for which a store remembers the ids of the batches that it has recorded, at least:
    /// 24 hours. A batch that is given again later than that may count twice.
    pub const REMEMBERED_FOR: Duration = Duration::from_hours(24);

    /// Makes a batch with an id of its own.
    ///
    /// # Panics
    ///
    /// When the operating system has no randomness to give.
    pub fn new(deltas: Vec<UsageDelta>) -> Self {
        let mut random = [0; 16];
        SysRng
            .try_fill_bytes(&mut random)
            .expect("the operating system provides randomness");
        Self {
            id: UsageBatchId(u128::from_be_bytes(random)),
            deltas,
        }
    }
}

/// The identity of a [`UsageBatch`]: 128 random bits, shown as 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UsageBatchId(u128);

impl fmt::Display for UsageBatchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}
