//! The lookups. Each is one statement, so each sees one point in time.

use jiff::Timestamp;
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, PgPool, Postgres, QueryBuilder, Row};

use super::lease::Lease;
use super::rows::{self, COLUMNS};
use super::schema::Schema;
use super::timestamptz::Timestamptz;
use crate::key::KeyDigest;
use crate::record::{Key, KeyId, KeyStatus, UsageBucket};
use crate::store::page::cut_events;
use crate::store::sql::columns::{id_text, saturating};
use crate::store::sql::listing::{self, Listed};
use crate::store::{EventCursor, EventPage, KeyFilter, KeyPage, StoreError, StoredKey};

const FIND: &str = "
FROM {schema}.credentials AS c
JOIN {schema}.keys AS k USING (key_row)
LEFT JOIN {schema}.credits AS b USING (key_row)
WHERE c.digest = $1";

pub(super) async fn find(
    pool: &PgPool,
    schema: &Schema,
    digest: &KeyDigest,
) -> Result<Option<StoredKey>, StoreError> {
    let mut lease = Lease::of(pool).await?;
    let row = sqlx::query(AssertSqlSafe(schema.sql(&[COLUMNS, FIND].concat())))
        .bind(&digest.as_bytes()[..])
        .fetch_optional(&mut *lease)
        .await
        .map_err(StoreError::unavailable)?;
    lease.finish();
    row.map(|row| {
        Ok(StoredKey {
            record: rows::record(&row)?,
            credential: rows::credential(&row)?,
        })
    })
    .transpose()
}

/// The position is read first, and none where the server is no standby. There is a row also for an
/// unknown digest, as a standby that is behind does not know the newest keys.
const FIND_REPLAYED: &str = ",
       standby.replayed
FROM (
    SELECT CASE WHEN pg_is_in_recovery()
        THEN (pg_last_wal_replay_lsn() - '0/0'::pg_lsn)::bigint
    END AS replayed
) AS standby
LEFT JOIN (
    {schema}.credentials AS c
    JOIN {schema}.keys AS k USING (key_row)
    LEFT JOIN {schema}.credits AS b USING (key_row)
) ON c.digest = $1";

/// Finds a digest on a replica, and returns with it how far a standby has replayed the write-ahead
/// log.
pub(super) async fn find_replayed(
    pool: &PgPool,
    schema: &Schema,
    digest: &KeyDigest,
) -> Result<(Option<i64>, Option<StoredKey>), StoreError> {
    let mut lease = Lease::of(pool).await?;
    let statement = schema.sql(&[COLUMNS, FIND_REPLAYED].concat());
    let row = sqlx::query(AssertSqlSafe(statement))
        .bind(&digest.as_bytes()[..])
        .fetch_one(&mut *lease)
        .await
        .map_err(StoreError::unavailable)?;
    lease.finish();
    let replayed = row.try_get("replayed").map_err(StoreError::unavailable)?;
    if !rows::has_credential(&row) {
        return Ok((replayed, None));
    }
    let found = StoredKey {
        record: rows::record(&row)?,
        credential: rows::credential(&row)?,
    };
    Ok((replayed, Some(found)))
}

pub(super) async fn key(
    pool: &PgPool,
    schema: &Schema,
    id: KeyId,
) -> Result<Option<Key>, StoreError> {
    let mut query = selected_keys(schema);
    query.push("id = ").push_bind(id.to_string());
    let mut keys = fetch_keys(pool, schema, query, 1).await?;
    keys.pop().map(|listed| listed.key).transpose()
}

pub(super) async fn page(
    pool: &PgPool,
    schema: &Schema,
    filter: &KeyFilter,
) -> Result<KeyPage, StoreError> {
    // One more than the page has shows that there is another page.
    let mut asked = filter.limit.saturating_add(1);
    loop {
        let rows = fetch_keys(pool, schema, matching_keys(schema, filter), asked).await?;
        if let Some(page) = listing::page(rows, filter.limit, asked) {
            return Ok(page);
        }
        asked = asked.saturating_mul(2);
    }
}

/// The beginning of [`fetch_keys`]' query for the keys that fit `filter`.
pub(super) fn matching_keys(schema: &Schema, filter: &KeyFilter) -> QueryBuilder<Postgres> {
    let mut query = selected_keys(schema);
    query.push("TRUE");
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
    if let Some(after) = filter.after {
        query.push(" AND id < ").push_bind(after.to_string());
    }
    query
}

