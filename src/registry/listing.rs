//! Listing keys, and what a listing does with one that cannot be read.

use super::{ApiKeys, KeyError};
use crate::store::{KeyFilter, KeyPage};

impl ApiKeys {
    /// The keys that fit `filter`, newest first, a page at a time.
    ///
    /// A stored key that cannot be read is named under [`KeyPage::unreadable`] and in the log, and
    /// keeps no other key from the page.
    ///
    /// # Errors
    ///
    /// [`KeyErrorKind::Store`](super::KeyErrorKind::Store).
    pub async fn list(&self, filter: &KeyFilter) -> Result<KeyPage, KeyError> {
        let page = self.repository.list(filter).await?;
        if !page.unreadable.is_empty() {
            // One line, however many there are.
            let named = page.unreadable.iter();
            let named: Vec<_> = named
                .map(|key| format!("{}: {}", key.id, key.reason))
                .collect();
            tracing::error!(
                keys = named.join("; "),
                "stored keys cannot be read; the listing only names them"
            );
        }
        Ok(page)
    }
}
