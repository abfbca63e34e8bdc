use std::error::Error;
use std::fmt;
use std::sync::Arc;

use redis::RedisError;

/// Why a call brought no answer.
#[derive(Clone, Debug)]
pub(super) enum Cause {
    /// The circuit is open.
    Barred,
    Failed(Arc<RedisError>),
    /// Redis was asked often enough and has decided nothing.
    Undecided,
    Late,
    /// Redis is well, but has more to do than it can within the deadline.
    Overloaded,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Barred => f.write_str("Redis is not called while it fails"),
            Self::Failed(error) => write!(f, "Redis answered with an error: {error}"),
            Self::Undecided => f.write_str("Redis lost its data again and again"),
            Self::Overloaded => f.write_str("more requests wait for Redis than it answers in time"),
            Self::Late => f.write_str("Redis did not answer in time"),
        }
    }
}

impl Error for Cause {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Failed(error) => Some(&**error),
            _ => None,
        }
    }
}
