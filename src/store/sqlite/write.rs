//! The changes. Each is one transaction; dropped half-way, it is rolled back.

use serde_json::{Value, json};
use sqlx::{Sqlite, SqliteConnection, SqlitePool, Transaction};

use super::credits;
use crate::key::KeyDigest;
use crate::record::{Credential, KeyEvent, KeyId, KeyRecord, UsageBatch};
use crate::store::sql::columns::{micros, saturating};
use crate::store::{KeyChange, StoreError};

const INSERT_KEY: &str = "
INSERT INTO tower_api_key_keys (
    id, version, name, owner, prefix, environment, scopes, limits, metadata, allowed_addresses,
    enabled, created_at, expires_at, revoked_at
) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";

pub(super) async fn insert(
    pool: &SqlitePool,
    record: &KeyRecord,
    credential: &Credential,
    event: &KeyEvent,
) -> Result<(), StoreError> {
    let mut transaction = begin_change(pool).await?;
    let key_row = sqlx::query(INSERT_KEY)
        .bind(record.id.to_string())
        .bind(version(record.version)?)
        .bind(&record.name)
        .bind(&record.owner)
        .bind(&record.prefix)
        .bind(&record.environment)
        .bind(json_text(&record.scopes)?)
        .bind(json_text(&record.limits)?)
        .bind(json_text(&record.metadata)?)
        .bind(json_text(&record.allowed_addresses)?)
        .bind(record.enabled)
        .bind(micros(record.created_at))
        .bind(record.expires_at.map(micros))
        .bind(record.revoked_at.map(micros))
        .execute(&mut *transaction)
        .await
        .map_err(|error| failed(error, record.id))?
        .last_insert_rowid();
    insert_credential(&mut transaction, key_row, credential, record.id).await?;
    credits::set(&mut transaction, key_row, record, event.at).await?;
    insert_event(&mut transaction, key_row, event).await?;
    commit_change(transaction).await
}

/// The key's prefix, environment and time of creation stay as they are.
const UPDATE_KEY: &str = "
UPDATE tower_api_key_keys
SET version = ?, name = ?, owner = ?, scopes = ?, limits = ?, metadata = ?,
    allowed_addresses = ?, enabled = ?, expires_at = ?, revoked_at = ?
WHERE id = ? AND version = ?
RETURNING key_row";

const END_CREDENTIALS: &str = "
UPDATE tower_api_key_credentials
SET expires_at = ?1
WHERE key_row = ?2 AND (expires_at IS NULL OR expires_at > ?1)";

pub(super) async fn apply(pool: &SqlitePool, change: &KeyChange) -> Result<bool, StoreError> {
    let record = &change.record;
    let mut transaction = begin_change(pool).await?;
    let updated: Option<i64> = sqlx::query_scalar(UPDATE_KEY)
        .bind(version(record.version)?)
        .bind(&record.name)
        .bind(&record.owner)
        .bind(json_text(&record.scopes)?)
        .bind(json_text(&record.limits)?)
        .bind(json_text(&record.metadata)?)
        .bind(json_text(&record.allowed_addresses)?)
        .bind(record.enabled)
        .bind(record.expires_at.map(micros))
        .bind(record.revoked_at.map(micros))
        .bind(record.id.to_string())
        .bind(version(change.expected_version())?)
        .fetch_optional(&mut *transaction)
        .await
        .map_err(StoreError::unavailable)?;
    let Some(key_row) = updated else {
        return Ok(false);
    };
    remove_credentials(&mut transaction, key_row, &change.remove_credentials).await?;
    if let Some(end) = change.end_credentials_at {
        sqlx::query(END_CREDENTIALS)
            .bind(micros(end))
            .bind(key_row)
            .execute(&mut *transaction)
            .await
            .map_err(StoreError::unavailable)?;
    }
    if let Some(credential) = &change.add_credential {
        insert_credential(&mut transaction, key_row, credential, record.id).await?;
    }
    credits::change(&mut transaction, key_row, record, change.event.at).await?;
    insert_event(&mut transaction, key_row, &change.event).await?;
    commit_change(transaction).await?;
    Ok(true)
}

const REMOVE_CREDENTIALS: &str = "
DELETE FROM tower_api_key_credentials
WHERE key_row = ? AND digest IN (SELECT unhex(value) FROM json_each(?))";

async fn remove_credentials(
    connection: &mut SqliteConnection,
    key_row: i64,
    digests: &[KeyDigest],
) -> Result<(), StoreError> {
    if digests.is_empty() {
        return Ok(());
    }
    sqlx::query(REMOVE_CREDENTIALS)
        .bind(key_row)
        .bind(json_text(&digests)?)
        .execute(connection)
        .await
        .map_err(StoreError::unavailable)?;
    Ok(())
}

const INSERT_CREDENTIAL: &str = "
INSERT INTO tower_api_key_credentials (
    digest, key_row, position, pepper, start, imported, created_at, expires_at, last_used_at
)
SELECT ?1, ?2, coalesce(max(position), 0) + 1, ?3, ?4, ?5, ?6, ?7, ?8
FROM tower_api_key_credentials
WHERE key_row = ?2";

async fn insert_credential(
    connection: &mut SqliteConnection,
    key_row: i64,
    credential: &Credential,
    id: KeyId,
) -> Result<(), StoreError> {
    sqlx::query(INSERT_CREDENTIAL)
        .bind(&credential.digest.as_bytes()[..])
        .bind(key_row)
        .bind(&credential.pepper)
        .bind(&credential.start)
        .bind(credential.imported)
        .bind(micros(credential.created_at))
        .bind(credential.expires_at.map(micros))
        .bind(credential.last_used_at.map(micros))
        .execute(connection)
        .await
        .map_err(|error| failed(error, id))?;
    Ok(())
}

