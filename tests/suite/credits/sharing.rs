//! Several instances of a service over one store.

use std::sync::Arc;

use futures_util::future::join_all;
use tokio::sync::Barrier;
use tower_api_key::{ApiKeys, KeyRepository, SqliteStore};

use super::{admits, issue, left, with};
use crate::core_support::SHUTDOWN;
use crate::postgres::Database;

/// A thousand requests at once, over all instances: how many were let through.
async fn storm(instances: &[ApiKeys], text: &str) -> u64 {
    const REQUESTS: usize = 1_000;
    let barrier = Arc::new(Barrier::new(REQUESTS));
    let requests = (0..REQUESTS).map(|number| {
        let keys = instances[number % instances.len()].clone();
        let (text, barrier) = (text.to_owned(), Arc::clone(&barrier));
        tokio::spawn(async move {
            barrier.wait().await;
            admits(&keys, &text, 1).await
        })
    });
    let outcomes = join_all(requests).await.into_iter();
    outcomes.map(|admitted| u64::from(admitted.unwrap())).sum()
}

async fn one_credit_is_spent_once(stores: [impl KeyRepository; 3]) {
    let instances = stores.map(|store| ApiKeys::builder(store).build());
    let (id, text) = issue(&instances[0], with(1)).await;
    assert_eq!(storm(&instances, &text).await, 1);
    assert_eq!(left(&instances[0], id).await, 0);

    // And of more there are, what is not spent is there after all have given back.
    let (id, text) = issue(&instances[1], with(700)).await;
    let admitted = storm(&instances, &text).await;
    assert!(admitted <= 700, "{admitted}");
    for keys in &instances {
        keys.shutdown(SHUTDOWN).await.unwrap();
    }
    assert_eq!(left(&instances[0], id).await, 700 - admitted);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_credit_is_spent_once_over_sqlite() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.db");
    let open = async || SqliteStore::open(path.to_str().unwrap()).await.unwrap();
    one_credit_is_spent_once([open().await, open().await, open().await]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_credit_is_spent_once_over_postgres() {
    let database = Database::new("credits are spent once").await;
    let open = async || database.open().await;
    one_credit_is_spent_once([open().await, open().await, open().await]).await;
}

#[tokio::test]
async fn balances_survive_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.db");
    let open = async || {
        let store = SqliteStore::open(path.to_str().unwrap()).await.unwrap();
        ApiKeys::builder(store).build()
    };
    let keys = open().await;
    let (id, text) = issue(&keys, with(10)).await;
    assert!(admits(&keys, &text, 3).await);
    keys.shutdown(SHUTDOWN).await.unwrap();
    let keys = open().await;
    assert_eq!(left(&keys, id).await, 7);
    assert!(admits(&keys, &text, 7).await);
    assert!(!admits(&keys, &text, 1).await);
}

#[tokio::test]
async fn what_an_idle_instance_gives_back_is_there_for_the_others() {
    let bench = crate::core_support::Bench::new();
    let other = bench.elsewhere();
    let (_, text) = issue(&bench.keys, with(800)).await;
    for _ in 0..200 {
        assert!(admits(&bench.keys, &text, 1).await);
    }
    let mut admitted = 0;
    while admits(&other, &text, 1).await {
        admitted += 1;
    }
    assert!(admitted < 600);
    bench.keys.flush().await.unwrap();
    bench.keys.flush().await.unwrap();
    bench.clock.advance(crate::core_support::SECOND);
    while admits(&other, &text, 1).await {
        admitted += 1;
    }
    assert_eq!(admitted, 600);
}

#[tokio::test]
async fn no_instance_is_told_of_a_balance_in_postgres() {
    let database = Database::new("balances are not told").await;
    let store = database.open().await;
    let keys = ApiKeys::builder(store.clone()).build();
    let (_, text) = issue(&keys, with(100)).await;
    let url = database.url();
    let mut listener = sqlx::postgres::PgListener::connect(url).await.unwrap();
    listener.listen(store.channel()).await.unwrap();
    for _ in 0..3 {
        assert!(admits(&keys, &text, 20).await);
    }
    keys.shutdown(SHUTDOWN).await.unwrap();
    // What PostgreSQL has to tell comes before the next answer.
    let pool = database.pool().await;
    let marker = "SELECT pg_notify($1, 'the end')";
    sqlx::query(marker)
        .bind(store.channel())
        .execute(&pool)
        .await
        .unwrap();
    assert_eq!(listener.recv().await.unwrap().payload(), "the end");
}

#[tokio::test]
async fn no_instance_is_told_of_a_balance_in_sqlite() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.db");
    let path = path.to_str().unwrap();
    let keys = ApiKeys::builder(SqliteStore::open(path).await.unwrap()).build();
    let (_, text) = issue(&keys, with(100)).await;
    let pool = sqlx::SqlitePool::connect(path).await.unwrap();
    let revision = async || -> i64 {
        let query = sqlx::query_scalar("SELECT max(revision) FROM tower_api_key_changes");
        query.fetch_one(&pool).await.unwrap()
    };
    let before = revision().await;
    assert!(admits(&keys, &text, 20).await);
    keys.shutdown(SHUTDOWN).await.unwrap();
    assert_eq!(revision().await, before);
}
