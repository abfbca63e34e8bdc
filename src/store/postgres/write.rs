//! The changes. Each is one transaction; dropped half-way, it is rolled back.
//!
//! Whoever locks several rows of a table locks them in the order of the table's own key, so that no
//! two transactions can wait for each other.

use sqlx::error::DatabaseError;
use sqlx::types::Json;
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool, Postgres, Transaction};

use super::credits;
use super::lease::Lease;
use super::schema::Schema;
use super::timestamptz::Timestamptz;
use crate::record::{Credential, KeyEvent, KeyId, KeyRecord, UsageBatch};
use crate::scope::Scope;
use crate::store::sql::columns::saturating;
use crate::store::{KeyChange, StoreError};

const INSERT_KEY: &str = "
INSERT INTO {schema}.keys (
    id, version, name, owner, prefix, environment, scopes, limits, metadata, allowed_addresses,
    enabled, created_at, expires_at, revoked_at
) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
RETURNING key_row";

pub(super) async fn insert(
    pool: &PgPool,
    schema: &Schema,
    record: &KeyRecord,
    credential: &Credential,
    event: &KeyEvent,
) -> Result<(), StoreError> {
    let mut lease = Lease::of(pool).await?;
    let mut transaction = begin(&mut lease).await?;
    let key_row = sqlx::query_scalar(AssertSqlSafe(schema.sql(INSERT_KEY)))
        .bind(record.id.to_string())
        .bind(version(record.version)?)
        .bind(&record.name)
        .bind(&record.owner)
        .bind(&record.prefix)
        .bind(&record.environment)
        .bind(scopes(record))
        .bind(Json(&record.limits))
        .bind(Json(&record.metadata))
        .bind(&record.allowed_addresses)
        .bind(record.enabled)
        .bind(Timestamptz::from(record.created_at))
        .bind(record.expires_at.map(Timestamptz::from))
        .bind(record.revoked_at.map(Timestamptz::from))
        .fetch_one(&mut *transaction)
        .await
        .map_err(|error| failed(error, record.id))?;
    insert_credential(&mut transaction, schema, key_row, credential, record.id).await?;
    if let Some(plan) = record.credits {
        credits::set(&mut transaction, schema, &[(key_row, plan, event.at)]).await?;
    }
    insert_event(&mut transaction, schema, key_row, event).await?;
    commit(transaction).await?;
    lease.finish();
    Ok(())
}

/// The key's prefix, environment and time of creation stay as they are.
const UPDATE_KEY: &str = "
UPDATE {schema}.keys
SET version = $1, name = $2, owner = $3, scopes = $4, limits = $5, metadata = $6,
    allowed_addresses = $7, enabled = $8, expires_at = $9, revoked_at = $10
WHERE id = $11 AND version = $12
RETURNING key_row";

const END_CREDENTIALS: &str = "
WITH ending AS (
    SELECT digest
    FROM {schema}.credentials
    WHERE key_row = $2 AND (expires_at IS NULL OR expires_at > $1)
    ORDER BY digest
    FOR NO KEY UPDATE
)
UPDATE {schema}.credentials AS c
SET expires_at = $1
FROM ending
WHERE c.digest = ending.digest";

/// Locks all of the key's credentials in their order, those too that [`END_CREDENTIALS`] locks
/// next.
const REMOVE_CREDENTIALS: &str = "
WITH locked AS MATERIALIZED (
    SELECT digest
    FROM {schema}.credentials
    WHERE key_row = $1
    ORDER BY digest
    FOR UPDATE
)
DELETE FROM {schema}.credentials AS c
USING locked
WHERE c.digest = locked.digest AND locked.digest = ANY ($2)";

pub(super) async fn apply(
    pool: &PgPool,
    schema: &Schema,
    change: &KeyChange,
) -> Result<bool, StoreError> {
    let record = &change.record;
    let mut lease = Lease::of(pool).await?;
    let mut transaction = begin(&mut lease).await?;
    lock(&mut transaction, schema, record.id).await?;
    let updated: Option<i64> = sqlx::query_scalar(AssertSqlSafe(schema.sql(UPDATE_KEY)))
        .bind(version(record.version)?)
        .bind(&record.name)
        .bind(&record.owner)
        .bind(scopes(record))
        .bind(Json(&record.limits))
        .bind(Json(&record.metadata))
        .bind(&record.allowed_addresses)
        .bind(record.enabled)
        .bind(record.expires_at.map(Timestamptz::from))
        .bind(record.revoked_at.map(Timestamptz::from))
        .bind(record.id.to_string())
        .bind(version(change.expected_version())?)
        .fetch_optional(&mut *transaction)
        .await
        .map_err(StoreError::unavailable)?;
    if let Some(key_row) = updated {
        apply_to_credentials(&mut transaction, schema, key_row, change).await?;
        credits::change(&mut transaction, schema, key_row, record, change.event.at).await?;
        insert_event(&mut transaction, schema, key_row, &change.event).await?;
    }
    commit(transaction).await?;
    lease.finish();
    Ok(updated.is_some())
}

