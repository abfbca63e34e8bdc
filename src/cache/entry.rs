use std::sync::Arc;

use crate::clock::{Moment, saturating_nanos};
use crate::limit::{Subject, SubjectId};
use crate::record::{Credential, KeyRecord, KeyStatus};
use crate::store::StoredKey;
use crate::usage::UsageCell;

/// A key as verification needs it: what is stored, and all that can be worked out beforehand.
#[derive(Debug)]
pub(crate) struct CachedKey {
    pub(crate) record: KeyRecord,
    pub(crate) credential: Credential,
    /// Whom limits count for: the key itself, and its owner.
    pub(crate) key_subject: Subject,
    pub(crate) owner_subject: Option<Subject>,
    pub(crate) usage: Arc<UsageCell>,
    /// When the credential or the key ends, in wall-clock nanoseconds: whichever comes first.
    ends_at: i64,
    /// The generation that had begun before the store was asked.
    pub(super) generation: u64,
    /// When the store was asked, in monotonic nanoseconds: what it answers may be as old.
    asked_at: u64,
}

impl CachedKey {
    pub(crate) fn new(stored: StoredKey, generation: u64, asked_at: u64) -> Self {
        let StoredKey { record, credential } = stored;
        let ends = [record.expires_at, credential.expires_at];
        let owner = record.owner.as_deref();
        Self {
            key_subject: Subject::new(SubjectId::Key(record.id)),
            owner_subject: owner.map(|owner| Subject::new(SubjectId::Owner(owner.into()))),
            usage: Arc::new(UsageCell::new(record.id, credential.digest)),
            ends_at: ends
                .into_iter()
                .flatten()
                .map(saturating_nanos)
                .min()
                .unwrap_or(i64::MAX),
            generation,
            asked_at,
            record,
            credential,
        }
    }

    /// The status at `now`, that of the credential included.
    pub(crate) fn status(&self, now: Moment) -> KeyStatus {
        if self.record.revoked_at.is_some() {
            KeyStatus::Revoked
        } else if now.wall_nanos() >= self.ends_at {
            KeyStatus::Expired
        } else if !self.record.enabled {
            KeyStatus::Disabled
        } else {
            KeyStatus::Active
        }
    }

    /// How long ago the store was asked, in nanoseconds.
    pub(super) fn age(&self, now: Moment) -> u64 {
        now.monotonic_nanos().saturating_sub(self.asked_at)
    }
}
