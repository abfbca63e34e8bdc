use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::Asked;
use crate::clock::{Moment, saturating_nanos};
use crate::credits::{Account, CreditOutage, Refused, Reserve, Reserved};
use crate::limit::{RateLimits, Subject, SubjectId};
use crate::record::{Credential, KeyRecord, KeyStatus};
use crate::requirements::DemandMet;
use crate::store::StoredKey;
use crate::usage::UsageCell;

/// A key as verification needs it: what is stored, and all that can be worked out beforehand.
///
/// In this order, for a request looks at the upper half only: with many keys, what a decision costs
/// is how many lines of memory it touches.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct CachedKey {
    /// The generation that had begun before the store was asked.
    pub(super) generation: u64,
    /// When the store was asked, in monotonic nanoseconds: what it answers may be as old.
    asked_at: u64,
    /// When the credential or the key ends, in wall-clock nanoseconds: whichever comes first.
    ends_at: i64,
    /// How often floors of generations had been raised when it was last held against them.
    pub(super) held_against: AtomicU64,
    /// The status at a time when it has not ended yet.
    status: KeyStatus,
    pub(crate) is_imported: bool,
    /// Whether it may be used from every address.
    pub(crate) is_usable_anywhere: bool,
    /// What of scopes and kinds it was last found to be good for.
    pub(crate) met: DemandMet,
    /// Those of the record.
    pub(crate) limits: RateLimits,
    pub(crate) funds: Funds,
    /// Whom limits count for: the key itself, and its owner.
    pub(crate) key_subject: Subject,
    pub(crate) usage: UsageCell,
    /// The time up to which this is known to be the state of the key, in monotonic nanoseconds:
    /// that of the read from the primary, or that of the last proof of the bus before a read from a
    /// replica.
    pub(super) known_at: u64,
    pub(crate) owner_subject: Option<Subject>,
    pub(crate) credential: Credential,
    pub(crate) record: KeyRecord,
}

/// Where its credits are charged.
#[derive(Debug)]
pub(crate) enum Funds {
    Account(Arc<Account>),
    /// It has a budget, but nothing can be charged here.
    Closed,
    /// It needs none.
    Unlimited,
}

impl CachedKey {
    const NOT_YET: u64 = u64::MAX;

    pub(crate) fn new(stored: StoredKey, asked: Asked) -> Self {
        let StoredKey { record, credential } = stored;
        let ends = [record.expires_at, credential.expires_at];
        let owner = record.owner.as_deref();
        Self {
            generation: asked.generation,
            asked_at: asked.at,
            ends_at: ends
                .into_iter()
                .flatten()
                .map(saturating_nanos)
                .min()
                .unwrap_or(i64::MAX),
            held_against: AtomicU64::new(Self::NOT_YET),
            status: if record.revoked_at.is_some() {
                KeyStatus::Revoked
            } else if record.enabled {
                KeyStatus::Active
            } else {
                KeyStatus::Disabled
            },
            is_imported: credential.imported,
            is_usable_anywhere: record.allowed_addresses.is_empty(),
            met: DemandMet::default(),
            limits: record.limits.clone(),
            funds: match record.credits {
                Some(_) => Funds::Closed,
                None => Funds::Unlimited,
            },
            key_subject: Subject::new(SubjectId::Key(record.id)),
            usage: UsageCell::default(),
            known_at: asked.known_at,
            owner_subject: owner.map(|owner| Subject::new(SubjectId::Owner(owner.into()))),
            credential,
            record,
        }
    }

    /// The status at `now`, that of the credential included.
    #[inline]
    pub(crate) fn status(&self, now: Moment) -> KeyStatus {
        match self.status {
            KeyStatus::Revoked => KeyStatus::Revoked,
            _ if now.wall_nanos() >= self.ends_at => KeyStatus::Expired,
            status => status,
        }
    }

    /// How long ago the store was asked, in nanoseconds.
    #[inline]
    pub(super) fn age(&self, now: Moment) -> u64 {
        now.monotonic_nanos().saturating_sub(self.asked_at)
    }
}

impl Funds {
    /// Takes `cost` credits, where they count.
    #[inline]
    pub(crate) fn reserve(&self, cost: u64, now: Moment) -> Reserve {
        match self {
            Self::Unlimited => Reserve::Done(Ok(Reserved::default())),
            _ if cost == 0 => Reserve::Done(Ok(Reserved::default())),
            Self::Account(account) => account.reserve(cost, now),
            Self::Closed => Reserve::Done(Err(Refused::Outage(CreditOutage::ReadOnly))),
        }
    }

    /// Takes back what was reserved.
    pub(crate) fn release(&self, cost: u64, reserved: Reserved) {
        if let Self::Account(account) = self
            && reserved != Reserved::default()
        {
            account.release(cost, reserved);
        }
    }
}