/// Plain SQL that changes a credential or a budget locks that row first, and its trigger then locks
/// the key. A change that began with the key could wait for it in a circle.
const LOCK: &str = "
WITH of_key AS (
    SELECT key_row FROM {schema}.keys WHERE id = $1
), locked_credentials AS (
    SELECT digest FROM {schema}.credentials
    WHERE key_row = (SELECT key_row FROM of_key)
    ORDER BY digest
    FOR NO KEY UPDATE
), locked_credits AS (
    SELECT key_row FROM {schema}.credits
    WHERE key_row = (SELECT key_row FROM of_key)
    FOR NO KEY UPDATE
)
SELECT (SELECT count(*) FROM locked_credentials) + (SELECT count(*) FROM locked_credits)";

/// Locks what belongs to a key, before the key itself is locked.
async fn lock(connection: &mut PgConnection, schema: &Schema, id: KeyId) -> Result<(), StoreError> {
    sqlx::query(AssertSqlSafe(schema.sql(LOCK)))
        .bind(id.to_string())
        .execute(connection)
        .await
        .map_err(StoreError::unavailable)?;
    Ok(())
}

async fn apply_to_credentials(
    connection: &mut PgConnection,
    schema: &Schema,
    key_row: i64,
    change: &KeyChange,
) -> Result<(), StoreError> {
    if !change.remove_credentials.is_empty() {
        let digests = change.remove_credentials.iter();
        sqlx::query(AssertSqlSafe(schema.sql(REMOVE_CREDENTIALS)))
            .bind(key_row)
            .bind(column(digests, |digest| &digest.as_bytes()[..]))
            .execute(&mut *connection)
            .await
            .map_err(StoreError::unavailable)?;
    }
    if let Some(end) = change.end_credentials_at {
        sqlx::query(AssertSqlSafe(schema.sql(END_CREDENTIALS)))
            .bind(Timestamptz::from(end))
            .bind(key_row)
            .execute(&mut *connection)
            .await
            .map_err(StoreError::unavailable)?;
    }
    if let Some(credential) = &change.add_credential {
        insert_credential(connection, schema, key_row, credential, change.record.id).await?;
    }
    Ok(())
}

const INSERT_CREDENTIAL: &str = "
INSERT INTO {schema}.credentials (
    digest, key_row, position, pepper, start, imported, created_at, expires_at, last_used_at
)
SELECT $1, $2, coalesce(max(position), 0) + 1, $3, $4, $5, $6, $7, $8
FROM {schema}.credentials
WHERE key_row = $2";

async fn insert_credential(
    connection: &mut PgConnection,
    schema: &Schema,
    key_row: i64,
    credential: &Credential,
    id: KeyId,
) -> Result<(), StoreError> {
    sqlx::query(AssertSqlSafe(schema.sql(INSERT_CREDENTIAL)))
        .bind(&credential.digest.as_bytes()[..])
        .bind(key_row)
        .bind(&credential.pepper)
        .bind(&credential.start)
        .bind(credential.imported)
        .bind(Timestamptz::from(credential.created_at))
        .bind(credential.expires_at.map(Timestamptz::from))
        .bind(credential.last_used_at.map(Timestamptz::from))
        .execute(connection)
        .await
        .map_err(|error| failed(error, id))?;
    Ok(())
}

const INSERT_EVENT: &str =
    "INSERT INTO {schema}.events (key_row, at, action, actor) VALUES ($1, $2, $3, $4)";

async fn insert_event(
    connection: &mut PgConnection,
    schema: &Schema,
    key_row: i64,
    event: &KeyEvent,
) -> Result<(), StoreError> {
    sqlx::query(AssertSqlSafe(schema.sql(INSERT_EVENT)))
        .bind(key_row)
        .bind(Timestamptz::from(event.at))
        .bind(event.action.as_str())
        .bind(&event.actor)
        .execute(connection)
        .await
        .map_err(StoreError::unavailable)?;
    Ok(())
}

const ADD_USAGE: &str = "
INSERT INTO {schema}.usage AS u (key_row, hour, allowed, denied)
SELECT k.key_row, d.hour,
       least(sum(d.allowed), 9223372036854775807)::bigint,
       least(sum(d.denied), 9223372036854775807)::bigint
FROM unnest($1::text[], $2::timestamptz[], $3::bigint[], $4::bigint[])
     AS d (id, hour, allowed, denied)
JOIN {schema}.keys AS k USING (id)
GROUP BY k.key_row, d.hour
ORDER BY k.key_row, d.hour
ON CONFLICT (key_row, hour) DO UPDATE
SET allowed = least(u.allowed, 9223372036854775807 - excluded.allowed) + excluded.allowed,
    denied = least(u.denied, 9223372036854775807 - excluded.denied) + excluded.denied";

