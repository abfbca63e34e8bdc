//! Schemas and their tables, made once, under any name, by whoever may.

use std::error::Error;

use jiff::Timestamp;
use sqlx::postgres::PgPoolOptions;
use sqlx::{Executor, PgPool};
use tower_api_key::{
    KeyRepository, KeyStore, PostgresStore, StoreErrorKind, UsageBatch, UsageDelta,
};

use super::{Database, update, url, url_of, with_parameter};
use crate::support::insert;

#[tokio::test(flavor = "multi_thread")]
async fn a_new_schema_can_be_opened_by_ten_stores_at_once() {
    for round in 0..3 {
        let database = Database::new(&format!("opened by ten, {round}")).await;
        let opening: Vec<_> = (0..10)
            .map(|_| {
                let builder = database.builder();
                tokio::spawn(async move { builder.connect(&url()).await.unwrap() })
            })
            .collect();
        let mut stores = Vec::new();
        for store in opening {
            stores.push(store.await.unwrap());
        }
        let key = insert(&stores[0]).await;
        for store in &stores {
            assert_eq!(store.get(key.record.id).await.unwrap().as_ref(), Some(&key));
            store.close().await;
        }
    }
}

#[tokio::test]
async fn a_schema_can_have_any_name() {
    let outsider = Database::new("any name, outside").await;
    outsider
        .execute("CREATE SCHEMA {schema}; CREATE TABLE {schema}.keys ()")
        .await
        .unwrap();
    for name in [
        "AnyName",
        "any name",
        "any'name",
        "any\"name",
        "any\"; DROP SCHEMA \"any name, outside\" CASCADE; --",
        "any\\name $1 ? {schema}",
        "schlüssel 🗝",
        &"any".repeat(21),
    ] {
        let database = Database::new(name).await;
        let store = database.open().await;
        let mut key = insert(&store).await;
        assert!(store.apply(&update(&key)).await.unwrap(), "{name}");
        key.record.version += 1;
        let found = store.find(&key.credentials[0].digest).await.unwrap();
        assert_eq!(found.unwrap().record, key.record, "{name}");
        let written = database.execute("SELECT FROM {schema}.keys").await;
        assert_eq!(written.unwrap(), 1, "{name}");
    }
    outsider
        .execute("SELECT FROM {schema}.keys")
        .await
        .expect("no name has reached beyond its quotes");
}

#[tokio::test]
async fn what_cannot_be_opened_is_refused() {
    for name in ["", "nul\0", "pg_reserved", &"x".repeat(64)] {
        let refused = PostgresStore::builder().schema(name).connect(&url()).await;
        is_unavailable(refused, name);
    }
    let no_database = url_of("tower_api_key_that_is_missing");
    for url in [
        "",
        "sqlite:keys.db",
        "mysql://localhost/keys",
        "postgres://127.0.0.1:1/keys",
        "postgres://127.0.0.1:99999/keys",
        "postgres://127.0.0.1/keys?sslmode=unheard-of",
        &no_database,
    ] {
        is_unavailable(PostgresStore::connect(url).await, url);
    }
    let database = Database::new("cannot be opened").await;
    let bad_replica = database.builder().replica("sqlite:keys.db");
    is_unavailable(bad_replica.connect(&url()).await, "a replica");
}

fn is_unavailable(opened: Result<PostgresStore, tower_api_key::StoreError>, what: &str) {
    let error = opened.expect_err(what);
    assert_eq!(error.kind(), StoreErrorKind::Unavailable, "{what}");
    assert!(error.source().is_some(), "{what}");
}

#[tokio::test]
async fn reopening_keeps_the_keys() {
    let database = Database::new("reopened").await;
    let store = database.open().await;
    let key = insert(&store).await;
    let clone = store.clone();
    store.close().await;
    let (id, digest) = (key.record.id, key.credentials[0].digest);
    for closed in [store, clone] {
        assert_eq!(
            closed.get(id).await.unwrap_err().kind(),
            StoreErrorKind::Unavailable,
            "a closed store cannot tell"
        );
        assert!(closed.find(&digest).await.is_err());
    }
    let again = database.open().await;
    assert_eq!(again.get(id).await.unwrap(), Some(key));
}

