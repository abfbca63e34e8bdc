//! The lookups. Each is one statement, so each sees one point in time.

use jiff::Timestamp;
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Sqlite, SqlitePool};

use super::rows;
use crate::key::KeyDigest;
use crate::record::{Key, KeyId, KeyStatus, UsageBucket};
use crate::store::page::cut_events;
use crate::store::sql::columns::{id_text, micros, micros_from, saturating};
use crate::store::sql::listing::{self, Listed};
use crate::store::{EventCursor, EventPage, KeyFilter, KeyPage, StoreError, StoredKey};

const FIND: &str = "
SELECT k.*,
       c.digest, c.pepper, c.start, c.imported, c.last_used_at,
       c.created_at AS credential_created_at, c.expires_at AS credential_expires_at,
       b.since_version, b.granted, b.refill_amount, b.refill_every
FROM tower_api_key_credentials AS c
JOIN tower_api_key_keys AS k USING (key_row)
LEFT JOIN tower_api_key_credits AS b USING (key_row)
WHERE c.digest = ?";

pub(super) async fn find(
    pool: &SqlitePool,
    digest: &KeyDigest,
) -> Result<Option<StoredKey>, StoreError> {
    let row = sqlx::query(FIND)
        .bind(&digest.as_bytes()[..])
        .fetch_optional(pool)
        .await
        .map_err(StoreError::unavailable)?;
    row.map(|row| {
        Ok(StoredKey {
            record: rows::record(&row)?,
            credential: rows::credential(&row)?,
        })
    })
    .transpose()
}

pub(super) async fn key(pool: &SqlitePool, id: KeyId) -> Result<Option<Key>, StoreError> {
    let mut query = selected_keys(None);
    query.push("id = ").push_bind(id.to_string());
    let mut keys = fetch_keys(pool, query, 1).await?;
    keys.pop().map(|listed| listed.key).transpose()
}

pub(super) async fn page(pool: &SqlitePool, filter: &KeyFilter) -> Result<KeyPage, StoreError> {
    // One more than the page has shows that there is another page.
    let mut asked = filter.limit.saturating_add(1);
    loop {
        let rows = fetch_keys(pool, matching_keys(filter), asked).await?;
        if let Some(page) = listing::page(rows, filter.limit, asked) {
            return Ok(page);
        }
        asked = asked.saturating_mul(2);
    }
}

/// The beginning of [`fetch_keys`]' query for the keys that fit `filter`.
pub(super) fn matching_keys(filter: &KeyFilter) -> QueryBuilder<Sqlite> {
    let mut query = selected_keys(index(filter));
    query.push("id < ");
    match filter.after {
        Some(after) => query.push_bind(after.to_string()),
        // To SQLite every text is below every blob.
        None => query.push("x''"),
    };
    if let Some(owner) = &filter.owner {
        query.push(" AND owner = ").push_bind(owner.clone());
    }
    if let Some(environment) = &filter.environment {
        query
            .push(" AND environment = ")
            .push_bind(environment.clone());
    }
    if let Some((status, now)) = filter.status {
        push_status(&mut query, status, now);
    }
    query
}

/// The index in whose order a page is read; none for that of the ids themselves.
///
/// It is named in the statement. The planner would choose by the statistics of the application's
/// database, and a wrong choice sorts the whole table for each page.
fn index(filter: &KeyFilter) -> Option<&'static str> {
    let status = filter.status.map(|(status, _)| status);
    match (&filter.owner, &filter.environment, status) {
        (Some(_), ..) => Some("tower_api_key_keys_by_owner"),
        (None, _, Some(KeyStatus::Revoked)) => Some("tower_api_key_keys_revoked"),
        (None, _, Some(KeyStatus::Expired)) => Some("tower_api_key_keys_with_end"),
        (None, _, Some(KeyStatus::Disabled)) => Some("tower_api_key_keys_disabled"),
        (None, Some(_), Some(KeyStatus::Active) | None) => {
            Some("tower_api_key_keys_by_environment")
        }
        (None, None, Some(KeyStatus::Active)) => Some("tower_api_key_keys_enabled"),
        (None, None, None) => None,
    }
}

