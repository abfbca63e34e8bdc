use std::error::Error;
use std::fmt;
use std::sync::Arc;

/// Whether a key has credits left could not be told.
#[derive(Clone, Debug)]
pub(crate) struct CreditOutage {
    message: &'static str,
    source: Option<Arc<dyn Error + Send + Sync>>,
}

impl CreditOutage {
    /// A verifier that writes nothing cannot take credits, and to let the key pass would be to give
    /// them away.
    pub(crate) fn read_only() -> Self {
        Self::because("a verifier that only reads cannot charge a key that has credits")
    }

    pub(super) fn deadline() -> Self {
        Self::because("the key store took longer than its deadline to grant credits")
    }

    /// The key has none, though it had when it was looked up.
    pub(super) fn no_budget() -> Self {
        Self::because("the key's credits were taken away a moment ago")
    }

    pub(super) fn from_store(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self {
            message: "the key store did not grant credits",
            source: Some(Arc::from(source.into())),
        }
    }

    fn because(message: &'static str) -> Self {
        Self {
            message,
            source: None,
        }
    }
}

impl fmt::Display for CreditOutage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message)
    }
}

impl Error for CreditOutage {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}
