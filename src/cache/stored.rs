//! Reads past the cache, for decisions that must not rest on what is remembered.

use super::load::Answer;
use super::{CachedKey, KeyCache};
use crate::key::KeyDigest;
use crate::store::StoreError;

impl KeyCache {
    /// Reads the credential with this digest, and its key, as they are stored now. The cache
    /// neither answers nor keeps the answer.
    ///
    /// # Errors
    ///
    /// [`StoreError`], also where the store takes longer than the deadline of lookups or answers
    /// with another credential.
    pub(crate) async fn read_stored(
        &self,
        digest: &KeyDigest,
    ) -> Result<Option<CachedKey>, StoreError> {
        let reading = async {
            loop {
                let Answer { asked, found } = self.find_latest(digest).await?;
                let Some(stored) = found else {
                    return Ok(None);
                };
                let key = CachedKey::new(stored, asked);
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
