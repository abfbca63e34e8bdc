//! Between the types and the columns. Whatever a column holds, reading it never panics.

use jiff::Timestamp;
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{Row, ValueRef};

use super::timestamptz::Timestamptz;
use crate::key::KeyDigest;
use crate::record::{Credential, KeyEvent, KeyId, KeyRecord, UsageBucket};
use crate::scope::ScopeSet;
use crate::store::StoreError;
use crate::store::sql::columns::{UnreadableColumn, id_text, parsed, plain};
use crate::store::sql::credits;

/// What [`record`] and [`credential`] read. Named one by one: a column that a later version adds
/// would change the result of a prepared `*`, which PostgreSQL refuses, while both versions run.
pub(super) const COLUMNS: &str = "
SELECT k.id, k.version, k.name, k.owner, k.prefix, k.environment, k.scopes, k.limits, k.metadata,
       k.allowed_addresses, k.enabled, k.created_at, k.expires_at, k.revoked_at,
       c.digest, c.pepper, c.start, c.imported, c.last_used_at,
       c.created_at AS credential_created_at, c.expires_at AS credential_expires_at,
       b.since_version, b.granted, b.refill_amount, b.refill_every";

/// The key in a row of [`COLUMNS`].
pub(super) fn record(row: &PgRow) -> Result<KeyRecord, StoreError> {
    read_record(row).map_err(|source| StoreError::corrupt(id_text(row), source))
}

fn read_record(row: &PgRow) -> Result<KeyRecord, UnreadableColumn> {
    Ok(KeyRecord {
        id: parsed(row, "id", |text: String| text.parse::<KeyId>())?,
        version: parsed(row, "version", |count: i64| u64::try_from(count))?,
        name: plain(row, "name")?,
        owner: plain(row, "owner")?,
        prefix: plain(row, "prefix")?,
        environment: plain(row, "environment")?,
        scopes: parsed(row, "scopes", |scopes: Vec<String>| ScopeSet::new(scopes))?,
        limits: plain(row, "limits").map(|Json(limits)| limits)?,
        credits: credits::plan(row)?,
        metadata: plain(row, "metadata").map(|Json(metadata)| metadata)?,
        allowed_addresses: plain(row, "allowed_addresses")?,
        enabled: plain(row, "enabled")?,
        created_at: time(row, "created_at")?,
        expires_at: optional_time(row, "expires_at")?,
        revoked_at: optional_time(row, "revoked_at")?,
    })
}

/// The credential in a row of [`COLUMNS`].
pub(super) fn credential(row: &PgRow) -> Result<Credential, StoreError> {
    read_credential(row).map_err(|source| StoreError::corrupt(id_text(row), source))
}

/// Whether an outer join found a credential to the row's key.
pub(super) fn has_credential(row: &PgRow) -> bool {
    row.try_get_raw("digest")
        .is_ok_and(|digest| !digest.is_null())
}

fn read_credential(row: &PgRow) -> Result<Credential, UnreadableColumn> {
    Ok(Credential {
        digest: parsed(row, "digest", |bytes: &[u8]| {
            <[u8; 32]>::try_from(bytes)
                .map(KeyDigest::from_bytes)
                .map_err(|_| format!("a digest has 32 bytes, not {}", bytes.len()))
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
pub(super) fn bucket(row: &PgRow, id: KeyId) -> Result<UsageBucket, StoreError> {
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
pub(super) fn event(row: &PgRow, id: KeyId) -> Result<(u64, KeyEvent), StoreError> {
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

fn time(row: &PgRow, column: &'static str) -> Result<Timestamp, UnreadableColumn> {
    parsed(row, column, Timestamptz::timestamp)
}

fn optional_time(row: &PgRow, column: &'static str) -> Result<Option<Timestamp>, UnreadableColumn> {
    parsed(row, column, |time: Option<Timestamptz>| {
        time.map(Timestamptz::timestamp).transpose()
    })
}