#[tokio::test]
async fn tables_of_a_later_version_are_refused() {
    for damage in [
        "UPDATE {schema}.migrations SET version = version + 98",
        "INSERT INTO {schema}.migrations SELECT 99, 'later', now(), true, '', 1",
        "UPDATE {schema}.migrations SET checksum = 'another'",
    ] {
        let database = Database::new("of a later version").await;
        database.open().await.close().await;
        database.execute(damage).await.unwrap();
        is_unavailable(database.builder().connect(&url()).await, damage);
        let pool = database.pool().await;
        is_unavailable(database.builder().with_pool(pool).await, damage);
    }
}

#[tokio::test]
async fn an_applications_pool_stays_open_and_keeps_its_settings() {
    let database = Database::new("in an application").await;
    let pool = database
        .pool_with([("search_path", "pg_catalog"), ("statement_timeout", "77s")])
        .await;
    let store = database.builder().with_pool(pool.clone()).await.unwrap();
    let mut key = insert(&store).await;
    assert!(store.apply(&update(&key)).await.unwrap());
    key.record.version += 1;
    store.close().await;

    for (setting, expected) in [("search_path", "pg_catalog"), ("statement_timeout", "77s")] {
        for value in settings(&pool, setting).await {
            assert_eq!(value, expected, "{setting}");
        }
    }
    let again = database.builder().with_pool(pool.clone()).await.unwrap();
    assert_eq!(again.get(key.record.id).await.unwrap(), Some(key));
    let of_sqlx: Option<String> =
        sqlx::query_scalar("SELECT to_regclass('public._sqlx_migrations')::text")
            .fetch_one(&pool)
            .await
            .unwrap();
    assert_eq!(of_sqlx, None, "that table is the application's");
}

/// What each of the pool's connections has for `setting`.
async fn settings(pool: &PgPool, setting: &str) -> Vec<String> {
    let mut connections = Vec::new();
    for _ in 0..pool.options().get_max_connections() {
        connections.push(pool.acquire().await.unwrap());
    }
    let mut values = Vec::new();
    for connection in &mut connections {
        let value = sqlx::query_scalar("SELECT current_setting($1)").bind(setting);
        values.push(value.fetch_one(&mut **connection).await.unwrap());
    }
    values
}

#[tokio::test]
async fn statements_have_a_time_limit_unless_the_url_has_another() {
    let database = Database::new("time limit").await;
    let with_own = with_parameter("options=-c%20statement_timeout%3D7s");
    for (builder, url, expected) in [
        (database.builder(), url(), "5s"),
        (database.builder().statement_timeout(None), url(), "0"),
        (database.builder(), with_own, "7s"),
    ] {
        let store = builder.connect(&url).await.unwrap();
        assert_eq!(
            seen_by_a_change(&database, &store, "statement_timeout").await,
            expected
        );
    }
}

#[tokio::test]
async fn what_has_returned_is_on_the_disk() {
    let database = Database::new("on the disk").await;
    for (setting, expected) in [
        ("off", "on"),
        ("local", "local"),
        ("remote_apply", "remote_apply"),
    ] {
        let pool = database.pool_with([("synchronous_commit", setting)]).await;
        let store = database.builder().with_pool(pool).await.unwrap();
        assert_eq!(
            seen_by_a_change(&database, &store, "synchronous_commit").await,
            expected,
            "{setting} becomes {expected}"
        );
    }
}

