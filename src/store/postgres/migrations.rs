use sqlx::migrate::{Migrate, MigrateError, Migration};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use super::schema::Schema;
use crate::store::StoreError;
use crate::store::sql::migrations::{missing, step, take};

/// Every step that made the tables what they are now. A released one never changes.
fn steps() -> [Migration; 1] {
    [step(1, "keys", include_str!("0001_keys.sql"))]
}

/// Makes the schema and its tables or brings them up to date.
pub(super) async fn run(connection: &mut PgConnection, schema: &Schema) -> Result<(), StoreError> {
    // Not sqlx's default table: that one is the application's.
    let table = schema.sql("{schema}.migrations");
    let steps = steps();
    if is_current(connection, &table, &steps)
        .await
        .map_err(StoreError::unavailable)?
    {
        return Ok(());
    }
    let mut transaction = connection
        .begin_with(
            "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL statement_timeout = 0",
        )
        .await
        .map_err(StoreError::unavailable)?;
    prepare(&mut transaction, schema)
        .await
        .map_err(StoreError::unavailable)?;
    take(&mut *transaction, &table, &steps)
        .await
        .map_err(StoreError::unavailable)?;
    transaction.commit().await.map_err(StoreError::unavailable)
}

/// Whether there is nothing to do. It takes neither a lock nor the right to change tables, which
/// instances need not have where somebody else has made them.
async fn is_current(
    connection: &mut PgConnection,
    table: &str,
    steps: &[Migration],
) -> Result<bool, MigrateError> {
    let exists: bool = sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL")
        .bind(table)
        .fetch_one(&mut *connection)
        .await?;
    if !exists {
        return Ok(false);
    }
    let taken = connection.list_applied_migrations(table).await?;
    Ok(missing(steps, &taken)?.is_empty())
}

async fn prepare(connection: &mut PgConnection, schema: &Schema) -> sqlx::Result<()> {
    // Held until the transaction ends: of several instances that start at once, one takes the
    // steps, and the others find them taken.
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('tower_api_key ' || $1, 0))")
        .bind(schema.name())
        .execute(&mut *connection)
        .await?;
    let exists: bool =
        sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)")
            .bind(schema.name())
            .fetch_one(&mut *connection)
            .await?;
    // `IF NOT EXISTS` would ask for the right to make a schema also where there is one.
    if !exists {
        sqlx::query(AssertSqlSafe(schema.sql("CREATE SCHEMA {schema}")))
            .execute(&mut *connection)
            .await?;
    }
    // Temporary tables last: they would come first if they were not named.
    sqlx::query("SELECT set_config('search_path', $1 || ', pg_temp', true)")
        .bind(schema.quoted())
        .execute(connection)
        .await?;
    Ok(())
}
