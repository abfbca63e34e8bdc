//! What `SqliteStore` promises beyond the contracts.

mod balances;
mod listings;
mod unreadable;
mod versions;

use std::path::Path;
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};
use sqlx::{AssertSqlSafe, SqlitePool};
use tower_api_key::{KeyChange, KeyRepository, KeyStore, SqliteStore, StoreErrorKind};

use crate::support::{event, insert};

#[tokio::test]
async fn reopening_keeps_the_keys() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.db");
    let url = format!("sqlite:{}", path.display());
    let store = open(&path).await;
    let key = insert(&store).await;
    store.close().await;
    assert_eq!(
        store.get(key.record.id).await.unwrap_err().kind(),
        StoreErrorKind::Unavailable,
        "a closed store cannot tell"
    );
    assert!(store.find(&key.credentials[0].digest).await.is_err());

    let store = SqliteStore::open(&url).await.unwrap();
    assert_eq!(store.get(key.record.id).await.unwrap(), Some(key));
}

#[tokio::test]
async fn a_store_in_memory_is_shared_by_its_clones_only() {
    for memory in ["sqlite::memory:", ":memory:", "sqlite://:memory:"] {
        let store = SqliteStore::open(memory).await.unwrap();
        let key = insert(&store).await;
        let (id, clone) = (key.record.id, store.clone());
        drop(store);
        assert_eq!(clone.get(id).await.unwrap(), Some(key));
        let other = SqliteStore::open(memory).await.unwrap();
        assert_eq!(other.get(id).await.unwrap(), None);
    }
}

#[tokio::test]
async fn what_is_no_database_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing/keys.db");
    let text = directory.path().join("notes.txt");
    std::fs::write(
        &text,
        "this is not a database, though it is long enough ".repeat(100),
    )
    .unwrap();
    let missing_read_only = format!("sqlite:{}/none.db?mode=rw", directory.path().display());
    for database in [
        "",
        "sqlite:",
        "sqlite://",
        "postgres://localhost/keys",
        "postgresql:",
        "postgresql:keys.db",
        "postgres:user:hunter2@localhost/keys",
        "mysql:keys.db",
        "file:keys.db",
        "hunter2://",
        "host=localhost password=hunter2",
        "password = hunter2",
        "'postgres:hunter2'",
        "\"postgres:hunter2\"",
        " postgres:hunter2",
        "sqlite:keys.db?mode=hunter2",
        &missing_read_only,
        missing.to_str().unwrap(),
        text.to_str().unwrap(),
    ] {
        let refused = SqliteStore::open(database).await.unwrap_err();
        assert_eq!(refused.kind(), StoreErrorKind::Unavailable, "{database}");
        assert!(std::error::Error::source(&refused).is_some(), "{database}");
        let told = format!("{refused} {refused:?}");
        assert!(!told.contains("hunter2"), "{database}: {told}");
        let made = Path::new(database.split('?').next().unwrap());
        assert!(
            database.is_empty() || made == text || !made.exists(),
            "{database}"
        );
    }
    for path in ["sqlite:{}/a=b.db", "{}/a=b c.db", "{}/'quoted'.db"] {
        let path = path.replace("{}", directory.path().to_str().unwrap());
        SqliteStore::open(&path).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_file_can_be_opened_by_many_at_once() {
    for _ in 0..5 {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys.db");
        let opening: Vec<_> = (0..8)
            .map(|_| {
                let path = path.clone();
                tokio::spawn(async move { open(&path).await })
            })
            .collect();
        let mut stores = Vec::new();
        for store in opening {
            stores.push(store.await.unwrap());
        }
        let key = insert(&stores[0]).await;
        for store in &stores {
            assert_eq!(store.get(key.record.id).await.unwrap().as_ref(), Some(&key));
        }
    }
}

#[tokio::test]
async fn stores_on_one_file_see_each_others_changes_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.db");
    let (one, other) = (open(&path).await, open(&path).await);
    let mut record = insert(&one).await;
    for round in 0..50 {
        let (writer, reader) = if round % 2 == 0 {
            (&one, &other)
        } else {
            (&other, &one)
        };
        record.record.version += 1;
        record.record.name = format!("round {round}");
        let change = KeyChange::new(record.record.clone(), event(record.record.id));
        assert!(writer.apply(&change).await.unwrap());
        let found = reader
            .find(&record.credentials[0].digest)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(found.record, record.record);
    }
}

#[tokio::test]
async fn files_are_in_wal_mode() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.db");
    let _store = open(&path).await;
    let mode: String = sqlx::query_scalar("PRAGMA journal_mode")
        .fetch_one(&pool(&path).await)
        .await
        .unwrap();
    assert_eq!(mode, "wal");
}

#[tokio::test]
async fn the_tables_refuse_what_is_no_key() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.db");
    let store = open(&path).await;
    let id = insert(&store).await.record.id;
    let pool = pool(&path).await;
    for statement in [
        "UPDATE tower_api_key_credentials SET digest = zeroblob(31)",
        "UPDATE tower_api_key_credentials SET digest = 'text'",
        "UPDATE tower_api_key_credentials SET key_row = 99",
        "UPDATE tower_api_key_keys SET version = 0",
        "UPDATE tower_api_key_keys SET scopes = '[\"orders'",
        "UPDATE tower_api_key_keys SET created_at = 'yesterday'",
        "DELETE FROM tower_api_key_keys",
    ] {
        assert!(
            sqlx::query(statement).execute(&pool).await.is_err(),
            "{statement}"
        );
    }
    assert!(store.get(id).await.unwrap().is_some());
}

