use std::error::Error;
use std::fmt;

use super::ApiKeys;
use crate::denial::Denial;
use crate::record::KeyId;
use crate::scope::Scope;
use crate::store::{StoreError, StoreErrorKind};

/// Why a key was not made, shown or changed.
#[derive(Debug)]
pub struct KeyError {
    kind: KeyErrorKind,
    field: Option<String>,
    message: String,
    denial: Option<Denial>,
    source: Option<StoreError>,
}

/// What kind of error a [`KeyError`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyErrorKind {
    /// Other changes of the same key kept coming first. Try again.
    Contended,
    /// The change is not allowed to those in whose name it is made, as
    /// [`ApiKeys::within`](crate::ApiKeys::within) has it; [`KeyError::denial`] says why.
    Denied,
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
    /// The key has as many live credentials as it can have; see
    /// [`ApiKeys::MAX_LIVE_CREDENTIALS`](crate::ApiKeys::MAX_LIVE_CREDENTIALS).
    TooManyCredentials,
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

    /// Returns why a change is [`Denied`](KeyErrorKind::Denied). Its
    /// [`required_scopes`](Denial::required_scopes) are those that are lacking.
    pub fn denial(&self) -> Option<&Denial> {
        self.denial.as_ref()
    }

    pub(crate) fn invalid(field: impl Into<String>, reason: impl fmt::Display) -> Self {
        let field = field.into();
        let message = format!("{field}: {reason}");
        Self {
            field: Some(field),
            ..Self::of(KeyErrorKind::Invalid, message)
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

    pub(super) fn too_many_credentials(id: KeyId) -> Self {
        let most = ApiKeys::MAX_LIVE_CREDENTIALS;
        let message = format!(
            "key {id} has {most} live secrets; wait until one has ended, or rotate with a grace of \
             zero, which ends them"
        );
        Self::of(KeyErrorKind::TooManyCredentials, message)
    }

    pub(super) fn contended(id: KeyId) -> Self {
        let message = format!("key {id} is being changed by many others at once; try again");
        Self::of(KeyErrorKind::Contended, message)
    }

    /// Returns whether a stored row could not be read.
    #[cfg(feature = "admin")]
    pub(crate) fn is_corrupt(&self) -> bool {
        let source = self.source.as_ref();
        source.is_some_and(|source| source.kind() == StoreErrorKind::Corrupt)
    }

    fn of(kind: KeyErrorKind, message: String) -> Self {
        Self {
            kind,
            field: None,
            message,
            denial: None,
            source: None,
        }
    }
}

impl From<Denial> for KeyError {
    fn from(denial: Denial) -> Self {
        let message = match denial.required_scopes() {
            [] => denial.to_string(),
            scopes => {
                let scopes: Vec<_> = scopes.iter().map(Scope::as_str).collect();
                format!("these scopes are not held: {}", scopes.join(", "))
            }
        };
        Self {
            denial: Some(denial),
            ..Self::of(KeyErrorKind::Denied, message)
        }
    }
}

impl From<StoreError> for KeyError {
    fn from(source: StoreError) -> Self {
        let kind = match source.kind() {
            StoreErrorKind::Duplicate => KeyErrorKind::Duplicate,
            _ => KeyErrorKind::Store,
        };
        let message = source.to_string();
        Self {
            source: Some(source),
            ..Self::of(kind, message)
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

    /// Returns the number of credits that were leased, not spent, and are not known to be given
    /// back.
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