const MOVE_LAST_USED: &str = "
WITH used AS (
    SELECT k.key_row, d.digest, max(d.at) AS at
    FROM unnest($1::text[], $2::bytea[], $3::timestamptz[]) AS d (id, digest, at)
    JOIN {schema}.keys AS k USING (id)
    GROUP BY k.key_row, d.digest
), moving AS (
    SELECT c.digest, used.at
    FROM used
    JOIN {schema}.credentials AS c USING (key_row, digest)
    WHERE c.last_used_at IS NULL OR c.last_used_at < used.at
    ORDER BY c.digest
    FOR NO KEY UPDATE OF c
)
UPDATE {schema}.credentials AS c
SET last_used_at = moving.at
FROM moving
WHERE c.digest = moving.digest";

/// Waits for a transaction that is recording the same batch.
const REMEMBER_BATCH: &str =
    "INSERT INTO {schema}.usage_batches (id) VALUES ($1) ON CONFLICT (id) DO NOTHING";

/// The batch goes over as a few arrays, so that thousands of deltas are two statements.
pub(super) async fn record_usage(
    pool: &PgPool,
    schema: &Schema,
    batch: &UsageBatch,
) -> Result<(), StoreError> {
    let UsageBatch { id, deltas: batch } = batch;
    if batch.is_empty() {
        return Ok(());
    }
    let used = batch
        .iter()
        .filter_map(|delta| Some((delta, delta.last_used_at?)));
    let mut lease = Lease::of(pool).await?;
    let mut transaction = begin(&mut lease).await?;
    let remembered = sqlx::query(AssertSqlSafe(schema.sql(REMEMBER_BATCH)))
        .bind(id.to_string())
        .execute(&mut *transaction)
        .await
        .map_err(StoreError::unavailable)?;
    if remembered.rows_affected() == 0 {
        commit(transaction).await?;
        lease.finish();
        return Ok(());
    }
    sqlx::query(AssertSqlSafe(schema.sql(ADD_USAGE)))
        .bind(column(batch.iter(), |delta| delta.key.to_string()))
        .bind(column(batch.iter(), |delta| Timestamptz::from(delta.hour)))
        .bind(column(batch.iter(), |delta| saturating(delta.allowed)))
        .bind(column(batch.iter(), |delta| saturating(delta.denied)))
        .execute(&mut *transaction)
        .await
        .map_err(StoreError::unavailable)?;
    sqlx::query(AssertSqlSafe(schema.sql(MOVE_LAST_USED)))
        .bind(column(used.clone(), |(delta, _)| delta.key.to_string()))
        .bind(column(used.clone(), |(delta, _)| {
            &delta.credential.as_bytes()[..]
        }))
        .bind(column(used, |(_, at)| Timestamptz::from(at)))
        .execute(&mut *transaction)
        .await
        .map_err(StoreError::unavailable)?;
    commit(transaction).await?;
    lease.finish();
    Ok(())
}

pub(super) fn column<Delta, T>(
    deltas: impl Iterator<Item = Delta>,
    of: impl FnMut(Delta) -> T,
) -> Vec<T> {
    deltas.map(of).collect()
}

/// At the isolation that the statements are written for, whatever the pool's default is: at a
/// stricter one, of two concurrent changes one would fail rather than not apply. What commits is on
/// the disk, unless it was asked for more: a revocation that has returned must not come undone.
///
/// `tower_api_key.applying` keeps the triggers from raising the versions of the changed keys: a
/// [`KeyChange`] has the new version already.
const BEGIN: &str = "
BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;
SELECT set_config('tower_api_key.applying', 'on', true);
SELECT set_config('synchronous_commit', 'on', true)
WHERE current_setting('synchronous_commit') = 'off'";

pub(super) async fn begin(
    connection: &mut PgConnection,
) -> Result<Transaction<'_, Postgres>, StoreError> {
    connection
        .begin_with(BEGIN)
        .await
        .map_err(StoreError::unavailable)
}

pub(super) async fn commit(transaction: Transaction<'_, Postgres>) -> Result<(), StoreError> {
    transaction.commit().await.map_err(StoreError::unavailable)
}

pub(super) fn failed(error: sqlx::Error, id: KeyId) -> StoreError {
    let constraint = error
        .as_database_error()
        .and_then(DatabaseError::constraint);
    match constraint {
        Some("credentials_pkey" | "keys_id_key") => StoreError::duplicate(id),
        _ => StoreError::unavailable(error),
    }
}

pub(super) fn version(version: u64) -> Result<i64, StoreError> {
    i64::try_from(version).map_err(StoreError::unavailable)
}

fn scopes(record: &KeyRecord) -> Vec<&str> {
    record.scopes.iter().map(Scope::as_str).collect()
}
