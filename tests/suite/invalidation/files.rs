//! Changes of an SQLite file by other processes.

use sqlx::{AssertSqlSafe, SqlitePool};
use tokio::time::Instant;
use tower_api_key::{ApiKeys, KeyStore, NewKey, SqliteStore};

use super::eventually;
use crate::core_support::{SECOND, verify};

#[tokio::test]
async fn what_another_process_changes_in_a_file_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.db");
    let path = path.to_str().unwrap();
    let store = SqliteStore::open(path).await.unwrap();
    let other = SqlitePool::connect(&format!("sqlite:{path}"))
        .await
        .unwrap();
    let keys = ApiKeys::builder(store.clone()).build();
    let issue = async || {
        let issued = keys
            .issue(NewKey::named("x").scopes(["orders:read"]))
            .await
            .unwrap();
        assert!(
            verify(keys.verifier(), issued.secret().expose())
                .await
                .is_ok()
        );
        issued
    };
    for change in [
        "UPDATE tower_api_key_keys SET revoked_at = 0",
        "UPDATE tower_api_key_credentials SET expires_at = 0",
        "DELETE FROM tower_api_key_credentials",
    ] {
        let issued = issue().await;
        sqlx::query(change).execute(&other).await.unwrap();
        let refused = async || {
            verify(keys.verifier(), issued.secret().expose())
                .await
                .is_err()
        };
        assert!(eventually(refused).await, "{change}");
    }
    // More at once than the table of changes keeps.
    let issued = issue().await;
    let numbers =
        "WITH RECURSIVE number (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < 1500)";
    let many = format!(
        "{numbers} INSERT INTO tower_api_key_changes (key_id) SELECT 'key_00000000000000000000000000' FROM number"
    );
    let mut transaction = other.begin().await.unwrap();
    for change in ["UPDATE tower_api_key_keys SET enabled = 0", &many] {
        sqlx::query(AssertSqlSafe(change))
            .execute(&mut *transaction)
            .await
            .unwrap();
    }
    transaction.commit().await.unwrap();
    let refused = async || {
        verify(keys.verifier(), issued.secret().expose())
            .await
            .is_err()
    };
    assert!(eventually(refused).await);
}

#[tokio::test]
async fn a_note_of_use_is_no_change() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.db");
    let store = SqliteStore::open(path.to_str().unwrap()).await.unwrap();
    let keys = ApiKeys::builder(store.clone()).build();
    let issued = keys
        .issue(NewKey::named("x").scopes(["orders:read"]))
        .await
        .unwrap();
    verify(keys.verifier(), issued.secret().expose())
        .await
        .unwrap();
    let mut changes = store.bus().unwrap().subscribe().await.unwrap();
    keys.flush().await.unwrap();
    let key = keys.get(issued.key().record.id).await.unwrap();
    assert!(key.last_used_at().is_some());
    assert_eq!(changes.next(Instant::now()).await.unwrap(), None);
    keys.disable(key.record.id).await.unwrap();
    let soon = Instant::now() + SECOND;
    let change = changes.next(soon).await.unwrap().unwrap();
    assert_eq!(change.to_string(), key.record.id.to_string());
}
