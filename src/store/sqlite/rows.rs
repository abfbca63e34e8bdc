//! Between the types and the columns. Whatever a column holds, reading it never panics.

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, ValueRef};

use crate::key::KeyDigest;
use crate::record::{Credential, KeyEvent, KeyId, KeyRecord, UsageBucket};
use crate::store::StoreError;
use crate::store::sql::columns::{UnreadableColumn, id_text, parsed, plain, timestamp};
use crate::store::sql::credits;

/// The key in a row that has the columns of `tower_api_key_keys` and those of a budget.
pub(super) fn record(row: &SqliteRow) -> Result<KeyRecord, StoreError> {
    read_record(row).map_err(|source| StoreError::corrupt(id_text(row), source))
}

fn read_record(row: &SqliteRow) -> Result<KeyRecord, UnreadableColumn> {
    Ok(KeyRecord {
        id: parsed(row, "id", |text: String| text.parse::<KeyId>())?,
        version: parsed(row, "version", |count: i64| u64::try_from(count))?,
        name: plain(row, "name")?,
        owner: plain(row, "owner")?,
        prefix: plain(row, "prefix")?,
        environment: plain(row, "environment")?,
        scopes: json(row, "scopes")?,
        limits: json(row, "limits")?,
        credits: credits::plan(row)?,
        metadata: json(row, "metadata")?,
        allowed_addresses: json(row, "allowed_addresses")?,
        enabled: plain(row, "enabled")?,
        created_at: time(row, "created_at")?,
        expires_at: optional_time(row, "expires_at")?,
        revoked_at: optional_time(row, "revoked_at")?,
    })
}

/// The credential in a row of a join, where the columns whose names the key's table has too begin
/// with `credential_`.
pub(super) fn credential(row: &SqliteRow) -> Result<Credential, StoreError> {
    read_credential(row).map_err(|source| StoreError::corrupt(id_text(row), source))
}

/// Whether an outer join found a credential to the row's key.
pub(super) fn has_credential(row: &SqliteRow) -> bool {
    row.try_get_raw("digest")
        .is_ok_and(|digest| !digest.is_null())
}

fn read_credential(row: &SqliteRow) -> Result<Credential, UnreadableColumn> {
    Ok(Credential {
        digest: parsed(row, "digest", |bytes: Vec<u8>| {
            <[u8; 32]>::try_from(bytes)
                .map(KeyDigest::from_bytes)
                .map_err(|bytes| format!("a digest has 32 bytes, not {}", bytes.len()))
        })?,
        pepper: plain(row, "pepper")?,
        start: plain(row, "start")?,
        imported: plain(row, "imported")?,
        created_at: time(row, "credential_created_at")?,
        expires_at: optional_time(row, "credential_expires_at")?,
        last_used_at: optional_time(row, "last_used_at")?,
    })
}

/// One hour of key `id`'s use.
pub(super) fn bucket(row: &SqliteRow, id: KeyId) -> Result<UsageBucket, StoreError> {
    let read = || {
        Ok(UsageBucket {
            start: time(row, "hour")?,
            allowed: parsed(row, "allowed", |count: i64| u64::try_from(count))?,
            denied: parsed(row, "denied", |count: i64| u64::try_from(count))?,
        })
    };
    read().map_err(|source: UnreadableColumn| StoreError::corrupt(id, source))
}

/// An event of key `id`, and its position in the audit trail.
pub(super) fn event(row: &SqliteRow, id: KeyId) -> Result<(u64, KeyEvent), StoreError> {
    let read = || {
        let event = KeyEvent {
            key: id,
            at: time(row, "at")?,
            action: parsed(row, "action", |text: String| text.parse())?,
            actor: plain(row, "actor")?,
        };
        let position = parsed(row, "seq", |seq: i64| u64::try_from(seq))?;
        Ok((position, event))
    };
    read().map_err(|source: UnreadableColumn| StoreError::corrupt(id, source))
}

fn time(row: &SqliteRow, column: &'static str) -> Result<Timestamp, UnreadableColumn> {
    parsed(row, column, timestamp)
}

fn optional_time(
    row: &SqliteRow,
    column: &'static str,
) -> Result<Option<Timestamp>, UnreadableColumn> {
    parsed(row, column, |micros: Option<i64>| {
        micros.map(timestamp).transpose()
    })
}

fn json<T: DeserializeOwned>(row: &SqliteRow, column: &'static str) -> Result<T, UnreadableColumn> {
    parsed(row, column, |text: &str| serde_json::from_str(text))
}
