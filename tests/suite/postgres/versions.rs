//! Plain SQL and the store change a key at once, and neither change undoes the other.

use std::sync::Arc;

use sqlx::{AssertSqlSafe, Executor, PgPool};
use tokio::sync::Barrier;
use tower_api_key::{
    ApiKeys, Changed, Credits, Key, KeyErrorKind, KeyRepository, KeyUpdate, NewKey, PostgresStore,
};

use super::{Database, quoted, update};
use crate::support::insert;

const ITS_CREDENTIALS: &str = "WHERE key_row = (SELECT max(key_row) FROM {schema}.keys)";

#[tokio::test]
async fn plain_sql_makes_a_version_of_its_own() {
    let database = Database::new("versions").await;
    let store = database.open().await;
    for (statement, is_change) in [
        ("UPDATE {schema}.keys SET revoked_at = now()", true),
        ("UPDATE {schema}.keys SET enabled = NOT enabled", true),
        ("UPDATE {schema}.keys SET scopes = '{a}', version = 1", true),
        ("UPDATE {schema}.keys SET enabled = enabled", false),
        (
            "SET session_replication_role = replica; UPDATE {schema}.keys SET revoked_at = now()",
            true,
        ),
        (
            "SET session_replication_role = replica;
             UPDATE {schema}.credentials SET expires_at = now() {its}",
            true,
        ),
        (
            "BEGIN; UPDATE {schema}.keys SET enabled = NOT enabled; ROLLBACK",
            false,
        ),
        (
            "UPDATE {schema}.credentials SET expires_at = now() {its}",
            true,
        ),
        (
            "UPDATE {schema}.credentials SET digest = sha256(digest) {its}",
            true,
        ),
        (
            "UPDATE {schema}.credentials SET last_used_at = now() {its}",
            false,
        ),
        ("UPDATE {schema}.credentials SET start = start {its}", false),
        ("DELETE FROM {schema}.credentials {its}", true),
        ("TRUNCATE {schema}.credentials", true),
        (
            "INSERT INTO {schema}.credits SELECT max(key_row), 1, 5, 5, now(), NULL, NULL
             FROM {schema}.keys",
            true,
        ),
        ("UPDATE {schema}.credits SET granted = 7", true),
        ("UPDATE {schema}.credits SET remaining = 3", false),
        ("DELETE FROM {schema}.credits", true),
    ] {
        let key = insert(&store).await;
        if statement.contains("credits SET") || statement.contains("FROM {schema}.credits") {
            let add = "INSERT INTO {schema}.credits SELECT max(key_row), 1, 5, 5, now(), NULL, NULL
                       FROM {schema}.keys";
            database.execute(add).await.unwrap();
        }
        let computed_from = stored(&store, &key).await;
        let statement = statement.replace("{its}", ITS_CREDENTIALS);
        database.execute(&statement).await.unwrap();

        let changed = stored(&store, &key).await;
        let raised = changed.record.version - computed_from.record.version;
        assert_eq!(raised, u64::from(is_change), "{statement}");
        let mut late = update(&computed_from);
        late.record.name = "late".into();
        assert_eq!(store.apply(&late).await.unwrap(), !is_change, "{statement}");
        if is_change {
            assert_eq!(stored(&store, &key).await, changed, "{statement}");
            assert!(store.apply(&update(&changed)).await.unwrap(), "{statement}");
        }
        database
            .execute("TRUNCATE {schema}.keys CASCADE")
            .await
            .unwrap();
    }
}

/// A key is restored from a backup, by a transaction that deletes it or its whole table before.
#[tokio::test]
async fn a_key_that_is_inserted_again_goes_on_from_its_version() {
    const DELETE: &str = "DELETE FROM {schema}.events; DELETE FROM {schema}.credentials;
                          DELETE FROM {schema}.keys";

    let database = Database::new("inserted again").await;
    let store = database.open().await;
    for (remove, conflict) in [
        (DELETE, ""),
        (DELETE, "ON CONFLICT (id) DO UPDATE SET name = 'x'"),
        (
            "SET session_replication_role = replica;
             DELETE FROM {schema}.keys; DELETE FROM {schema}.credentials",
            "",
        ),
        ("TRUNCATE {schema}.keys CASCADE", ""),
    ] {
        let key = insert(&store).await;
        assert_eq!(stored(&store, &key).await.record.version, 1);
        let statements = format!(
            "BEGIN;
             CREATE TEMP TABLE kept_keys AS SELECT * FROM {{schema}}.keys;
             CREATE TEMP TABLE kept AS SELECT * FROM {{schema}}.credentials;
             {remove};
             UPDATE kept_keys SET revoked_at = now();
             INSERT INTO {{schema}}.keys OVERRIDING SYSTEM VALUE SELECT * FROM kept_keys {conflict};
             INSERT INTO {{schema}}.credentials SELECT * FROM kept;
             COMMIT"
        );
        database.execute(&statements).await.unwrap();
        let restored = stored(&store, &key).await;
        assert!(restored.record.revoked_at.is_some(), "{remove}");
        assert!(restored.record.version > key.record.version, "{remove}");
        assert!(!store.apply(&update(&key)).await.unwrap(), "{remove}");
        assert_eq!(stored(&store, &key).await, restored, "{remove}");
        assert!(store.apply(&update(&restored)).await.unwrap(), "{remove}");
        database.execute(DELETE).await.unwrap();
    }
}

