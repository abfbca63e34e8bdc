//! Secrets that others may have read.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::{Origin, Step, Verifier};
use crate::cache::{CachedKey, Outage};
use crate::clock::Moment;
use crate::denial::DenialReason;
use crate::record::KeyId;
use crate::requirements::Requirements;

impl Verifier {
    /// Returns the key to be disabled after `text` was sent in clear text: an active one of a
    /// secret kind that `needs` accept.
    ///
    /// Everything else that is no good key counts as a failed attempt, and an address with too many
    /// of them causes no lookup. So a stranger learns no more than by trying keys over TLS, and
    /// asks no more of the store. A text that needs a lookup while no permit of `lookups` is free
    /// is passed over.
    pub(crate) async fn find_exposed(
        &self,
        text: &[u8],
        origin: Origin,
        needs: &Requirements,
        lookups: &Semaphore,
    ) -> Result<Option<KeyId>, Outage> {
        let parts = &*self.parts;
        let (key, now) = match self.begin(text, &|| origin) {
            Step::Refused(_) => return Ok(None),
            Step::Found(key, now) => (Some(key), now),
            Step::Lookup(lookup) => {
                let Ok(_permit) = lookups.try_acquire() else {
                    return Ok(None);
                };
                let mut found = None;
                for sought in lookup.all() {
                    found = parts.cache.load(&sought).await?;
                    if found.is_some() {
                        break;
                    }
                }
                (found, parts.clock.now())
            }
        };
        let checked = key
            .ok_or(DenialReason::Unknown)
            .and_then(|key| self.check_exposed(&key, needs, now));
        Ok(checked.unwrap_or_else(|reason| {
            parts.fail(reason, origin, now);
            None
        }))
    }

    /// As [`find_exposed`](Self::find_exposed), for a key that was verified already.
    pub(crate) fn find_exposed_key(
        &self,
        key: &Arc<CachedKey>,
        needs: &Requirements,
    ) -> Option<KeyId> {
        let checked = self.check_exposed(key, needs, self.parts.clock.now());
        checked.ok().flatten()
    }

    /// The key, unless it is one that anybody may see.
    fn check_exposed(
        &self,
        key: &Arc<CachedKey>,
        needs: &Requirements,
        now: Moment,
    ) -> Result<Option<KeyId>, DenialReason> {
        let parts = &*self.parts;
        parts.check_status(key, now)?;
        parts.check_kind(key, needs)?;
        let is_secret = parts.format.is_secret(&key.record.prefix);
        Ok(is_secret.then_some(key.record.id))
    }
}
