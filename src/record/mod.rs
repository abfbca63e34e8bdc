//! What is stored of a key: the record, its credentials, what happened to it and how much it was
//! used.

mod credits;
mod event;
mod id;
mod usage;
mod view;

use std::collections::BTreeMap;

use ipnet::IpNet;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use credits::{
    CreditBalance, CreditGrant, CreditPeriod, CreditPlan, CreditReturn, Credits, Refill,
    RefillEvery,
};
pub use event::{EventAction, KeyEvent, UnknownAction};
pub use id::{InvalidKeyId, KeyId};
pub use usage::{BucketSize, UsageBatch, UsageBatchId, UsageBucket, UsageDelta};
pub use view::{KeyEventView, KeyView};

use crate::key::KeyDigest;
use crate::limit::RateLimits;
use crate::scope::ScopeSet;

/// A key: the thing its owner holds, whose identity never changes. Its secrets are
/// [`Credential`]s.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRecord {
    /// The stable identity, across every rotation.
    pub id: KeyId,
    /// Counts the changes, from 1. A change applies only to the version it was computed from.
    pub version: u64,
    /// What people call the key.
    pub name: String,
    /// Whom it belongs to, in the application's own terms.
    pub owner: Option<String>,
    /// What kind of key it is, as in `sk`.
    pub prefix: String,
    /// `live`, `test`, or what the application's format names.
    pub environment: String,
    /// What it may do.
    pub scopes: ScopeSet,
    /// Its own rate limits; where there are none, a layer's defaults apply.
    pub limits: RateLimits,
    /// Its budget; where there is none, credits do not matter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credits: Option<CreditPlan>,
    /// Whatever the application wants to keep with the key.
    pub metadata: BTreeMap<String, String>,
    /// The networks it may be used from; everywhere, where there are none.
    pub allowed_addresses: Vec<IpNet>,
    /// False while the key is disabled.
    pub enabled: bool,
    /// When it was issued.
    pub created_at: Timestamp,
    /// When it ends by itself: at this instant it is refused already.
    pub expires_at: Option<Timestamp>,
    /// When it was ended for good.
    pub revoked_at: Option<Timestamp>,
}

impl KeyRecord {
    /// The status at `now`. Where several would fit, the more final one is told: revoked, then
    /// expired, then disabled.
    pub fn status(&self, now: Timestamp) -> KeyStatus {
        if self.revoked_at.is_some() {
            KeyStatus::Revoked
        } else if self.expires_at.is_some_and(|end| now >= end) {
            KeyStatus::Expired
        } else if !self.enabled {
            KeyStatus::Disabled
        } else {
            KeyStatus::Active
        }
    }
}

/// What can be said of a key at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum KeyStatus {
    /// It verifies.
    Active,
    /// It is switched off and can be switched on again.
    Disabled,
    /// Its `expires_at` has come.
    Expired,
    /// It was ended for good.
    Revoked,
}

/// One secret of a key, as it is stored: never the secret itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credential {
    /// What the secret hashes to.
    pub digest: KeyDigest,
    /// The id of the pepper in the digest; none for plain SHA-256.
    pub pepper: Option<String>,
    /// The part of the secret that may be shown, as in `sk_live_8fJ2`.
    pub start: String,
    /// Whether the digest was imported rather than made here. Such a credential verifies only
    /// where the verifier is told to accept them.
    pub imported: bool,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends, if a rotation set an end: at this instant it is refused already.
    pub expires_at: Option<Timestamp>,
    /// When a request last presented it while it was valid. Written in batches, so it may lag by
    /// one interval (ten seconds by default).
    pub last_used_at: Option<Timestamp>,
}

impl Credential {
    /// Whether it has not ended at `now`.
    pub fn is_live(&self, now: Timestamp) -> bool {
        self.expires_at.is_none_or(|end| now < end)
    }
}

/// A key with all its credentials, oldest first: what the write side shows.
///
/// Serialized, it contains the digests of the credentials; a [`KeyView`] does not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// The key itself.
    pub record: KeyRecord,
    /// Its credentials, oldest first, also those that have ended.
    pub credentials: Vec<Credential>,
}

impl Key {
    /// When any of its credentials was last used.
    pub fn last_used_at(&self) -> Option<Timestamp> {
        self.credentials
            .iter()
            .filter_map(|credential| credential.last_used_at)
            .max()
    }
}
