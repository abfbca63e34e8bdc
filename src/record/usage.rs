use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::KeyId;
use crate::key::KeyDigest;

/// How much a key was used in one hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageBucket {
    /// The hour's beginning.
    pub start: Timestamp,
    /// How many requests were let through.
    pub allowed: u64,
    /// How many requests with this key were refused, for whatever reason.
    pub denied: u64,
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
