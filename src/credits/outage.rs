use std::error::Error;
use std::fmt;
use std::sync::Arc;

/// Whether a key has credits left could not be told.
#[derive(Clone, Debug)]
pub(crate) enum CreditOutage {
    Deadline,
    /// The key has none, though it had when it was looked up.
    NoBudget,
    /// A verifier that writes nothing cannot take credits, and to let the key pass would be to give
    /// them away.
    ReadOnly,
    Store(Arc<dyn Error + Send + Sync>),
}

impl CreditOutage {
    pub(super) fn from_store(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Store(Arc::from(source.into()))
    }
}

impl fmt::Display for CreditOutage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Deadline => "the key store took longer than its deadline to grant credits",
            Self::NoBudget => "the key's credits were taken away a moment ago",
            Self::ReadOnly => "a verifier that only reads cannot charge a key that has credits",
            Self::Store(_) => "the key store did not grant credits",
        })
    }
}

impl Error for CreditOutage {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Store(source) => Some(&**source),
            _ => None,
        }
    }
}
