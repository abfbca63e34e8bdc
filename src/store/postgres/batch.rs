//! Many new keys in one transaction.

use std::collections::{HashMap, HashSet};

use sqlx::types::Json;
use sqlx::{AssertSqlSafe, PgConnection, PgPool};

use super::credits;
use super::lease::Lease;
use super::schema::Schema;
use super::timestamptz::Timestamptz;
use super::write::{begin, column, commit, failed, version};
use crate::key::KeyDigest;
use crate::record::KeyId;
use crate::store::sql::batch::NewKeys;
use crate::store::{KeyInsertion, StoreError, StoreErrorKind};

/// How often a batch is begun again because somebody else has just written one of its keys. Each
/// time that key is known and passed over.
const ATTEMPTS: usize = 16;

pub(super) async fn insert(
    pool: &PgPool,
    schema: &Schema,
    batch: &[KeyInsertion],
) -> Result<Vec<bool>, StoreError> {
    let mut attempt = 1;
    loop {
        match try_to_insert(pool, schema, batch).await {
            Err(error) if error.kind() == StoreErrorKind::Duplicate && attempt < ATTEMPTS => {
                attempt += 1;
            }
            // That the keys are there already is no answer to a batch.
            Err(error) if error.kind() == StoreErrorKind::Duplicate => {
                return Err(StoreError::unavailable(error));
            }
            outcome => return outcome,
        }
    }
}

async fn try_to_insert(
    pool: &PgPool,
    schema: &Schema,
    batch: &[KeyInsertion],
) -> Result<Vec<bool>, StoreError> {
    let mut lease = Lease::of(pool).await?;
    let mut transaction = begin(&mut lease).await?;
    let known_ids = known_ids(&mut transaction, schema, batch).await?;
    let known_digests = known_digests(&mut transaction, schema, batch).await?;
    let NewKeys { sorted, written } = NewKeys::of(batch, known_ids, known_digests);
    if !sorted.is_empty() {
        let key_rows = insert_keys(&mut transaction, schema, &sorted).await?;
        insert_credentials(&mut transaction, schema, &sorted, &key_rows).await?;
        insert_events(&mut transaction, schema, &sorted, &key_rows).await?;
        let balances = key_rows.iter().zip(&sorted).filter_map(|(key_row, new)| {
            let plan = new.record.credits.as_ref()?;
            Some((*key_row, *plan, new.event.at))
        });
        credits::set(&mut transaction, schema, &balances.collect::<Vec<_>>()).await?;
    }
    commit(transaction).await?;
    lease.finish();
    Ok(written)
}

// The limit keeps each of the two a walk down the index for each element. Where most of a table's
// pages are new, as in an import, the planner would rather read the whole table.

const KNOWN_IDS: &str = "
SELECT known.id
FROM unnest($1::text[]) AS batch (id)
CROSS JOIN LATERAL (SELECT id FROM {schema}.keys AS k WHERE k.id = batch.id LIMIT 1) AS known";

const KNOWN_DIGESTS: &str = "
SELECT known.digest
FROM unnest($1::bytea[]) AS batch (digest)
CROSS JOIN LATERAL (
    SELECT digest FROM {schema}.credentials AS c WHERE c.digest = batch.digest LIMIT 1
) AS known";

async fn known_ids(
    connection: &mut PgConnection,
    schema: &Schema,
    batch: &[KeyInsertion],
) -> Result<HashSet<KeyId>, StoreError> {
    let known: Vec<String> = sqlx::query_scalar(AssertSqlSafe(schema.sql(KNOWN_IDS)))
        .bind(column(batch.iter(), |new| new.record.id.to_string()))
        .fetch_all(connection)
        .await
        .map_err(StoreError::unavailable)?;
    Ok(known.iter().filter_map(|id| id.parse().ok()).collect())
}

async fn known_digests(
    connection: &mut PgConnection,
    schema: &Schema,
    batch: &[KeyInsertion],
) -> Result<HashSet<KeyDigest>, StoreError> {
    let known: Vec<Vec<u8>> = sqlx::query_scalar(AssertSqlSafe(schema.sql(KNOWN_DIGESTS)))
        .bind(column(batch.iter(), |new| {
            &new.credential.digest.as_bytes()[..]
        }))
        .fetch_all(connection)
        .await
        .map_err(StoreError::unavailable)?;
    let known = known
        .into_iter()
        .filter_map(|digest| digest.try_into().ok());
    Ok(known.map(KeyDigest::from_bytes).collect())
}

/// An array of arrays would have to be rectangular, so the lists go over as JSON.
const INSERT_KEYS: &str = "
INSERT INTO {schema}.keys (
    id, version, name, owner, prefix, environment, scopes, limits, metadata, allowed_addresses,
    enabled, created_at, expires_at, revoked_at
)
SELECT id, version, name, owner, prefix, environment,
       ARRAY (SELECT jsonb_array_elements_text(scopes)),
       limits, metadata,
       ARRAY (SELECT jsonb_array_elements_text(allowed_addresses)::inet),
       enabled, created_at, expires_at, revoked_at
