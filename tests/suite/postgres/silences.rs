//! Networks that fall silent: connections stay open, nothing arrives, and no error says so.

use std::time::Duration;

use sqlx::{Executor, PgPool, Postgres, Transaction};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tower_api_key::{ApiKeys, KeyRepository, KeyStore, NewKey, PostgresStore, StoreErrorKind};

use super::outages::{Network, State};
use super::{Database, update};
use crate::core_support::{settle, verify};
use crate::support::insert;

/// Long enough for a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(30);

/// Nine, as it was seen: with the listener they took each of ten connections.
#[tokio::test]
async fn changes_on_dead_connections_fail_at_their_deadline() {
    let database = Database::new("dead").await;
    let network = Network::new().await;
    let builder = database.builder().deadline(Duration::from_secs(3));
    let store = builder.connect(&network.way_to(database.url())).await;
    let store = store.unwrap();
    let key = insert(&store).await;
    let pool = database.pool().await;
    let lock = lock(&pool, "dead.keys").await;
    let mut changes = JoinSet::new();
    for _ in 0..9 {
        let (store, change) = (store.clone(), update(&key));
        changes.spawn(async move { store.apply(&change).await.map_err(|error| error.kind()) });
    }
    waiting(&pool, "dead.keys", 8).await;
    network.set(State::Silent);
    settle().await;
    lock.rollback().await.unwrap();
    let failed = timeout(PATIENCE, changes.join_all()).await;
    let failed = failed.expect("no change waits for ever");
    assert_eq!(failed, [Err(StoreErrorKind::Unavailable); 9]);

    network.set(State::Up);
    let digest = key.credentials[0].digest;
    assert!(store.find(&digest).await.unwrap().is_some());
}

#[tokio::test]
async fn however_many_changes_are_stuck_a_lookup_finds_a_connection() {
    let database = Database::new("stuck").await;
    let store = database.open().await;
    let key = insert(&store).await;
    let pool = database.pool().await;
    let _lock = lock(&pool, "stuck.events").await;
    let mut changes = JoinSet::new();
    for _ in 0..20 {
        let (store, change) = (store.clone(), update(&key));
        changes.spawn(async move { store.apply(&change).await.is_ok() });
    }
    waiting(&pool, "stuck.events", 1).await;
    for _ in 0..20 {
        let found = store.find(&key.credentials[0].digest).await;
        assert!(found.unwrap().is_some());
    }
    changes.shutdown().await;
}

/// The pool tests a connection before it takes it back.
#[tokio::test]
async fn a_connection_that_dies_while_it_is_given_back_leaves_its_place() {
    let database = Database::new("given_back").await;
    let network = Network::new().await;
    let builder = database.builder().max_connections(3);
    let store = builder.connect(&network.way_to(database.url())).await;
    let store = store.unwrap();
    let digest = insert(&store).await.credentials[0].digest;
    for _ in 0..3 {
        let found = async { while store.find(&digest).await.is_err() {} };
        let found = timeout(PATIENCE, found).await;
        found.expect("a place is free again");
        // Before the answer to the test arrives.
        network.set(State::Silent);
        settle().await;
        network.set(State::Up);
    }
    let found = async { while store.find(&digest).await.is_err() {} };
    let found = timeout(PATIENCE, found).await;
    found.expect("each place is free again");
}

#[tokio::test]
async fn idle_connections_that_have_died_cost_no_lookup() {
    let database = Database::new("idle").await;
    let network = Network::new().await;
    let builder = database.builder().acquire_timeout(PATIENCE);
    let store = builder.connect(&network.way_to(database.url())).await;
    let store = store.unwrap();
    let digest = insert(&store).await.credentials[0].digest;
    let mut lookups = JoinSet::new();
    for _ in 0..10 {
        let store = store.clone();
        lookups.spawn(async move { store.find(&digest).await.is_ok() });
    }
    assert_eq!(lookups.join_all().await, [true; 10]);
    settle().await;
    network.set(State::Silent);
    settle().await;
    network.set(State::Up);
    for _ in 0..10 {
        let found = timeout(PATIENCE / 3, store.find(&digest)).await;
        let found = found.expect("a new connection is made in time");
        assert!(found.unwrap().is_some());
    }
}

#[tokio::test]
async fn a_listener_that_falls_silent_takes_no_connection_from_lookups() {
    let database = Database::new("silent_listener").await;
    let network = Network::new().await;
    let builder = database.builder().max_connections(2);
    let store = builder.connect(&network.way_to(database.url())).await;
    let store = store.unwrap();
    let digest = insert(&store).await.credentials[0].digest;
    for _ in 0..3 {
        let listener = store.bus().unwrap().subscribe().await.unwrap();
        network.set(State::Silent);
        settle().await;
        drop(listener);
        network.set(State::Up);
        let found = async { while store.find(&digest).await.is_err() {} };
        let found = timeout(PATIENCE, found).await;
        found.expect("a place is free");
    }
}

#[tokio::test]
async fn use_is_written_by_a_shutdown_though_a_flush_is_stuck() {
    let database = Database::new("stuck_flush").await;
    let network = Network::new().await;
    let keys = keys(&database, &network).await;
    let issued = keys.issue(NewKey::named("x").scopes(["orders:read"]));
    let issued = issued.await.unwrap();
    let verified = verify(keys.verifier(), issued.secret().expose()).await;
    verified.unwrap();
    let pool = database.pool().await;
    let lock = lock(&pool, "stuck_flush.usage").await;
    let flush = {
        let keys = keys.clone();
        tokio::spawn(async move { keys.flush().await.is_ok() })
    };
    waiting(&pool, "stuck_flush.usage", 1).await;
    network.set(State::Silent);
    settle().await;
    lock.rollback().await.unwrap();
    network.set(State::Up);

    let shutdown = timeout(PATIENCE * 2, keys.shutdown(PATIENCE)).await;
    let shutdown = shutdown.expect("a shutdown ends by its deadline");
    shutdown.unwrap();
    assert!(!flush.await.unwrap());
    let (from, to) = (jiff::Timestamp::MIN, jiff::Timestamp::MAX);
    let usage = keys.usage(issued.key().record.id, from, to).await.unwrap();
    let allowed: Vec<_> = usage.iter().map(|hour| hour.allowed).collect();
    assert_eq!(allowed, [1]);
}

async fn keys(database: &Database, network: &Network) -> ApiKeys {
    let builder = database.builder().deadline(Duration::from_secs(2));
    let store: PostgresStore = builder
        .connect(&network.way_to(database.url()))
        .await
        .unwrap();
    ApiKeys::builder(store).deaf().build()
}

async fn lock(pool: &PgPool, table: &str) -> Transaction<'static, Postgres> {
    let mut lock = pool.begin().await.unwrap();
    let statement = format!("LOCK {table} IN ACCESS EXCLUSIVE MODE");
    lock.execute(sqlx::AssertSqlSafe(statement)).await.unwrap();
    lock
}

/// Waits until so many statements wait for that lock.
async fn waiting(pool: &PgPool, table: &str, statements: i64) {
    let query = "SELECT count(*) FROM pg_locks WHERE relation = $1::regclass AND NOT granted";
    let counted = async {
        while sqlx::query_scalar::<_, i64>(query)
            .bind(table)
            .fetch_one(pool)
            .await
            .unwrap()
            < statements
        {}
    };
    let counted = timeout(PATIENCE, counted).await;
    counted.expect("the statements are sent");
}
