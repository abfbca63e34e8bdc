//! Rows that cannot be read.

use jiff::Timestamp;
use tower_api_key::testing::conformance;
use tower_api_key::{KeyFilter, KeyRepository, KeyStore, StoreErrorKind};

use super::{damaged, open, pool};
use crate::support::insert;

#[tokio::test]
async fn a_row_that_cannot_be_read_names_its_key() {
    for damage in [
        "keys SET version = -1",
        "keys SET scopes = '[\"orders'",
        "keys SET scopes = '[\"orders::read\"]'",
        "keys SET scopes = CAST(x'5b22ff225d' AS TEXT)",
        "keys SET name = CAST(x'ff' AS TEXT)",
        "keys SET limits = '[{\"name\":\"burst\",\"quota\":0,\"window_seconds\":60}]'",
        "keys SET limits = '{}'",
        "keys SET metadata = '{\"plan\":1}'",
        "keys SET metadata = 'null'",
        "keys SET allowed_addresses = '[\"10.0.0.0/33\"]'",
        "keys SET created_at = 9223372036854775807",
        "keys SET expires_at = -9223372036854775808",
        "keys SET revoked_at = 253402207201000000",
        "credentials SET created_at = 9223372036854775807",
        "credentials SET expires_at = 9223372036854775807",
        "credentials SET last_used_at = -9223372036854775808",
        "credentials SET start = CAST(x'ff' AS TEXT)",
    ] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys.db");
        let store = open(&path).await;
        let key = insert(&store).await;
        let id = key.record.id;
        assert!(damaged(&path, damage).await, "{damage}");
        conformance::check_unreadable_row(&store, &key.credentials[0].digest, id).await;
        let read = store.get(id).await.map(|_| ()).unwrap_err();
        assert_eq!(read.kind(), StoreErrorKind::Corrupt, "{damage}");
        assert!(
            read.to_string().contains(&id.to_string()),
            "{damage}: {read}"
        );
        // The others are listed, and this one is named.
        let later = insert(&store).await;
        let page = store.list(&KeyFilter::default()).await.unwrap();
        assert_eq!(page.keys, [later], "{damage}");
        let column = damage.split(' ').nth(2).unwrap();
        let [unreadable] = &page.unreadable[..] else {
            panic!("{damage}: {page:?}");
        };
        assert_eq!(unreadable.id, id.to_string(), "{damage}");
        assert!(
            unreadable.reason.contains(column),
            "{damage}: {unreadable:?}"
        );
    }
}

#[tokio::test]
async fn pages_go_on_behind_what_cannot_be_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.db");
    let store = open(&path).await;
    let mut ids = Vec::new();
    for _ in 0..6 {
        ids.push(insert(&store).await.record.id.to_string());
    }
    ids.sort();
    ids.reverse();
    // The newest three are unreadable, two of them by an id that no page can begin below.
    for (row, damage) in [
        (0, "id = 'key_Z' || id"),
        (1, "id = 'key_ZZ' || id"),
        (2, "scopes = '{}'"),
    ] {
        let damage = format!("keys SET {damage} WHERE id = '{}'", ids[row]);
        assert!(damaged(&path, &damage).await, "{damage}");
    }
    let damaged = [
        format!("key_Z{}", ids[0]),
        format!("key_ZZ{}", ids[1]),
        ids[2].clone(),
    ];
    for limit in 1..=7 {
        let mut filter = KeyFilter::default();
        filter.limit = limit;
        let (mut listed, mut unreadable) = (Vec::new(), Vec::new());
        loop {
            let page = store.list(&filter).await.unwrap();
            assert!(page.keys.len() <= limit, "{limit}");
            listed.extend(page.keys.iter().map(|key| key.record.id.to_string()));
            unreadable.extend(page.unreadable.into_iter().map(|key| key.id));
            filter.after = page.next;
            if page.next.is_none() {
                break;
            }
        }
        assert_eq!(listed, ids[3..], "{limit}");
        assert_eq!(unreadable, damaged, "{limit}");
    }
}

#[tokio::test]
async fn rows_beside_the_key_that_cannot_be_read_name_it_too() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.db");
    let store = open(&path).await;
    let key = insert(&store).await;
    let id = key.record.id;
    sqlx::query("INSERT INTO tower_api_key_usage VALUES (1, 0, 1, 1)")
        .execute(&pool(&path).await)
        .await
        .unwrap();

    assert!(damaged(&path, "credentials SET digest = zeroblob(31)").await);
    let short = store.get(id).await.unwrap_err();
    assert_eq!(store.find(&key.credentials[0].digest).await.unwrap(), None);
    assert!(damaged(&path, "usage SET allowed = -1").await);
    let usage = store
        .usage(id, Timestamp::MIN, Timestamp::MAX)
        .await
        .unwrap_err();
    assert!(damaged(&path, "events SET action = 'exploded'").await);
    let events = store.events(id, None, 10).await.unwrap_err();
    for error in [short, usage, events] {
        assert_eq!(error.kind(), StoreErrorKind::Corrupt);
        assert!(error.to_string().contains(&id.to_string()), "{error}");
    }

    assert!(damaged(&path, "keys SET id = 'key_lost'").await);
    let lost = store.list(&KeyFilter::default()).await.unwrap();
    assert_eq!(lost.keys, []);
    assert_eq!(lost.unreadable[0].id, "key_lost");
}