FROM unnest(
    $1::text[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[], $7::jsonb[],
    $8::jsonb[], $9::jsonb[], $10::jsonb[], $11::boolean[], $12::timestamptz[],
    $13::timestamptz[], $14::timestamptz[]
) WITH ORDINALITY AS batch (
    id, version, name, owner, prefix, environment, scopes, limits, metadata, allowed_addresses,
    enabled, created_at, expires_at, revoked_at, number
)
ORDER BY number
RETURNING id, key_row";

/// The numbers of the rows, in the order of `keys`.
async fn insert_keys(
    connection: &mut PgConnection,
    schema: &Schema,
    keys: &[&KeyInsertion],
) -> Result<Vec<i64>, StoreError> {
    let records = || keys.iter().map(|new| &new.record);
    let versions: Result<Vec<i64>, _> = records().map(|record| version(record.version)).collect();
    let inserted: Vec<(String, i64)> = sqlx::query_as(AssertSqlSafe(schema.sql(INSERT_KEYS)))
        .bind(column(records(), |record| record.id.to_string()))
        .bind(versions?)
        .bind(column(records(), |record| record.name.as_str()))
        .bind(column(records(), |record| record.owner.as_deref()))
        .bind(column(records(), |record| record.prefix.as_str()))
        .bind(column(records(), |record| record.environment.as_str()))
        .bind(column(records(), |record| Json(&record.scopes)))
        .bind(column(records(), |record| Json(&record.limits)))
        .bind(column(records(), |record| Json(&record.metadata)))
        .bind(column(records(), |record| Json(&record.allowed_addresses)))
        .bind(column(records(), |record| record.enabled))
        .bind(column(records(), |record| {
            Timestamptz::from(record.created_at)
        }))
        .bind(column(records(), |record| {
            record.expires_at.map(Timestamptz::from)
        }))
        .bind(column(records(), |record| {
            record.revoked_at.map(Timestamptz::from)
        }))
        .fetch_all(connection)
        .await
        .map_err(|error| failed(error, keys[0].record.id))?;
    let rows: HashMap<&str, i64> = inserted
        .iter()
        .map(|(id, key_row)| (id.as_str(), *key_row))
        .collect();
    let key_row = |new: &&KeyInsertion| {
        let key_row = rows.get(new.record.id.to_string().as_str()).copied();
        // What keeps rows from being inserted, such as a policy on the table, has to be known.
        key_row.ok_or_else(|| StoreError::unavailable("PostgreSQL did not insert every row"))
    };
    keys.iter().map(key_row).collect()
}

const INSERT_CREDENTIALS: &str = "
INSERT INTO {schema}.credentials (
    digest, key_row, position, pepper, start, imported, created_at, expires_at, last_used_at
)
SELECT digest, key_row, 1, pepper, start, imported, created_at, expires_at, last_used_at
FROM unnest(
    $1::bytea[], $2::bigint[], $3::text[], $4::text[], $5::boolean[], $6::timestamptz[],
    $7::timestamptz[], $8::timestamptz[]
) AS batch (
    digest, key_row, pepper, start, imported, created_at, expires_at, last_used_at
)
ORDER BY digest";

async fn insert_credentials(
    connection: &mut PgConnection,
    schema: &Schema,
    keys: &[&KeyInsertion],
    key_rows: &[i64],
) -> Result<(), StoreError> {
    let credentials = || keys.iter().map(|new| &new.credential);
    sqlx::query(AssertSqlSafe(schema.sql(INSERT_CREDENTIALS)))
        .bind(column(credentials(), |credential| {
            &credential.digest.as_bytes()[..]
        }))
        .bind(key_rows)
        .bind(column(credentials(), |credential| {
            credential.pepper.as_deref()
        }))
        .bind(column(credentials(), |credential| {
            credential.start.as_str()
        }))
        .bind(column(credentials(), |credential| credential.imported))
        .bind(column(credentials(), |credential| {
            Timestamptz::from(credential.created_at)
        }))
        .bind(column(credentials(), |credential| {
            credential.expires_at.map(Timestamptz::from)
        }))
        .bind(column(credentials(), |credential| {
            credential.last_used_at.map(Timestamptz::from)
        }))
        .execute(connection)
        .await
        .map_err(|error| failed(error, keys[0].record.id))?;
    Ok(())
}

const INSERT_EVENTS: &str = "
INSERT INTO {schema}.events (key_row, at, action, actor)
SELECT key_row, at, action, actor
FROM unnest($1::bigint[], $2::timestamptz[], $3::text[], $4::text[])
     AS batch (key_row, at, action, actor)";

async fn insert_events(
    connection: &mut PgConnection,
    schema: &Schema,
    keys: &[&KeyInsertion],
    key_rows: &[i64],
) -> Result<(), StoreError> {
    let events = || keys.iter().map(|new| &new.event);
    sqlx::query(AssertSqlSafe(schema.sql(INSERT_EVENTS)))
        .bind(key_rows)
        .bind(column(events(), |event| Timestamptz::from(event.at)))
        .bind(column(events(), |event| event.action.as_str()))
        .bind(column(events(), |event| event.actor.as_deref()))
        .execute(connection)
        .await
        .map_err(StoreError::unavailable)?;
    Ok(())
}
