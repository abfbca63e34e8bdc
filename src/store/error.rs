use std::error::Error;
use std::fmt;

use crate::record::KeyId;

/// Why a store could not do what it was asked. To a client it is always an outage (503), never a
/// denial.
#[derive(Debug)]
pub struct StoreError {
    kind: StoreErrorKind,
    what: String,
    source: Option<Box<dyn Error + Send + Sync>>,
}

/// What kind of failure a [`StoreError`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// A stored row cannot be read.
    Corrupt,
    /// The id or digest exists already.
    Duplicate,
    /// The store cannot be reached, is overloaded or failed.
    Unavailable,
}

impl StoreError {
    /// The store failed with `source`.
    pub fn unavailable(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        let what = "the key store failed".to_owned();
        Self {
            kind: StoreErrorKind::Unavailable,
            what,
            source: Some(source.into()),
        }
    }

    /// The row of key `id` cannot be read, because of `source`.
    pub fn corrupt(id: impl fmt::Display, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        let what = format!("the stored row of key {id} cannot be read");
        Self {
            kind: StoreErrorKind::Corrupt,
            what,
            source: Some(source.into()),
        }
    }

    /// Key `id`, or its digest, exists already.
    pub fn duplicate(id: KeyId) -> Self {
        let what = format!("the id or the digest of key {id} exists already");
        Self {
            kind: StoreErrorKind::Duplicate,
            what,
            source: None,
        }
    }

    /// The text of the cause, without the causes behind it; that of the error itself where it has
    /// none.
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    pub(crate) fn reason(&self) -> String {
        let source = self.source.as_deref();
        source.map_or_else(|| self.to_string(), ToString::to_string)
    }

    /// What kind of failure it is.
    pub fn kind(&self) -> StoreErrorKind {
        self.kind
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl Error for StoreError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}
