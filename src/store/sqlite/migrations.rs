use std::borrow::Cow;

use sqlx::SqlitePool;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::{SqlSafeStr, SqlStr};

use crate::store::StoreError;

/// Makes the tables or brings them up to date.
pub(super) async fn run(pool: &SqlitePool) -> Result<(), StoreError> {
    // sqlx takes no lock of its own on SQLite. Inside one write transaction, of several processes
    // that open a new file at once, one makes the tables and the others find them made.
    let mut transaction = pool
        .begin_with("BEGIN IMMEDIATE")
        .await
        .map_err(StoreError::unavailable)?;
    migrator()
        .run(&mut *transaction)
        .await
        .map_err(StoreError::unavailable)?;
    transaction.commit().await.map_err(StoreError::unavailable)
}

fn migrator() -> Migrator {
    let mut migrator = Migrator::with_migrations(vec![step(
        1,
        "keys, credentials, usage and events",
        include_str!("0001_keys.sql"),
    )]);
    // Not the default table: that one is the application's.
    migrator.dangerous_set_table_name("tower_api_key_migrations");
    migrator
}

fn step(version: i64, description: &'static str, sql: &'static str) -> Migration {
    let sql: SqlStr = sql.into_sql_str();
    Migration::new(
        version,
        Cow::Borrowed(description),
        MigrationType::Simple,
        sql,
        false,
    )
}
