use std::borrow::Cow;

use sqlx::migrate::{Migrate, MigrateError, Migration, MigrationType};
use sqlx::{SqlSafeStr, SqliteConnection, SqlitePool};

use crate::store::StoreError;

/// Which steps were taken. Not sqlx's default table: that one is the application's.
const TABLE: &str = "tower_api_key_migrations";

/// Every step that made the tables what they are now. A released one never changes.
fn steps() -> [Migration; 2] {
    [
        step(
            1,
            "keys, credentials, usage and events",
            include_str!("0001_keys.sql"),
        ),
        step(2, "changes", include_str!("0002_changes.sql")),
    ]
}

/// Makes the tables or brings them up to date.
pub(super) async fn run(pool: &SqlitePool) -> Result<(), StoreError> {
    // One write transaction, as sqlx takes no other lock on SQLite: of several processes that open
    // a new file at once, one makes the tables and the others find them made.
    let mut transaction = pool
        .begin_with("BEGIN IMMEDIATE")
        .await
        .map_err(StoreError::unavailable)?;
    take_steps(&mut transaction)
        .await
        .map_err(StoreError::unavailable)?;
    transaction.commit().await.map_err(StoreError::unavailable)
}

async fn take_steps(connection: &mut SqliteConnection) -> Result<(), MigrateError> {
    connection.ensure_migrations_table(TABLE).await?;
    let taken = connection.list_applied_migrations(TABLE).await?;
    let steps = steps();
    let unknown = taken
        .iter()
        .find(|taken| steps.iter().all(|step| step.version != taken.version));
    if let Some(later) = unknown {
        return Err(MigrateError::VersionMissing(later.version));
    }
    for step in &steps {
        match taken.iter().find(|taken| taken.version == step.version) {
            Some(taken) if taken.checksum != step.checksum => {
                return Err(MigrateError::VersionMismatch(step.version));
            }
            Some(_) => {}
            None => {
                connection.apply(TABLE, step).await?;
            }
        }
    }
    Ok(())
}

fn step(version: i64, description: &'static str, sql: &'static str) -> Migration {
    Migration::new(
        version,
        Cow::Borrowed(description),
        MigrationType::Simple,
        sql.into_sql_str(),
        false,
    )
}
