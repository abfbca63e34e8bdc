//! The JSON of the answers: the same shapes as those of the admin router.

use jiff::Timestamp;
use serde::Serialize;
use tower_api_key::{
    CreditBalance, EventPage, Issued, KeyEventView, KeyId, KeyView, UnreadableKey, UsageBucket,
};

/// A new secret, this once, and its key.
#[derive(Serialize)]
pub(crate) struct SecretBody<'a> {
    secret: &'a str,
    key: KeyView<'a>,
    /// Left out unless it is false.
    #[serde(skip_serializing_if = "Clone::clone")]
    propagated: bool,
}

impl<'a> SecretBody<'a> {
    pub(crate) fn new(issued: &'a Issued, balance: Option<CreditBalance>, now: Timestamp) -> Self {
        Self {
            secret: issued.secret().expose(),
            key: KeyView::new(issued.key(), now).credits(balance),
            propagated: issued.is_propagated(),
        }
    }
}

/// A listing.
#[derive(Serialize)]
pub(crate) struct PageBody<'a> {
    pub(crate) keys: Vec<KeyView<'a>>,
    /// Left out where there is none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) unreadable: Vec<UnreadableBody<'a>>,
    pub(crate) next_cursor: Option<KeyId>,
}

/// A key that belongs in a listing and cannot be read.
#[derive(Serialize)]
pub(crate) struct UnreadableBody<'a> {
    id: &'a str,
    detail: &'a str,
}

impl<'a> UnreadableBody<'a> {
    pub(crate) fn new(key: &'a UnreadableKey) -> Self {
        Self {
            id: &key.id,
            detail: &key.reason,
        }
    }
}

/// How much a key was used.
#[derive(Serialize)]
pub(crate) struct UsageBody {
    pub(crate) buckets: Vec<UsageBucket>,
}

/// A page of what was done to a key, newest first.
#[derive(Serialize)]
pub(crate) struct EventsBody<'a> {
    events: Vec<KeyEventView<'a>>,
    /// As text, so that no reader of JSON rounds it.
    next_cursor: Option<String>,
}

impl<'a> EventsBody<'a> {
    pub(crate) fn new(page: &'a EventPage) -> Self {
        Self {
            events: page.events.iter().map(KeyEventView::new).collect(),
            next_cursor: page.next.map(|next| next.to_string()),
        }
    }
}