#[tokio::test]
async fn an_applications_database_keeps_its_own_tables_and_migrations() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.db");
    let options = SqliteConnectOptions::new()
        .filename(&path)
        .create_if_missing(true);
    let pool = SqlitePoolOptions::new()
        .connect_with(options)
        .await
        .unwrap();
    for statement in [
        "CREATE TABLE orders (id INTEGER PRIMARY KEY, total INTEGER)",
        "INSERT INTO orders VALUES (1, 100)",
        "CREATE TABLE _sqlx_migrations (
             version BIGINT PRIMARY KEY, description TEXT NOT NULL,
             installed_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
             success BOOLEAN NOT NULL, checksum BLOB NOT NULL, execution_time BIGINT NOT NULL)",
        "INSERT INTO _sqlx_migrations VALUES (7, 'orders', CURRENT_TIMESTAMP, 1, x'00', 1)",
    ] {
        sqlx::query(statement).execute(&pool).await.unwrap();
    }

    let store = SqliteStore::from_pool(pool.clone()).await.unwrap();
    let key = insert(&store).await;
    store.close().await;
    let again = SqliteStore::from_pool(pool.clone()).await.unwrap();
    assert_eq!(
        again.get(key.record.id).await.unwrap(),
        Some(key),
        "the pool stays open"
    );
    let steps: i64 = sqlx::query_scalar("SELECT count(*) FROM _sqlx_migrations")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(steps, 1);
    let foreign: Vec<String> = sqlx::query_scalar(
        "SELECT name FROM sqlite_schema
         WHERE name NOT LIKE 'tower\\_api\\_key\\_%' ESCAPE '\\' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'
         ORDER BY name",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    assert_eq!(foreign, ["_sqlx_migrations", "orders"]);
}

#[tokio::test]
async fn a_database_of_a_later_version_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.db");
    let store = open(&path).await;
    assert!(damaged(&path, "migrations SET version = version + 97").await);
    store.close().await;
    let refused = SqliteStore::open(path.to_str().unwrap()).await.unwrap_err();
    assert_eq!(refused.kind(), StoreErrorKind::Unavailable);
}

#[tokio::test]
async fn lookups_use_the_indexes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.db");
    let _store = open(&path).await;
    let pool = pool(&path).await;
    for (query, index) in [
        (
            "FROM tower_api_key_keys WHERE owner = 'a' AND id < 'b' ORDER BY id DESC",
            "by_owner (owner=? AND id<?)",
        ),
        (
            "FROM tower_api_key_keys WHERE id < 'b' ORDER BY id DESC",
            "(id<?)",
        ),
        (
            "FROM tower_api_key_credentials WHERE key_row = 1 ORDER BY position",
            "(key_row=?)",
        ),
        (
            "FROM tower_api_key_events WHERE key_row = 1 ORDER BY seq DESC",
            "by_key (key_row=?)",
        ),
    ] {
        let plan: Vec<(i64, i64, i64, String)> = sqlx::query_as(AssertSqlSafe(format!(
            "EXPLAIN QUERY PLAN SELECT * {query}"
        )))
        .fetch_all(&pool)
        .await
        .unwrap();
        assert_eq!(plan.len(), 1, "no sorting: {plan:?}");
        assert!(plan[0].3.contains(index), "{plan:?}");
    }
}

#[tokio::test]
async fn debug_shows_nothing_of_the_database() {
    let store = SqliteStore::open("sqlite::memory:").await.unwrap();
    assert_eq!(format!("{store:?}"), "SqliteStore { .. }");
}

/// As on a disk that is not there any more.
#[tokio::test]
async fn a_call_that_is_never_answered_fails() {
    let options = SqlitePoolOptions::new()
        .max_connections(1)
        .acquire_timeout(Duration::from_hours(1));
    let pool = options.connect("sqlite::memory:").await.unwrap();
    let store = SqliteStore::from_pool(pool.clone()).await.unwrap();
    let key = insert(&store).await;
    let _held = pool.acquire().await.unwrap();
    tokio::time::pause();
    let found = store.find(&key.credentials[0].digest);
    let found = tokio::time::timeout(Duration::from_mins(1), found).await;
    let error = found.expect("it has a deadline").unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
}

async fn open(path: &Path) -> SqliteStore {
    SqliteStore::open(path.to_str().unwrap()).await.unwrap()
}

/// Connections of an operator, beside the store's own.
async fn pool(path: &Path) -> SqlitePool {
    let options = SqliteConnectOptions::new().filename(path);
    SqlitePoolOptions::new()
        .max_connections(1)
        .connect_with(options)
        .await
        .unwrap()
}

/// Updates a table without its checks, and tells whether SQLite did it.
async fn damaged(path: &Path, update: &str) -> bool {
    let pool = pool(path).await;
    for pragma in [
        "PRAGMA ignore_check_constraints = ON",
        "PRAGMA foreign_keys = OFF",
    ] {
        sqlx::query(pragma).execute(&pool).await.unwrap();
    }
    let statement = AssertSqlSafe(format!("UPDATE tower_api_key_{update}"));
    let outcome = sqlx::query(statement).execute(&pool).await;
    pool.close().await;
    outcome.is_ok()
}