/// What a setting is in the transaction of a change, as a trigger sees it.
async fn seen_by_a_change(database: &Database, store: &PostgresStore, setting: &str) -> String {
    let spy = "
        DROP TABLE IF EXISTS {schema}.seen CASCADE;
        CREATE TABLE {schema}.seen (value text);
        CREATE OR REPLACE FUNCTION {schema}.spy() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO {schema}.seen VALUES (current_setting('SETTING'));
            RETURN NULL;
        END $$;
        CREATE OR REPLACE TRIGGER spy AFTER INSERT ON {schema}.events
            EXECUTE FUNCTION {schema}.spy();";
    database
        .execute(&spy.replace("SETTING", setting))
        .await
        .unwrap();
    insert(store).await;
    let pool = database.pool().await;
    let query = format!("SELECT value FROM \"{}\".seen", database.schema);
    sqlx::query_scalar(sqlx::AssertSqlSafe(query))
        .fetch_one(&pool)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_role_that_may_only_read_and_write_can_open_what_exists() {
    let database = Database::new("of another role").await;
    database.open().await.close().await;
    database
        .execute(
            "DROP ROLE IF EXISTS tower_api_key_reader_and_writer;
             CREATE ROLE tower_api_key_reader_and_writer;
             GRANT USAGE ON SCHEMA {schema} TO tower_api_key_reader_and_writer;
             GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA {schema}
                 TO tower_api_key_reader_and_writer",
        )
        .await
        .unwrap();
    let pool = PgPoolOptions::new()
        .after_connect(|connection, _| {
            Box::pin(async move {
                connection
                    .execute("SET ROLE tower_api_key_reader_and_writer")
                    .await?;
                Ok(())
            })
        })
        .connect(&url())
        .await
        .unwrap();
    let store = database.builder().with_pool(pool.clone()).await.unwrap();
    let key = insert(&store).await;
    assert!(store.apply(&update(&key)).await.unwrap());
    let used = UsageDelta {
        key: key.record.id,
        credential: key.credentials[0].digest,
        hour: Timestamp::UNIX_EPOCH,
        allowed: 1,
        denied: 0,
        last_used_at: Some(Timestamp::UNIX_EPOCH),
    };
    // The ids of old batches go, though the role may not delete them.
    let older = "INSERT INTO {schema}.usage_batches VALUES
                 ('old', now() - interval '25 hours'), ('new', now() - interval '23 hours')";
    database.execute(older).await.unwrap();
    let batch = UsageBatch::new(vec![used]);
    store.record_usage(&batch).await.unwrap();
    let ids = format!("SELECT id FROM \"{}\".usage_batches", database.schema);
    let mut ids: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(ids))
        .fetch_all(&pool)
        .await
        .unwrap();
    ids.sort();
    assert_eq!(ids, [batch.id.to_string(), "new".to_owned()]);
    pool.close().await;
    database
        .execute("DROP OWNED BY tower_api_key_reader_and_writer; DROP ROLE tower_api_key_reader_and_writer")
        .await
        .unwrap();
}

#[tokio::test]
async fn no_error_of_a_url_quotes_it() {
    for url in [
        "postgres:user:hunter2@localhost/keys",
        "postgres:/user:hunter2@localhost/keys",
        "postgre://user:hunter2@localhost/keys",
        "postgres://user:hunter2#@localhost/keys",
        "postgres://user:hunter2@localhost:port/keys",
        "postgres://user@localhost/keys?sslmode=hunter2",
        "postgres://user@localhost/keys?password=hunter2&hostaddr=hunter2",
        "hunter2",
    ] {
        let refused = PostgresStore::connect(url).await.unwrap_err();
        let told = format!("{refused} {refused:?}");
        assert!(!told.contains("hunter2"), "{url}: {told}");
        let with_replica = PostgresStore::builder().replica(url);
        let refused = with_replica.connect(&super::url()).await.unwrap_err();
        let told = format!("{refused} {refused:?}");
        assert!(!told.contains("hunter2"), "replica {url}: {told}");
    }
}

#[tokio::test]
async fn debug_shows_no_password() {
    let builder = PostgresStore::builder().replica("postgres://user:hunter2@replica/keys");
    assert!(!format!("{builder:?}").contains("hunter2"), "{builder:?}");
    let database = Database::new("shown").await;
    let store = database.open().await;
    assert_eq!(
        format!("{store:?}"),
        "PostgresStore { schema: \"shown\", .. }"
    );
}
