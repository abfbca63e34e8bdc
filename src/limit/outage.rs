use std::error::Error;
use std::fmt;
use std::sync::Arc;

/// Limits could not be checked, because what counts them could not be asked, and the policy is to
/// refuse requests then.
#[derive(Clone, Debug)]
pub struct LimiterOutage(Arc<dyn Error + Send + Sync>);

#[cfg(feature = "redis")]
impl LimiterOutage {
    pub(super) fn because(cause: impl Error + Send + Sync + 'static) -> Self {
        Self(Arc::new(cause))
    }
}

impl fmt::Display for LimiterOutage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the limits cannot be checked: {}", self.0)
    }
}

impl Error for LimiterOutage {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}