/// The same order of precedence as [`KeyRecord::status`](crate::record::KeyRecord::status).
///
/// A stored time is at or before `now` where it is at or before `now`'s microsecond.
fn push_status(query: &mut QueryBuilder<Postgres>, status: KeyStatus, now: Timestamp) {
    if status == KeyStatus::Revoked {
        query.push(" AND revoked_at IS NOT NULL");
        return;
    }
    query.push(" AND revoked_at IS NULL AND ");
    let now = Timestamptz::from(now);
    if status == KeyStatus::Expired {
        query.push("expires_at <= ").push_bind(now);
        return;
    }
    query
        .push("(expires_at IS NULL OR expires_at > ")
        .push_bind(now)
        // A constant, by which PostgreSQL knows the index that has only such keys.
        .push(match status {
            KeyStatus::Active => ") AND enabled",
            _ => ") AND NOT enabled",
        });
}

/// The beginning of [`fetch_keys`]' query, to be followed by a condition on the key.
fn selected_keys(schema: &Schema) -> QueryBuilder<Postgres> {
    let beginning = "WITH k AS MATERIALIZED (SELECT * FROM {schema}.keys WHERE ";
    QueryBuilder::new(schema.sql(beginning))
}

const WITH_CREDENTIALS: &str = "
FROM k
LEFT JOIN {schema}.credentials AS c USING (key_row)
LEFT JOIN {schema}.credits AS b USING (key_row)
ORDER BY k.id DESC, c.position";

/// At most `limit` keys of those that `query` selects, newest first, with their credentials.
async fn fetch_keys(
    pool: &PgPool,
    schema: &Schema,
    mut query: QueryBuilder<Postgres>,
    limit: usize,
) -> Result<Vec<Listed>, StoreError> {
    query
        .push(" ORDER BY id DESC LIMIT ")
        .push_bind(saturating(limit))
        .push(")")
        .push(COLUMNS)
        .push(schema.sql(WITH_CREDENTIALS));
    let mut lease = Lease::of(pool).await?;
    let rows = query
        .build()
        .fetch_all(&mut *lease)
        .await
        .map_err(StoreError::unavailable)?;
    lease.finish();
    let keys = rows.chunk_by(|row, next| id_text(row) == id_text(next));
    let listed = keys.map(|rows| Listed {
        id: id_text(&rows[0]),
        key: key_of(rows),
    });
    Ok(listed.collect())
}

/// The key of `rows`, one for each of its credentials, or one without where it has none left.
fn key_of(rows: &[PgRow]) -> Result<Key, StoreError> {
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
FROM {schema}.usage
WHERE key_row = (SELECT key_row FROM {schema}.keys WHERE id = $1) AND hour >= $2 AND hour < $3
ORDER BY hour";

pub(super) async fn usage(
    pool: &PgPool,
    schema: &Schema,
    id: KeyId,
    from: Timestamp,
    to: Timestamp,
) -> Result<Vec<UsageBucket>, StoreError> {
    let mut lease = Lease::of(pool).await?;
    let rows = sqlx::query(AssertSqlSafe(schema.sql(USAGE)))
        .bind(id.to_string())
        .bind(Timestamptz::not_before(from))
        .bind(Timestamptz::not_before(to))
        .fetch_all(&mut *lease)
        .await
        .map_err(StoreError::unavailable)?;
    lease.finish();
    rows.iter().map(|row| rows::bucket(row, id)).collect()
}

const EVENTS: &str = "
SELECT seq, at, action, actor
FROM {schema}.events
WHERE key_row = (SELECT key_row FROM {schema}.keys WHERE id = $1) AND seq < $2
ORDER BY seq DESC
LIMIT $3";

pub(super) async fn events(
    pool: &PgPool,
    schema: &Schema,
    id: KeyId,
    before: Option<EventCursor>,
    limit: usize,
) -> Result<EventPage, StoreError> {
    let mut lease = Lease::of(pool).await?;
    let rows = sqlx::query(AssertSqlSafe(schema.sql(EVENTS)))
        .bind(id.to_string())
        .bind(saturating(before.map_or(u64::MAX, EventCursor::position)))
        .bind(saturating(limit.saturating_add(1)))
        .fetch_all(&mut *lease)
        .await
        .map_err(StoreError::unavailable)?;
    lease.finish();
    let events = rows.iter().map(|row| rows::event(row, id));
    Ok(cut_events(events.collect::<Result<_, _>>()?, limit))
}
