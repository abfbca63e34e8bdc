//! The JSON of the answers, around the views of what is stored.

use jiff::Timestamp;
use serde::Serialize;

use crate::record::{CreditBalance, Key, KeyEventView, KeyId, KeyView, UsageBucket};
use crate::registry::Issued;
use crate::store::{EventPage, KeyPage, UnreadableKey};

/// A key and, if it has a budget, its balance among `balances`.
pub(super) fn view<'a>(
    key: &'a Key,
    balances: &[(KeyId, CreditBalance)],
    now: Timestamp,
) -> KeyView<'a> {
    let balance = balances.iter().find(|(of, _)| *of == key.record.id);
    KeyView::new(key, now).credits(balance.map(|(_, balance)| *balance))
}

/// A new secret, this once, and its key.
#[derive(Serialize)]
pub(super) struct SecretBody<'a> {
    secret: &'a str,
    key: KeyView<'a>,
    /// Left out unless it is false.
    #[serde(skip_serializing_if = "Clone::clone")]
    propagated: bool,
}

impl<'a> SecretBody<'a> {
    pub(super) fn new(
        issued: &'a Issued,
        balances: &[(KeyId, CreditBalance)],
        now: Timestamp,
    ) -> Self {
        Self {
            secret: issued.secret().expose(),
            key: view(issued.key(), balances, now),
            propagated: issued.is_propagated(),
        }
    }
}

/// A page of keys.
#[derive(Serialize)]
pub(super) struct PageBody<'a> {
    keys: Vec<KeyView<'a>>,
    /// Left out where there is none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unreadable: Vec<UnreadableBody<'a>>,
    next_cursor: Option<KeyId>,
}

/// A key that belongs on the page and cannot be read.
#[derive(Serialize)]
struct UnreadableBody<'a> {
    id: &'a str,
    detail: &'a str,
}

impl<'a> PageBody<'a> {
    pub(super) fn new(
        page: &'a KeyPage,
        balances: &[(KeyId, CreditBalance)],
        now: Timestamp,
    ) -> Self {
        let keys = page.keys.iter();
        Self {
            keys: keys.map(|key| view(key, balances, now)).collect(),
            unreadable: page.unreadable.iter().map(UnreadableBody::new).collect(),
            next_cursor: page.next,
        }
    }
}

impl<'a> UnreadableBody<'a> {
    fn new(key: &'a UnreadableKey) -> Self {
        Self {
            id: &key.id,
            detail: &key.reason,
        }
    }
}

/// How much a key was used.
#[derive(Serialize)]
pub(super) struct UsageBody {
    pub(super) buckets: Vec<UsageBucket>,
}

/// A page of what was done to a key, newest first.
#[derive(Serialize)]
pub(super) struct EventsBody<'a> {
    events: Vec<KeyEventView<'a>>,
    /// As text, so that no reader of JSON rounds it.
    next_cursor: Option<String>,
}

impl<'a> EventsBody<'a> {
    pub(super) fn new(page: &'a EventPage) -> Self {
        Self {
            events: page.events.iter().map(KeyEventView::new).collect(),
            next_cursor: page.next.map(|next| next.to_string()),
        }
    }
}
