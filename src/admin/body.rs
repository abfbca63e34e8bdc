//! The JSON of the answers, around the views of what is stored.

use jiff::Timestamp;
use serde::Serialize;

use crate::record::{CreditBalance, Key, KeyEvent, KeyEventView, KeyId, KeyView, UsageBucket};
use crate::registry::Issued;
use crate::store::KeyPage;

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
        }
    }
}

/// A page of keys.
#[derive(Serialize)]
pub(super) struct PageBody<'a> {
    keys: Vec<KeyView<'a>>,
    next_cursor: Option<KeyId>,
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
            next_cursor: page.next,
        }
    }
}

/// How much a key was used.
#[derive(Serialize)]
pub(super) struct UsageBody {
    pub(super) buckets: Vec<UsageBucket>,
}

/// What was done to a key.
#[derive(Serialize)]
pub(super) struct EventsBody<'a> {
    events: Vec<KeyEventView<'a>>,
}

impl<'a> EventsBody<'a> {
    pub(super) fn new(events: &'a [KeyEvent]) -> Self {
        Self {
            events: events.iter().map(KeyEventView::new).collect(),
        }
    }
}