const INSERT_EVENT: &str =
    "INSERT INTO tower_api_key_events (key_row, at, action, actor) VALUES (?, ?, ?, ?)";

async fn insert_event(
    connection: &mut SqliteConnection,
    key_row: i64,
    event: &KeyEvent,
) -> Result<(), StoreError> {
    sqlx::query(INSERT_EVENT)
        .bind(key_row)
        .bind(micros(event.at))
        .bind(event.action.as_str())
        .bind(&event.actor)
        .execute(connection)
        .await
        .map_err(StoreError::unavailable)?;
    Ok(())
}

/// SQLite turns a sum over 63 bits into a floating-point number, so it is kept below.
const ADD_USAGE: &str = "
INSERT INTO tower_api_key_usage (key_row, hour, allowed, denied)
SELECT k.key_row, d.value ->> 'hour', d.value ->> 'allowed', d.value ->> 'denied'
FROM json_each(?) AS d
CROSS JOIN tower_api_key_keys AS k ON k.id = d.value ->> 'key'
WHERE TRUE
ON CONFLICT (key_row, hour) DO UPDATE
SET allowed = min(allowed, 9223372036854775807 - excluded.allowed) + excluded.allowed,
    denied = min(denied, 9223372036854775807 - excluded.denied) + excluded.denied";

const MOVE_LAST_USED: &str = "
UPDATE tower_api_key_credentials AS c
SET last_used_at = used.at
FROM (
    SELECT k.key_row, unhex(d.value ->> 'credential') AS digest, max(d.value ->> 'last_used_at') AS at
    FROM json_each(?) AS d
    CROSS JOIN tower_api_key_keys AS k ON k.id = d.value ->> 'key'
    WHERE d.value ->> 'last_used_at' IS NOT NULL
    GROUP BY 1, 2
) AS used
WHERE c.digest = used.digest AND c.key_row = used.key_row
  AND (c.last_used_at IS NULL OR c.last_used_at < used.at)";

const REMEMBER_BATCH: &str =
    "INSERT INTO tower_api_key_usage_batches (id) VALUES (?) ON CONFLICT (id) DO NOTHING";

/// The batch goes over as one JSON text, so that thousands of deltas hold the write lock for
/// milliseconds and a revocation need not wait for them.
pub(super) async fn record_usage(pool: &SqlitePool, batch: &UsageBatch) -> Result<(), StoreError> {
    if batch.deltas.is_empty() {
        return Ok(());
    }
    let deltas = batch.deltas.iter().map(|delta| {
        json!({
            "key": delta.key,
            "credential": delta.credential,
            "hour": micros(delta.hour),
            "allowed": saturating(delta.allowed),
            "denied": saturating(delta.denied),
            "last_used_at": delta.last_used_at.map(micros),
        })
    });
    let deltas = deltas.collect::<Value>().to_string();
    let mut transaction = begin(pool).await?;
    let remembered = sqlx::query(REMEMBER_BATCH)
        .bind(batch.id.to_string())
        .execute(&mut *transaction)
        .await
        .map_err(StoreError::unavailable)?;
    if remembered.rows_affected() == 0 {
        return Ok(());
    }
    for statement in [ADD_USAGE, MOVE_LAST_USED] {
        sqlx::query(statement)
            .bind(&deltas)
            .execute(&mut *transaction)
            .await
            .map_err(StoreError::unavailable)?;
    }
    commit(transaction).await
}

/// Begins a transaction in which the store changes keys. The triggers raise no version in it: a
/// [`KeyChange`] has the new version already.
pub(super) async fn begin_change(
    pool: &SqlitePool,
) -> Result<Transaction<'static, Sqlite>, StoreError> {
    let mut transaction = begin(pool).await?;
    sqlx::query("INSERT OR IGNORE INTO tower_api_key_applying VALUES (1)")
        .execute(&mut *transaction)
        .await
        .map_err(StoreError::unavailable)?;
    Ok(transaction)
}

/// Commits what [`begin_change`] began.
pub(super) async fn commit_change(
    mut transaction: Transaction<'static, Sqlite>,
) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM tower_api_key_applying")
        .execute(&mut *transaction)
        .await
        .map_err(StoreError::unavailable)?;
    commit(transaction).await
}

/// Begins as a writer: a reader that turned writer half-way would fail, rather than wait, when
/// another process wrote in between.
pub(super) async fn begin(pool: &SqlitePool) -> Result<Transaction<'static, Sqlite>, StoreError> {
    pool.begin_with("BEGIN IMMEDIATE")
        .await
        .map_err(StoreError::unavailable)
}

pub(super) async fn commit(transaction: Transaction<'static, Sqlite>) -> Result<(), StoreError> {
    transaction.commit().await.map_err(StoreError::unavailable)
}

fn failed(error: sqlx::Error, id: KeyId) -> StoreError {
    match error.as_database_error() {
        Some(violation) if violation.is_unique_violation() => StoreError::duplicate(id),
        _ => StoreError::unavailable(error),
    }
}

pub(super) fn version(version: u64) -> Result<i64, StoreError> {
    i64::try_from(version).map_err(StoreError::unavailable)
}

pub(super) fn json_text(value: &impl serde::Serialize) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(StoreError::unavailable)
}
