//! Listings of many keys, and listings while there are lookups.

use jiff::Timestamp;
use sqlx::AssertSqlSafe;
use tokio::task::JoinSet;
use tower_api_key::{KeyFilter, KeyRepository, KeyStatus, KeyStore};

use super::Database;
use crate::support::insert;

const KEYS: i64 = 20_000;

/// The filters that have most to pass over: nothing fits them, or only a page of all there is. The
/// server itself counts the rows that it reads.
#[tokio::test]
async fn no_filter_reads_the_whole_table() {
    use KeyStatus::{Active, Disabled, Expired, Revoked};
    let database = Database::new("listed").await;
    database.open().await.close().await;
    let load = format!(
        "INSERT INTO {{schema}}.keys OVERRIDING SYSTEM VALUE
         SELECT n, 'key_' || lpad(n::text, 26, '0'), 1, 'n', 'owner ' || n % 100, 'sk', 'live', '{{}}',
                '[]', '{{}}', '{{}}', true, now(), NULL, NULL
         FROM generate_series(1, {KEYS}) AS n"
    );
    database.execute(&load).await.unwrap();
    database.execute("ANALYZE {schema}.keys").await.unwrap();

    let store = database.open().await;
    let owners = [None, Some("nobody".to_owned())];
    let environments = [None, Some("test".to_owned())];
    let statuses = [
        None,
        Some(Active),
        Some(Disabled),
        Some(Expired),
        Some(Revoked),
    ];
    let mut listings = 0;
    for owner in owners {
        for environment in environments.clone() {
            for status in statuses {
                let mut filter = KeyFilter::default();
                filter.owner.clone_from(&owner);
                filter.environment.clone_from(&environment);
                filter.status = status.map(|status| (status, Timestamp::now()));
                let all_fit = matches!(
                    (&owner, &environment, status),
                    (None, None, None | Some(Active))
                );
                let page = store.list(&filter).await.unwrap();
                assert_eq!(page.keys.len(), if all_fit { 50 } else { 0 }, "{filter:?}");
                listings += 1;
            }
        }
    }
    // What a connection has counted is known at the latest when it ends.
    store.close().await;
    let pool = database.pool().await;
    let read = format!(
        "SELECT coalesce(idx_scan, 0), seq_tup_read + coalesce(idx_tup_fetch, 0)
         FROM pg_stat_all_tables WHERE relid = '\"{}\".keys'::regclass",
        database.schema
    );
    loop {
        let query = sqlx::query_as(AssertSqlSafe(read.clone()));
        let (scans, rows): (i64, i64) = query.fetch_one(&pool).await.unwrap();
        assert!(
            rows < KEYS / 2,
            "{rows} rows were read for {listings} listings"
        );
        if scans >= listings {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// A table that is locked, for a migration of the application's own say, holds up every listing of
/// use. The lookups have connections left.
#[tokio::test(flavor = "multi_thread")]
async fn lookups_do_not_wait_for_listings() {
    let database = Database::new("listed beside").await;
    let store = database.builder().max_connections(4);
    let store = store.connect(database.url()).await.unwrap();
    let key = insert(&store).await;
    let pool = database.pool().await;
    let mut lock = pool.begin().await.unwrap();
    sqlx::query("LOCK \"listed beside\".usage IN ACCESS EXCLUSIVE MODE")
        .execute(&mut *lock)
        .await
        .unwrap();
    let mut listings = JoinSet::new();
    for _ in 0..20 {
        let (store, id) = (store.clone(), key.record.id);
        listings.spawn(async move { store.usage(id, Timestamp::MIN, Timestamp::MAX).await });
    }
    let waiting = "SELECT count(*) FROM pg_locks
                   WHERE relation = '\"listed beside\".usage'::regclass AND NOT granted";
    let mut are_waiting: i64 = 0;
    while are_waiting == 0 {
        let query = sqlx::query_scalar(waiting);
        are_waiting = query.fetch_one(&mut *lock).await.unwrap();
    }
    for _ in 0..20 {
        let found = store.find_latest(&key.credentials[0].digest).await;
        assert!(found.unwrap().is_some());
    }
    listings.shutdown().await;
    lock.rollback().await.unwrap();
}