/// A key that the store writes has the version that the store gave it, whatever is written with it.
#[tokio::test]
async fn a_change_of_the_store_is_one_version() {
    let database = Database::new("own versions").await;
    let keys = ApiKeys::builder(database.open().await).build();
    let new = NewKey::named("billing").credits(Credits::new(100));
    let id = keys.issue(new).await.unwrap().key().record.id;
    let version = async || keys.get(id).await.unwrap().record.version;
    assert_eq!(version().await, 1);
    let minute = std::time::Duration::from_mins(1);
    let rotated = keys.rotate(id, minute).await.unwrap();
    assert_eq!((rotated.key().record.version, version().await), (2, 2));
    let topped_up = KeyUpdate::new().credits(Credits::new(50));
    let updated = keys.update(id, topped_up).await.unwrap();
    assert_eq!((updated.record.version, version().await), (3, 3));
    let revoked = keys.revoke(id).await.unwrap();
    assert_eq!((revoked.record.version, version().await), (4, 4));
}

/// 648 changes by plain SQL against as many of the store, on the connections of two instances.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_change_by_plain_sql_is_lost_to_a_change_of_the_store() {
    const ROUNDS: usize = 162;
    let database = Database::new("raced").await;
    let keys = ApiKeys::builder(database.open().await).build();
    let pool = database.pool().await;
    let schema = quoted(&database.schema);
    let its = "WHERE key_row = (SELECT key_row FROM {schema}.keys WHERE id = '{id}')";
    let kinds = [
        "UPDATE {schema}.keys SET revoked_at = now() WHERE id = '{id}'".to_owned(),
        "UPDATE {schema}.keys SET enabled = false WHERE id = '{id}'".to_owned(),
        format!("UPDATE {{schema}}.credentials SET expires_at = now() {its}"),
        format!("DELETE FROM {{schema}}.credentials {its}"),
    ];
    let mut lost = 0;
    for round in 0..ROUNDS * kinds.len() {
        let kind = round % kinds.len();
        let id = keys
            .issue(NewKey::named("raced"))
            .await
            .unwrap()
            .key()
            .record
            .id;
        let statement = kinds[kind].replace("{schema}", &schema);
        let statement = statement.replace("{id}", &id.to_string());
        let together = Arc::new(Barrier::new(2));
        let changing = {
            let (keys, together) = (keys.clone(), Arc::clone(&together));
            tokio::spawn(async move {
                together.wait().await;
                // Those that end credentials write the same rows as the statement does.
                match round / 4 % 2 {
                    0 => keys
                        .update(id, KeyUpdate::new().name("renamed"))
                        .await
                        .map(Changed::into_key),
                    _ => keys
                        .rotate(id, std::time::Duration::ZERO)
                        .await
                        .map(|rotated| rotated.into_parts().1),
                }
            })
        };
        together.wait().await;
        run(&pool, &statement).await;
        if let Err(error) = changing.await.unwrap() {
            let allowed = [KeyErrorKind::Revoked, KeyErrorKind::Invalid];
            assert!(allowed.contains(&error.kind()), "round {round}: {error:?}");
        }
        let key = keys.get(id).await.unwrap();
        let is_kept = match kind {
            0 => key.record.revoked_at.is_some(),
            1 => !key.record.enabled,
            2 => key.credentials[0].expires_at.is_some(),
            _ => key.credentials.len() < 2,
        };
        lost += usize::from(!is_kept);
    }
    assert_eq!(lost, 0);
}

async fn run(pool: &PgPool, statement: &str) {
    pool.execute(AssertSqlSafe(statement.to_owned()))
        .await
        .unwrap_or_else(|error| panic!("{statement}: {error}"));
}

async fn stored(store: &PostgresStore, key: &Key) -> Key {
    store.get(key.record.id).await.unwrap().unwrap()
}
