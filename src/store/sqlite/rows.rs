//! Between the types and the columns. Whatever a column holds, reading it never panics.

use std::error::Error;
use std::fmt;

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use sqlx::sqlite::SqliteRow;
use sqlx::{Decode, Row, Sqlite, Type, ValueRef};

use crate::key::KeyDigest;
use crate::record::{Credential, KeyEvent, KeyId, KeyRecord, UsageBucket};
use crate::store::StoreError;

type BoxError = Box<dyn Error + Send + Sync>;

/// The key in a row that has the columns of `tower_api_key_keys`.
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

/// An event of key `id`.
pub(super) fn event(row: &SqliteRow, id: KeyId) -> Result<KeyEvent, StoreError> {
    let read = || {
        Ok(KeyEvent {
            key: id,
            at: time(row, "at")?,
            action: parsed(row, "action", |text: String| text.parse())?,
            actor: plain(row, "actor")?,
        })
    };
    read().map_err(|source: UnreadableColumn| StoreError::corrupt(id, source))
}

/// The column `id` as it is, also where it is no [`KeyId`].
pub(super) fn id_text(row: &SqliteRow) -> String {
    row.try_get("id")
        .unwrap_or_else(|_| "(its id is unreadable too)".to_owned())
}

/// `time` as it is stored: in microseconds since the epoch, the rest cut off downwards, so that
/// nothing ends later than it was told to.
pub(super) fn micros(time: Timestamp) -> i64 {
    saturating(time.as_nanosecond().div_euclid(1_000))
}

/// The time that was stored as `micros`. `Timestamp::from_microsecond` refuses the last second that
/// a timestamp can have.
fn timestamp(micros: i64) -> Result<Timestamp, jiff::Error> {
    Timestamp::from_nanosecond(i128::from(micros) * 1_000)
}

/// The first stored time that is not before `time`: what a range has to be compared with.
pub(super) fn micros_from(time: Timestamp) -> i64 {
    saturating(-(-time.as_nanosecond()).div_euclid(1_000))
}

/// `count` as it is stored: in the 63 bits that SQLite has for it.
pub(super) fn saturating(count: impl TryInto<i64>) -> i64 {
    count.try_into().unwrap_or(i64::MAX)
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

fn plain<'r, T>(row: &'r SqliteRow, column: &'static str) -> Result<T, UnreadableColumn>
where
    T: Decode<'r, Sqlite> + Type<Sqlite>,
{
    row.try_get(column).map_err(|error| UnreadableColumn {
        column,
        source: error.into(),
    })
}

fn parsed<'r, Stored, T, E>(
    row: &'r SqliteRow,
    column: &'static str,
    parse: impl FnOnce(Stored) -> Result<T, E>,
) -> Result<T, UnreadableColumn>
where
    Stored: Decode<'r, Sqlite> + Type<Sqlite>,
    E: Into<BoxError>,
{
    parse(plain(row, column)?).map_err(|error| UnreadableColumn {
        column,
        source: error.into(),
    })
}

/// Which column of a row cannot be read, and why.
#[derive(Debug)]
struct UnreadableColumn {
    column: &'static str,
    source: BoxError,
}

impl fmt::Display for UnreadableColumn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "column `{}` cannot be read", self.column)
    }
}

impl Error for UnreadableColumn {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_between_two_microseconds_are_stored_as_the_earlier_one() {
        let nanos = |nanos| Timestamp::from_nanosecond(nanos).unwrap();
        assert_eq!((micros(nanos(1_999)), micros_from(nanos(1_999))), (1, 2));
        assert_eq!((micros(nanos(2_000)), micros_from(nanos(2_000))), (2, 2));
        assert_eq!((micros(nanos(-1)), micros_from(nanos(-1))), (-1, 0));
        for edge in [Timestamp::MIN, Timestamp::MAX] {
            assert!(timestamp(micros(edge)).is_ok());
        }
    }

    #[test]
    fn counts_beyond_63_bits_saturate() {
        assert_eq!(saturating(u64::MAX), i64::MAX);
        assert_eq!(saturating(usize::MAX), i64::MAX);
    }
}
