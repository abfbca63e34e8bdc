use std::error::Error;
use std::{io, iter};

use tower_api_key::{KeyError, KeyErrorKind, StoreError};

/// Why a command did not come to its end.
pub(crate) enum Failure {
    /// Nobody reads standard output any more.
    ClosedPipe,
    /// This, with what to do about it where that is known.
    Error(String),
}

impl Failure {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self::Error(message.into())
    }

    /// `what` failed, because of `error` and what is behind that.
    pub(crate) fn caused_by(what: &str, error: &dyn Error) -> Self {
        Self::Error(format!("{what}: {}", with_causes(error)))
    }

    /// Standard output could not be written.
    pub(crate) fn output(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::ClosedPipe,
            _ => Self::caused_by("standard output", error),
        }
    }
}

impl From<KeyError> for Failure {
    fn from(error: KeyError) -> Self {
        let message = with_causes(&error);
        Self::Error(match (error.kind(), error.field()) {
            (KeyErrorKind::NotFound, _) => {
                format!("{message}; `tower-api-key list` tells those there are")
            }
            (KeyErrorKind::Invalid, Some("prefix")) => {
                format!("{message}; name the service's with --prefixes or TOWER_API_KEY_PREFIXES")
            }
            (KeyErrorKind::Invalid, Some("environment")) => format!(
                "{message}; name the service's with --environments or TOWER_API_KEY_ENVIRONMENTS"
            ),
            _ => message,
        })
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Error(with_causes(&error))
    }
}

/// What is wrong, and why: a store's error says no more than that it failed.
pub(crate) fn with_causes(error: &dyn Error) -> String {
    let mut messages: Vec<String> = Vec::new();
    for cause in iter::successors(Some(error), |&error| error.source()) {
        let message = cause.to_string();
        // Some errors repeat their cause's message.
        if messages.last().is_none_or(|last| !last.contains(&message)) {
            messages.push(message);
        }
    }
    messages.join(": ")
}
