//! Keys to check with, and the calls that should not fail.

use std::collections::BTreeMap;
use std::pin::pin;

use futures_util::future::poll_immediate;
use jiff::{SignedDuration, Timestamp};

use super::Store;
use crate::key::KeyDigest;
use crate::record::{Credential, EventAction, Key, KeyEvent, KeyId, KeyRecord};
use crate::store::{KeyChange, StoredKey};

/// 2026-01-01 00:00:00 UTC: what the checks call now.
pub(super) const NOW: Timestamp = Timestamp::constant(1_767_225_600, 0);

pub(super) fn seconds_from_now(seconds: i64) -> Timestamp {
    NOW + SignedDuration::from_secs(seconds)
}

/// A text that no other check uses.
pub(super) fn unique() -> String {
    KeyId::generate(NOW).to_string()
}

pub(super) fn record() -> KeyRecord {
    KeyRecord {
        id: KeyId::generate(NOW),
        version: 1,
        name: "sample".to_owned(),
        owner: None,
        prefix: "sk".to_owned(),
        environment: "live".to_owned(),
        scopes: crate::ScopeSet::default(),
        limits: crate::RateLimits::default(),
        credits: None,
        metadata: BTreeMap::new(),
        allowed_addresses: Vec::new(),
        enabled: true,
        created_at: NOW,
        expires_at: None,
        revoked_at: None,
    }
}

pub(super) fn credential() -> Credential {
    Credential {
        digest: KeyDigest::sha256(&unique()),
        pepper: None,
        start: "sk_live_8fJ2".to_owned(),
        imported: false,
        created_at: NOW,
        expires_at: None,
        last_used_at: None,
    }
}

pub(super) fn event(key: KeyId, action: EventAction) -> KeyEvent {
    KeyEvent {
        key,
        at: NOW,
        action,
        actor: Some("conformance".to_owned()),
    }
}

/// The change of `record` to its next version, as yet the same in all else.
pub(super) fn change(record: &KeyRecord) -> KeyChange {
    let mut record = record.clone();
    record.version += 1;
    let event = event(record.id, EventAction::Updated);
    KeyChange::new(record, event)
}

pub(super) async fn insert(store: &Store, record: KeyRecord) -> Key {
    insert_with(store, record, credential()).await
}

pub(super) async fn insert_with(store: &Store, record: KeyRecord, credential: Credential) -> Key {
    let issued = event(record.id, EventAction::Issued);
    store
        .insert(&record, &credential, &issued)
        .await
        .expect("KeyRepository::insert: a new key is written");
    Key {
        record,
        credentials: vec![credential],
    }
}

pub(super) async fn apply(store: &Store, change: &KeyChange) -> bool {
    let applied = store.apply(change).await;
    applied.expect("KeyRepository::apply: a change is applied or not, without an error")
}

pub(super) async fn find(store: &Store, digest: &KeyDigest) -> Option<StoredKey> {
    let found = store.find(digest).await;
    found.expect("KeyStore::find: a lookup has an answer")
}

pub(super) async fn key(store: &Store, id: KeyId) -> Option<Key> {
    let key = store.get(id).await;
    key.expect("KeyRepository::get: a lookup has an answer")
}

/// All events of a key, oldest first.
pub(super) async fn events(store: &Store, id: KeyId) -> Vec<KeyEvent> {
    let page = store.events(id, None, usize::MAX).await;
    let page = page.expect("KeyRepository::events: a lookup has an answer");
    assert_eq!(
        page.next, None,
        "KeyRepository::events: a page with all events is the last"
    );
    page.events.into_iter().rev().collect()
}

pub(super) async fn actions(store: &Store, id: KeyId) -> Vec<EventAction> {
    let events = events(store, id).await;
    events.into_iter().map(|event| event.action).collect()
}

/// Polls `future` at most `polls` times, then drops it: a caller that went away.
pub(super) async fn abandon<T>(future: impl Future<Output = T>, polls: u32) {
    let mut future = pin!(future);
    for _ in 0..polls {
        if poll_immediate(&mut future).await.is_some() {
            return;
        }
        tokio::task::yield_now().await;
    }
}
