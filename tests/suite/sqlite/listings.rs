//! Listings of many keys while there are lookups.

use std::path::Path;
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};
use sqlx::{AssertSqlSafe, SqlitePool};
use tokio::task::JoinSet;
use tower_api_key::{KeyFilter, KeyRepository, KeyStore, SqliteStore};

use crate::support::insert;

const KEYS: u32 = 20_000;
const LISTINGS: usize = 40;

/// Each listing reads every key, for longer than all the lookups take together. Where they had to
/// wait in one queue, the last lookup would come after the last listing.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn lookups_do_not_wait_for_listings() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.db");
    let own = SqliteStore::open(path.to_str().unwrap()).await.unwrap();
    let digest = insert(&own).await.credentials[0].digest;
    let pool = pool(&path).await;
    load(&pool).await;
    let in_an_application = SqliteStore::from_pool(pool).await.unwrap();

    for store in [own, in_an_application] {
        let mut listings = JoinSet::new();
        for _ in 0..LISTINGS {
            let store = store.clone();
            listings.spawn(async move {
                let mut all = KeyFilter::default();
                all.limit = usize::MAX;
                let listed = store.list(&all).await;
                // There may be too many at once, which is no reason to keep lookups waiting.
                listed.map_or(0, |page| page.keys.len())
            });
        }
        // All of them wait for a connection, or have one.
        tokio::time::sleep(Duration::from_millis(100)).await;
        for _ in 0..20 {
            assert!(store.find(&digest).await.unwrap().is_some());
        }
        let mut finished = Vec::new();
        while let Some(listed) = listings.try_join_next() {
            finished.push(listed.unwrap());
        }
        assert!(
            finished.len() < LISTINGS,
            "the lookups came after the listings"
        );
        listings.shutdown().await;
    }
}

/// The connections of an application.
async fn pool(path: &Path) -> SqlitePool {
    let options = SqliteConnectOptions::new().filename(path);
    let pool = SqlitePoolOptions::new().max_connections(4);
    pool.connect_with(options).await.unwrap()
}

async fn load(pool: &SqlitePool) {
    let numbers = format!(
        "WITH RECURSIVE number (n) AS (SELECT 2 UNION ALL SELECT n + 1 FROM number WHERE n <= {KEYS})"
    );
    let keys = format!(
        "INSERT INTO tower_api_key_keys {numbers}
         SELECT n, printf('key_%026d', n), 1, 'n', NULL, 'sk', 'live', '[]', '[]', '{{}}', '[]', 1, 0,
                NULL, NULL
         FROM number"
    );
    let credentials = format!(
        "INSERT INTO tower_api_key_credentials {numbers}
         SELECT CAST(printf('%032d', n) AS BLOB), n, 1, NULL, 's', 0, 0, NULL, NULL FROM number"
    );
    let mut transaction = pool.begin().await.unwrap();
    for statement in [keys, credentials] {
        sqlx::query(AssertSqlSafe(statement))
            .execute(&mut *transaction)
            .await
            .unwrap();
    }
    transaction.commit().await.unwrap();
}
