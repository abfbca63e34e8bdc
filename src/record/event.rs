use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::KeyId;

/// One entry of the audit trail: what was done to a key, when and by whom. A store writes it in
/// the transaction of the change itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyEvent {
    /// The key that was changed.
    pub key: KeyId,
    /// When.
    pub at: Timestamp,
    /// What was done.
    pub action: EventAction,
    /// Who did it: the id of the acting key, or another name that the application gave.
    pub actor: Option<String>,
}

/// What was done to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum EventAction {
    /// It was switched off.
    Disabled,
    /// It was switched on again.
    Enabled,
    /// It was taken over from elsewhere, by its digest.
    Imported,
    /// It was made.
    Issued,
    /// It was ended for good.
    Revoked,
    /// It was given a new credential.
    Rotated,
    /// Its name, scopes, limits, credits, metadata, addresses or end were changed.
    Updated,
}

impl EventAction {
    /// The name in stores and answers, as in `issued`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::Enabled => "enabled",
            Self::Imported => "imported",
            Self::Issued => "issued",
            Self::Revoked => "revoked",
            Self::Rotated => "rotated",
            Self::Updated => "updated",
        }
    }
}

impl fmt::Display for EventAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for EventAction {
    type Err = UnknownAction;

    fn from_str(text: &str) -> Result<Self, UnknownAction> {
        use EventAction::{Disabled, Enabled, Imported, Issued, Revoked, Rotated, Updated};
        [
            Disabled, Enabled, Imported, Issued, Revoked, Rotated, Updated,
        ]
        .into_iter()
        .find(|action| action.as_str() == text)
        .ok_or(UnknownAction)
    }
}

/// The text names no action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownAction;

impl fmt::Display for UnknownAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no such action on a key")
    }
}

impl std::error::Error for UnknownAction {}
