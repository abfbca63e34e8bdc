use std::error::Error;
use std::fmt;

use crate::record::KeyId;
use crate::store::{StoreError, StoreErrorKind};

/// Why a key was not made, shown or changed.
#[derive(Debug)]
pub struct KeyError {
    kind: KeyErrorKind,
    field: Option<String>,
    message: String,
    source: Option<StoreError>,
}

/// What kind of error a [`KeyError`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyErrorKind {
    /// Other changes of the same key kept coming first. Try again.
    Contended,
    /// The digest belongs to a key already.
    Duplicate,
    /// The key has expired, and nothing that has ended comes back.
    Expired,
    /// A value is out of range; [`KeyError::field`] names it.
    Invalid,
    /// There is no such key.
    NotFound,
    /// The key was revoked, and nothing that has ended comes back.
    Revoked,
    /// The store failed.
    Store,
}

impl KeyError {
    /// What kind of error it is.
    pub fn kind(&self) -> KeyErrorKind {
        self.kind
    }

    /// The field whose value is wrong, as in `limits`.
    pub fn field(&self) -> Option<&str> {
        self.field.as_deref()
    }

    pub(crate) fn invalid(field: impl Into<String>, reason: impl fmt::Display) -> Self {
        let field = field.into();
        let message = format!("{field}: {reason}");
        Self {
            kind: KeyErrorKind::Invalid,
            field: Some(field),
            message,
            source: None,
        }
    }

    pub(super) fn not_found(id: KeyId) -> Self {
        Self::of(KeyErrorKind::NotFound, format!("there is no key {id}"))
    }

    pub(super) fn revoked(id: KeyId) -> Self {
        Self::of(
            KeyErrorKind::Revoked,
            format!("key {id} is revoked for good; issue a new one"),
        )
    }

    pub(super) fn expired(id: KeyId) -> Self {
        Self::of(
            KeyErrorKind::Expired,
            format!("key {id} has expired for good; issue a new one"),
        )
    }

    pub(super) fn contended(id: KeyId) -> Self {
        let message = format!("key {id} is being changed by many others at once; try again");
        Self::of(KeyErrorKind::Contended, message)
    }

    fn of(kind: KeyErrorKind, message: String) -> Self {
        Self {
            kind,
            field: None,
            message,
            source: None,
        }
    }
}

impl From<StoreError> for KeyError {
    fn from(source: StoreError) -> Self {
        let kind = match source.kind() {
            StoreErrorKind::Duplicate => KeyErrorKind::Duplicate,
            _ => KeyErrorKind::Store,
        };
        Self {
            kind,
            field: None,
            message: source.to_string(),
            source: Some(source),
        }
    }
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for KeyError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        // The message is the source's own, so the chain goes on with what is behind it.
        self.source.as_ref().and_then(Error::source)
    }
}

/// Some of what was counted or leased could not be written before the deadline of a
/// [shutdown](crate::ApiKeys::shutdown).
///
/// It is still in memory, so a further call of `shutdown` tries again.
#[derive(Debug)]
pub struct ShutdownError {
    uses: u64,
    credits: u64,
    source: StoreError,
}

impl ShutdownError {
    pub(super) fn new(uses: u64, credits: u64, source: StoreError) -> Self {
        Self {
            uses,
            credits,
            source,
        }
    }

    /// Returns the number of requests, let through or refused, that are not known to be written.
    pub fn uses(&self) -> u64 {
        self.uses
    }

    /// Returns the number of credits that were leased, not spent, and are not known to be given back.
    pub fn credits(&self) -> u64 {
        self.credits
    }
}

impl fmt::Display for ShutdownError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { uses, credits, .. } = self;
        write!(
            f,
            "the key store did not take the use of {uses} requests and {credits} leased credits in time"
        )
    }
}

impl Error for ShutdownError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.source)
    }
}
