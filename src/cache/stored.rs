//! Reads past the cache, for decisions that must not rest on what is remembered.

use super::{CachedKey, KeyCache};
use crate::key::KeyDigest;
use crate::store::StoreError;

impl KeyCache {
    /// Reads the credential with this digest, and its key, as they are stored now. The cache neither
    /// answers nor keeps the answer.
    ///
    /// # Errors
    ///
    /// [`StoreError`], also where the store takes longer than the deadline of lookups or answers with
    /// another credential.
    pub(crate) async fn read_stored(
        &self,
        digest: &KeyDigest,
    ) -> Result<Option<CachedKey>, StoreError> {
        let reading = async {
            loop {
                // Before the store is asked: a change that commits later starts a later generation.
                let generation = self.generations.current();
                let asked_at = self.clock.now().monotonic_nanos();
                let Some(stored) = self.store.find_latest(digest).await? else {
                    return Ok(None);
                };
                if stored.credential.digest != *digest {
                    let reason = "the store found it under the digest of another credential";
                    return Err(StoreError::corrupt(stored.record.id, reason));
                }
                let key = CachedKey::new(stored, generation, asked_at);
                // Otherwise a change has overtaken the lookup, which may have read what was before.
                if self.generations.is_current(&key) {
                    return Ok(Some(key));
                }
            }
        };
        let deadline = self.config.lookup_deadline;
        let read = tokio::time::timeout(deadline, reading).await;
        read.unwrap_or_else(|_| {
            let reason = "the lookup of the acting key took longer than its deadline";
            Err(StoreError::unavailable(reason))
        })
    }
}