/// The same order of precedence as [`KeyRecord::status`](crate::record::KeyRecord::status).
fn push_status(query: &mut QueryBuilder<Sqlite>, status: KeyStatus, now: Timestamp) {
    if status == KeyStatus::Revoked {
        query.push(" AND revoked_at IS NOT NULL");
        return;
    }
    query.push(" AND revoked_at IS NULL AND ");
    if status == KeyStatus::Expired {
        query.push("expires_at <= ").push_bind(micros(now));
        return;
    }
    query
        .push("(expires_at IS NULL OR expires_at > ")
        .push_bind(micros(now))
        // A constant, by which SQLite knows the index that has only such keys.
        .push(match status {
            KeyStatus::Active => ") AND enabled = 1",
            _ => ") AND enabled = 0",
        });
}

/// The beginning of [`fetch_keys`]' query, to be followed by a condition on the key.
fn selected_keys(index: Option<&str>) -> QueryBuilder<Sqlite> {
    let mut query =
        QueryBuilder::new("WITH selected AS MATERIALIZED (SELECT * FROM tower_api_key_keys");
    if let Some(index) = index {
        query.push(" INDEXED BY ").push(index);
    }
    query.push(" WHERE ");
    query
}

/// At most `limit` keys of those that `query` selects, newest first, with their credentials.
async fn fetch_keys(
    pool: &SqlitePool,
    mut query: QueryBuilder<Sqlite>,
    limit: usize,
) -> Result<Vec<Listed>, StoreError> {
    complete(&mut query, limit);
    let rows = query
        .build()
        .fetch_all(pool)
        .await
        .map_err(StoreError::unavailable)?;
    let keys = rows.chunk_by(|row, next| id_text(row) == id_text(next));
    let listed = keys.map(|rows| Listed {
        id: id_text(&rows[0]),
        key: key_of(rows),
    });
    Ok(listed.collect())
}

/// The rest of [`fetch_keys`]' query.
pub(super) fn complete(query: &mut QueryBuilder<Sqlite>, limit: usize) {
    query
        .push(" ORDER BY id DESC LIMIT ")
        .push_bind(saturating(limit))
        .push(
            ")
SELECT k.*,
       c.digest, c.pepper, c.start, c.imported, c.last_used_at,
       c.created_at AS credential_created_at, c.expires_at AS credential_expires_at,
       b.since_version, b.granted, b.refill_amount, b.refill_every
FROM selected AS k
LEFT JOIN tower_api_key_credentials AS c USING (key_row)
LEFT JOIN tower_api_key_credits AS b USING (key_row)
ORDER BY k.id DESC, c.position",
        );
}

/// The key of `rows`, one for each of its credentials, or one without where it has none left.
fn key_of(rows: &[SqliteRow]) -> Result<Key, StoreError> {
    let with_credential = rows.iter().filter(|row| rows::has_credential(row));
    Ok(Key {
        record: rows::record(&rows[0])?,
        credentials: with_credential
            .map(rows::credential)
            .collect::<Result<_, _>>()?,
    })
}

const USAGE: &str = "
SELECT hour, allowed, denied
FROM tower_api_key_usage
WHERE key_row = (SELECT key_row FROM tower_api_key_keys WHERE id = ?) AND hour >= ? AND hour < ?
ORDER BY hour";

pub(super) async fn usage(
    pool: &SqlitePool,
    id: KeyId,
    from: Timestamp,
    to: Timestamp,
) -> Result<Vec<UsageBucket>, StoreError> {
    let rows = sqlx::query(USAGE)
        .bind(id.to_string())
        .bind(micros_from(from))
        .bind(micros_from(to))
        .fetch_all(pool)
        .await
        .map_err(StoreError::unavailable)?;
    rows.iter().map(|row| rows::bucket(row, id)).collect()
}

const EVENTS: &str = "
SELECT seq, at, action, actor
FROM tower_api_key_events
WHERE key_row = (SELECT key_row FROM tower_api_key_keys WHERE id = ?) AND seq < ?
ORDER BY seq DESC
LIMIT ?";

pub(super) async fn events(
    pool: &SqlitePool,
    id: KeyId,
    before: Option<EventCursor>,
    limit: usize,
) -> Result<EventPage, StoreError> {
    let rows = sqlx::query(EVENTS)
        .bind(id.to_string())
        .bind(saturating(before.map_or(u64::MAX, EventCursor::position)))
        .bind(saturating(limit.saturating_add(1)))
        .fetch_all(pool)
        .await
        .map_err(StoreError::unavailable)?;
    let events = rows.iter().map(|row| rows::event(row, id));
    Ok(cut_events(events.collect::<Result<_, _>>()?, limit))
}
