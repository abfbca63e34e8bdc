//! Bounds on the credentials of a key: [`make_room`].

use std::time::Duration;

use jiff::Timestamp;

use super::{ApiKeys, KeyError};
use crate::key::KeyDigest;
use crate::record::{Credential, Key};

impl ApiKeys {
    /// The most credentials of a key that can be live at one time, 20. A rotation that would make
    /// one more is refused, and one with a grace of zero never is.
    pub const MAX_LIVE_CREDENTIALS: usize = 20;

    /// The time for which a credential is kept after it has ended: 90 days. A later rotation of the
    /// key deletes it; the events of the key stay.
    pub const ENDED_CREDENTIALS_KEPT_FOR: Duration = Duration::from_hours(90 * 24);

    /// The most ended credentials that a key keeps, 100: a rotation deletes those beyond it that
    /// ended first. An imported credential is never deleted and does not count.
    pub const MAX_ENDED_CREDENTIALS: usize = 100;
}

/// Checks that `key` may have a further credential when all others end at `end`, and returns the
/// digests of the ended credentials that it keeps no longer.
///
/// Rotations could otherwise make a key larger without bound, and every reading of it slower.
pub(super) fn make_room(
    key: &Key,
    end: Timestamp,
    now: Timestamp,
) -> Result<Vec<KeyDigest>, KeyError> {
    let ends = |credential: &Credential| credential.expires_at.map_or(end, |own| own.min(end));
    let live = key.credentials.iter().filter(|known| ends(known) > now);
    if live.count() >= ApiKeys::MAX_LIVE_CREDENTIALS {
        return Err(KeyError::too_many_credentials(key.record.id));
    }
    // An imported digest stays, so that the same import cannot bring its secret back under another
    // key. Digests made here are of random secrets, which nobody imports by mistake.
    let mut ended: Vec<_> = key
        .credentials
        .iter()
        .filter(|known| !known.imported && ends(known) <= now)
        .map(|known| (ends(known), known.digest))
        .collect();
    // The sort is stable, and credentials are in the order in which they were made.
    ended.sort_by_key(|(end, _)| *end);
    let kept_from = now
        .saturating_sub(ApiKeys::ENDED_CREDENTIALS_KEPT_FOR)
        .unwrap_or(Timestamp::MIN);
    let outlived = ended.partition_point(|(end, _)| *end <= kept_from);
    let too_many = ended.len().saturating_sub(ApiKeys::MAX_ENDED_CREDENTIALS);
    ended.truncate(outlived.max(too_many));
    Ok(ended.into_iter().map(|(_, digest)| digest).collect())
}
