use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::Store;
use super::sample::{
    NOW, apply, change, credential, find, insert, insert_with, key, record, seconds_from_now,
};
use crate::key::KeyDigest;
use crate::record::Key;
use crate::store::StoredKey;

pub(super) async fn a_credential_is_found_whatever_its_state(store: Store) {
    let mut disabled = record();
    disabled.enabled = false;
    let mut expired = record();
    expired.expires_at = Some(seconds_from_now(-1));
    let mut revoked = record();
    revoked.revoked_at = Some(seconds_from_now(-1));
    for record in [record(), disabled, expired, revoked] {
        let mut ended = credential();
        ended.expires_at = Some(seconds_from_now(-1));
        for credential in [credential(), ended] {
            let mut record = record.clone();
            record.id = crate::KeyId::generate(NOW);
            let key = insert_with(&store, record, credential).await;
            is_found(&store, &key).await;
        }
    }

    let key = insert(&store, record()).await;
    let mut rotation = change(&key.record);
    rotation.end_credentials_at = Some(NOW);
    rotation.add_credential = Some(credential());
    assert!(
        apply(&store, &rotation).await,
        "KeyRepository::apply: a change of the stored version is applied"
    );
    let key = super::sample::key(&store, key.record.id).await;
    is_found(
        &store,
        &key.expect("KeyRepository::get: a changed key exists"),
    )
    .await;
}

/// Each credential of `key` is found, with the key.
async fn is_found(store: &Store, key: &Key) {
    for credential in &key.credentials {
        let stored = StoredKey {
            record: key.record.clone(),
            credential: credential.clone(),
        };
        assert_eq!(
            find(store, &credential.digest).await,
            Some(stored),
            "KeyStore contract 1: a written credential is found with its key, whatever their state"
        );
    }
}

pub(super) async fn an_unknown_digest_is_none(store: Store) {
    let known = insert(&store, record()).await.credentials[0].digest;
    let mut last_bit_differs = *known.as_bytes();
    last_bit_differs[31] ^= 1;
    for unknown in [
        credential().digest,
        KeyDigest::from_bytes(last_bit_differs),
        KeyDigest::from_bytes([0; 32]),
        KeyDigest::from_bytes([0xff; 32]),
    ] {
        assert_eq!(
            find(&store, &unknown).await,
            None,
            "KeyStore contract 3: an unknown digest is None"
        );
    }
}

pub(super) async fn the_latest_lookup_sees_every_change(store: Store) {
    const CONTRACT: &str =
        "KeyStore::find_latest: it sees every change that was committed before the call began";
    let key = insert(&store, record()).await;
    let digest = key.credentials[0].digest;
    assert_eq!(
        find_latest(&store, &credential().digest).await,
        None,
        "{CONTRACT}"
    );
    let mut stored = StoredKey {
        record: key.record,
        credential: key.credentials[0].clone(),
    };
    for second in [3, 2, 1] {
        assert_eq!(
            find_latest(&store, &digest).await.as_ref(),
            Some(&stored),
            "{CONTRACT}"
        );
        let mut change = change(&stored.record);
        change.end_credentials_at = Some(seconds_from_now(second));
        assert!(
            apply(&store, &change).await,
            "KeyRepository::apply: it fits the version"
        );
        stored.record = change.record;
        stored.credential.expires_at = change.end_credentials_at;
    }
    assert_eq!(
        find_latest(&store, &digest).await,
        Some(stored),
        "{CONTRACT}"
    );
}

async fn find_latest(store: &Store, digest: &KeyDigest) -> Option<StoredKey> {
    let found = store.find_latest(digest).await;
    found.expect("KeyStore::find_latest: a lookup has an answer")
}

/// Each change sets the key's end and the credential's to one time. A reader that sees two times
/// has seen half of a change.
pub(super) async fn a_lookup_sees_no_half_of_a_change(store: Store) {
    const CHANGES: i64 = 40;
    let mut record = record();
    let mut credential = credential();
    record.expires_at = Some(seconds_from_now(CHANGES + 1));
    credential.expires_at = record.expires_at;
    let digest = credential.digest;
    let id = insert_with(&store, record.clone(), credential)
        .await
        .record
        .id;

    let done = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let (store, done) = (store.clone(), done.clone());
            tokio::spawn(async move {
                while !done.load(Ordering::Acquire) {
                    let StoredKey { record, credential } = find(&store, &digest)
                        .await
                        .expect("KeyStore contract 1: a credential is found while it is changed");
                    assert_eq!(
                        record.expires_at, credential.expires_at,
                        "KeyStore contract 2: the key and the credential are of one point in time"
                    );
                    let whole = key(&store, id)
                        .await
                        .expect("KeyRepository contract 1: a key exists while it is changed");
                    assert_eq!(
                        whole.record.expires_at, whole.credentials[0].expires_at,
                        "KeyRepository contract 1: `get` sees a change wholly or not at all"
                    );
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    for step in (1..=CHANGES).rev() {
        let mut change = change(&record);
        change.record.expires_at = Some(seconds_from_now(step));
        change.end_credentials_at = change.record.expires_at;
        assert!(
            apply(&store, &change).await,
            "KeyRepository contract 1: the next call sees the version that was written"
        );
        record = change.record;
        tokio::task::yield_now().await;
    }
    done.store(true, Ordering::Release);
    for reader in readers {
        if let Err(failed) = reader.await {
            std::panic::resume_unwind(failed.into_panic());
        }
    }
}
