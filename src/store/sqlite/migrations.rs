use sqlx::SqlitePool;
use sqlx::migrate::Migration;

use crate::store::StoreError;
use crate::store::sql::migrations::{step, take};

/// Which steps were taken. Not sqlx's default table: that one is the application's.
const TABLE: &str = "tower_api_key_migrations";

/// Every step that made the tables what they are now. A released one never changes.
fn steps() -> [Migration; 1] {
    [step(1, "keys", include_str!("0001_keys.sql"))]
}

/// Makes the tables or brings them up to date.
pub(super) async fn run(pool: &SqlitePool) -> Result<(), StoreError> {
    // One write transaction, as sqlx takes no other lock on SQLite: of several processes that open
    // a new file at once, one makes the tables and the others find them made.
    let mut transaction = pool
        .begin_with("BEGIN IMMEDIATE")
        .await
        .map_err(StoreError::unavailable)?;
    take(&mut *transaction, TABLE, &steps())
        .await
        .map_err(StoreError::unavailable)?;
    transaction.commit().await.map_err(StoreError::unavailable)
}
