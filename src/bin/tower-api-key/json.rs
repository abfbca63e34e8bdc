//! The JSON of the answers: the same shapes as those of the admin router.

use jiff::Timestamp;
use serde::Serialize;
use tower_api_key::{CreditBalance, Issued, KeyEvent, KeyEventView, KeyId, KeyView, UsageBucket};

/// A new secret, this once, and its key.
#[derive(Serialize)]
pub(crate) struct SecretBody<'a> {
    secret: &'a str,
    key: KeyView<'a>,
}

impl<'a> SecretBody<'a> {
    pub(crate) fn new(issued: &'a Issued, balance: Option<CreditBalance>, now: Timestamp) -> Self {
        Self {
            secret: issued.secret().expose(),
            key: KeyView::new(issued.key(), now).credits(balance),
        }
    }
}

/// A listing.
#[derive(Serialize)]
pub(crate) struct PageBody<'a> {
    pub(crate) keys: Vec<KeyView<'a>>,
    pub(crate) next_cursor: Option<KeyId>,
}

/// How much a key was used.
#[derive(Serialize)]
pub(crate) struct UsageBody {
    pub(crate) buckets: Vec<UsageBucket>,
}

/// What was done to a key.
#[derive(Serialize)]
pub(crate) struct EventsBody<'a> {
    events: Vec<KeyEventView<'a>>,
}

impl<'a> EventsBody<'a> {
    pub(crate) fn new(events: &'a [KeyEvent]) -> Self {
        Self {
            events: events.iter().map(KeyEventView::new).collect(),
        }
    }
}
