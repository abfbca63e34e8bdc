//! What an instance learns of changes that others make.

use std::time::Duration;

use sqlx::PgPool;
use tokio::time::Instant;
use tower_api_key::{ApiKeys, Attempt, Issued, KeyStore, NewKey, PostgresStore, Requirements};

use super::{Database, with_parameter};

async fn accepts(keys: &ApiKeys, issued: &Issued) -> bool {
    let attempt = Attempt::new(issued.secret().expose());
    let verified = keys.verifier().verify(attempt, &Requirements::new()).await;
    verified.is_ok()
}

/// Whether it is refused before the TTL of the cache can be the reason.
async fn refuses_soon(keys: &ApiKeys, issued: &Issued) -> bool {
    let give_up = Instant::now() + Duration::from_secs(20);
    while Instant::now() < give_up {
        if !accepts(keys, issued).await {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    false
}

#[tokio::test]
async fn a_change_on_one_instance_and_one_by_plain_sql_hold_on_another() {
    let database = Database::new("bus").await;
    let keys = async || ApiKeys::builder(database.open().await).build();
    let (here, there) = (keys().await, keys().await);
    let issue = async || {
        let issued = here.issue(NewKey::named("x")).await.unwrap();
        assert!(accepts(&here, &issued).await && accepts(&there, &issued).await);
        issued
    };
    let issued = issue().await;
    here.revoke(issued.key().record.id).await.unwrap();
    assert!(refuses_soon(&there, &issued).await);

    let issued = issue().await;
    database
        .execute("UPDATE {schema}.keys SET revoked_at = now()")
        .await
        .unwrap();
    assert!(refuses_soon(&here, &issued).await && refuses_soon(&there, &issued).await);
}

#[tokio::test]
async fn a_key_that_is_revoked_while_the_listener_is_cut_off_is_refused() {
    let database = Database::new("bus_cut").await;
    let url = with_parameter("application_name=bus_cut");
    let store = database.builder().connect(&url).await.unwrap();
    let (keys, pool) = (ApiKeys::builder(store).build(), database.pool().await);
    for _ in 0..5 {
        let issued = keys.issue(NewKey::named("x")).await.unwrap();
        assert!(accepts(&keys, &issued).await);
        listens(&pool).await;
        // The connections end in the same statement in which nobody is told of the change.
        database
            .execute(
                "ALTER TABLE {schema}.keys DISABLE TRIGGER USER;
                 UPDATE {schema}.keys SET revoked_at = now();
                 ALTER TABLE {schema}.keys ENABLE TRIGGER USER;
                 SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
                 WHERE application_name = 'bus_cut'",
            )
            .await
            .unwrap();
        assert!(refuses_soon(&keys, &issued).await);
    }
}

/// Waits until somebody listens on a connection that will be ended.
async fn listens(pool: &PgPool) {
    let query = "SELECT count(*) FROM pg_stat_activity
                 WHERE application_name = 'bus_cut' AND query LIKE 'LISTEN \"tower_api_key.bus_cut\"%'";
    for _ in 0..10_000 {
        let listeners: i64 = sqlx::query_scalar(query).fetch_one(pool).await.unwrap();
        if listeners > 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("nobody listens");
}

#[tokio::test]
async fn a_proof_comes_after_all_that_was_told_before() {
    let database = Database::new("bus_proof").await;
    let store: PostgresStore = database.open().await;
    let keys = ApiKeys::builder(store.clone()).build();
    let mut ear = store.bus().unwrap().subscribe().await.unwrap();
    let mut told = Vec::new();
    for _ in 0..20 {
        let issued = keys.issue(NewKey::named("x")).await.unwrap();
        told.push(issued.key().record.id.to_string());
    }
    assert_eq!(ear.next(Instant::now()).await.unwrap(), None);
    for id in told {
        let soon = Instant::now() + Duration::from_secs(1);
        let heard = ear.next(soon).await.unwrap().unwrap().to_string();
        assert!(heard.starts_with(&id), "{heard}");
    }
}
