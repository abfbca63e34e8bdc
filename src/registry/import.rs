//! Taking over keys by the thousand.

use futures_util::future::join_all;
use jiff::Timestamp;

use super::authority::Ceiling;
use super::change::to_the_end;
use super::{ApiKeys, KeyError, NewKey, input};
use crate::invalidation::{DigestTag, Invalidation};
use crate::key::KeyDigest;
use crate::record::{EventAction, KeyId};
use crate::store::{KeyInsertion, StoreError};

/// A key that was issued elsewhere, for [`ApiKeys::import_all`].
#[derive(Clone, Debug)]
#[must_use]
pub struct KeyImport {
    new: NewKey,
    digest: KeyDigest,
    start: String,
}

impl KeyImport {
    /// The key whose text has this SHA-256, as `new` describes it.
    pub fn new(new: NewKey, digest: KeyDigest) -> Self {
        Self {
            new,
            digest,
            start: String::new(),
        }
    }

    /// The digest.
    pub fn digest(&self) -> &KeyDigest {
        &self.digest
    }

    /// What may be shown of the secret, at most 32 visible ASCII characters. Default: nothing.
    pub fn start(mut self, start: impl Into<String>) -> Self {
        self.start = start.into();
        self
    }
}

impl ApiKeys {
    /// Takes over many keys at once, each as [`ApiKeys::import`] does. What comes back is in the
    /// order of the batch: the id of the new key, or why there is none. Those that cannot be taken
    /// over do not keep the others from it.
    ///
    /// An import that was cut short is continued by giving all of it again: what is stored already
    /// is a [`KeyErrorKind::Duplicate`](super::KeyErrorKind::Duplicate), as is a digest that stands
    /// earlier in the batch. The batch should be of a few thousand keys: databases write it in one
    /// transaction, for which others wait. Among a million, batches in the order of the digests are
    /// several times as fast as such in any other. After more than 100 new keys the cache begins
    /// anew, here and in all other instances.
    ///
    /// ```
    /// # use tower_api_key::{ApiKeys, KeyDigest, KeyImport, MemoryStore, NewKey};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_api_key::KeyError> {
    /// # let keys = ApiKeys::builder(MemoryStore::new()).build();
    /// let batch = ["legacy-1", "legacy-2", "legacy-1"].map(|text| {
    ///     KeyImport::new(NewKey::named(text).owner("acme"), KeyDigest::sha256(text))
    /// });
    /// let outcomes = keys.import_all(batch).await?;
    /// assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 2);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`KeyErrorKind::Store`](super::KeyErrorKind::Store): some keys of the batch may have been
    /// taken over all the same.
    pub async fn import_all(
        &self,
        batch: impl IntoIterator<Item = KeyImport>,
    ) -> Result<Vec<Result<KeyId, KeyError>>, KeyError> {
        let ceiling = self.authority.ceiling().await?;
        let now = self.now();
        let mut outcomes = Vec::new();
        let mut insertions = Vec::new();
        for import in batch {
            match self.insertion(import, &ceiling, now) {
                Ok(insertion) => {
                    outcomes.push(Ok(insertion.record.id));
                    insertions.push(insertion);
                }
                Err(error) => outcomes.push(Err(error)),
            }
        }
        let mut written = self.insert_all(insertions).await?.into_iter();
        for outcome in &mut outcomes {
            if let Ok(id) = *outcome
                && written.next() == Some(false)
            {
                *outcome = Err(StoreError::duplicate(id).into());
            }
        }
        Ok(outcomes)
    }

    fn insertion(
        &self,
        import: KeyImport,
        ceiling: &Ceiling,
        now: Timestamp,
    ) -> Result<KeyInsertion, KeyError> {
        let KeyImport { new, digest, start } = import;
        ceiling.check(new.granted())?;
        let record = new.into_record(self.verifier.format(), now)?;
        Ok(KeyInsertion {
            credential: input::imported_credential(digest, &start, now)?,
            event: self.event(record.id, EventAction::Imported, now),
            record,
        })
    }

    async fn insert_all(&self, insertions: Vec<KeyInsertion>) -> Result<Vec<bool>, KeyError> {
        if insertions.is_empty() {
            return Ok(Vec::new());
        }
        let this = self.clone();
        to_the_end(async move {
            let inserted = this.repository.insert_all(&insertions).await;
            // Also after an error: they may have been written all the same.
            this.forget_misses(&insertions).await;
            Ok(inserted?)
        })
        .await
    }

    /// Forgets that the digests of new keys were unknown, here and in the other instances.
    async fn forget_misses(&self, insertions: &[KeyInsertion]) {
        /// To forget everything costs listeners less than to read about each of more keys.
        const FEW: usize = 100;
        if insertions.len() > FEW {
            self.verifier.invalidate_all();
            self.publish(&Invalidation::Everything).await;
            return;
        }
        // At once: where the bus hangs, each of them waits for it.
        let forgotten = insertions.iter().map(|insertion| {
            let digests = vec![DigestTag::of(&insertion.credential.digest)];
            self.forget_everywhere(insertion.record.id, digests)
        });
        join_all(forgotten).await;
    }
}
