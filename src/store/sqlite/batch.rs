//! Many new keys in one transaction.

use std::collections::HashSet;

use sqlx::query::Query;
use sqlx::{QueryBuilder, Sqlite, SqliteConnection, SqlitePool};

use super::credits;
use super::write::{begin_change, commit_change, json_text, version};
use crate::key::KeyDigest;
use crate::record::KeyId;
use crate::store::sql::batch::NewKeys;
use crate::store::sql::columns::micros;
use crate::store::{KeyInsertion, StoreError};

/// How many rows go over in one statement: enough that the way there does not count, and few
/// enough for the 32,766 parameters that a statement can have.
const ROWS: usize = 500;

pub(super) async fn insert(
    pool: &SqlitePool,
    batch: &[KeyInsertion],
) -> Result<Vec<bool>, StoreError> {
    // Nobody else writes from here on: what is not there now will not be there at the end.
    let mut transaction = begin_change(pool).await?;
    let known_ids = known_ids(&mut transaction, batch).await?;
    let known_digests = known_digests(&mut transaction, batch).await?;
    let NewKeys { sorted, written } = NewKeys::of(batch, known_ids, known_digests);
    let last: i64 = sqlx::query_scalar(LAST_ROW)
        .fetch_one(&mut *transaction)
        .await
        .map_err(StoreError::unavailable)?;
    // As SQLite itself would number them.
    let numbered: Vec<_> = (1..).map(|n| last.saturating_add(n)).zip(sorted).collect();
    for rows in numbered.chunks(ROWS) {
        insert_keys(&mut transaction, rows).await?;
    }
    for rows in numbered.chunks(ROWS) {
        insert_credentials(&mut transaction, rows).await?;
        insert_events(&mut transaction, rows).await?;
    }
    for (key_row, new) in &numbered {
        credits::set(&mut transaction, *key_row, &new.record, new.event.at).await?;
    }
    commit_change(transaction).await?;
    Ok(written)
}

type Row<'a> = (i64, &'a KeyInsertion);

const LAST_ROW: &str = "SELECT coalesce(max(key_row), 0) FROM tower_api_key_keys";

async fn known_ids(
    connection: &mut SqliteConnection,
    batch: &[KeyInsertion],
) -> Result<HashSet<KeyId>, StoreError> {
    let mut known = HashSet::new();
    for rows in batch.chunks(ROWS) {
        let mut query = QueryBuilder::new("SELECT id FROM tower_api_key_keys WHERE id IN (");
        let mut ids = query.separated(", ");
        for new in rows {
            ids.push_bind(new.record.id.to_string());
        }
        query.push(")");
        let found: Vec<String> = query
            .build_query_scalar()
            .persistent(rows.len() == ROWS)
            .fetch_all(&mut *connection)
            .await
            .map_err(StoreError::unavailable)?;
        known.extend(found.iter().filter_map(|id| id.parse::<KeyId>().ok()));
    }
    Ok(known)
}

async fn known_digests(
    connection: &mut SqliteConnection,
    batch: &[KeyInsertion],
) -> Result<HashSet<KeyDigest>, StoreError> {
    let mut known = HashSet::new();
    for rows in batch.chunks(ROWS) {
        let mut query =
            QueryBuilder::new("SELECT digest FROM tower_api_key_credentials WHERE digest IN (");
        let mut digests = query.separated(", ");
        for new in rows {
            digests.push_bind(new.credential.digest.as_bytes().to_vec());
        }
        query.push(")");
        let found: Vec<Vec<u8>> = query
            .build_query_scalar()
            .persistent(rows.len() == ROWS)
            .fetch_all(&mut *connection)
            .await
            .map_err(StoreError::unavailable)?;
        let found = found
            .into_iter()
            .filter_map(|digest| digest.try_into().ok());
        known.extend(found.map(KeyDigest::from_bytes));
    }
    Ok(known)
}

async fn insert_keys(
    connection: &mut SqliteConnection,
    rows: &[Row<'_>],
) -> Result<(), StoreError> {
    let mut query = QueryBuilder::new(
        "INSERT INTO tower_api_key_keys (
             key_row, id, version, name, owner, prefix, environment, scopes, limits, metadata,
             allowed_addresses, enabled, created_at, expires_at, revoked_at
         ) ",
    );
    let texts = rows.iter().map(|(_, new)| {
        let record = &new.record;
        Ok((
            version(record.version)?,
            json_text(&record.scopes)?,
            json_text(&record.limits)?,
            json_text(&record.metadata)?,
            json_text(&record.allowed_addresses)?,
        ))
    });
    let texts: Vec<_> = texts.collect::<Result<_, StoreError>>()?;
    query.push_values(
        rows.iter().zip(texts),
        |mut row, (&(key_row, new), (version, scopes, limits, metadata, addresses))| {
            let record = &new.record;
            row.push_bind(key_row)
                .push_bind(record.id.to_string())
                .push_bind(version)
                .push_bind(record.name.clone())
                .push_bind(record.owner.clone())
                .push_bind(record.prefix.clone())
                .push_bind(record.environment.clone())
                .push_bind(scopes)
                .push_bind(limits)
                .push_bind(metadata)
                .push_bind(addresses)
                .push_bind(record.enabled)
                .push_bind(micros(record.created_at))
                .push_bind(record.expires_at.map(micros))
                .push_bind(record.revoked_at.map(micros));
        },
    );
    execute(connection, query.build(), rows).await
}

async fn insert_credentials(
    connection: &mut SqliteConnection,
    rows: &[Row<'_>],
) -> Result<(), StoreError> {
    let mut query = QueryBuilder::new(
        "INSERT INTO tower_api_key_credentials (
             digest, key_row, position, pepper, start, imported, created_at, expires_at,
             last_used_at
         ) ",
    );
    query.push_values(rows, |mut row, &(key_row, new)| {
        let credential = &new.credential;
        row.push_bind(credential.digest.as_bytes().to_vec())
            .push_bind(key_row)
            .push("1")
            .push_bind(credential.pepper.clone())
            .push_bind(credential.start.clone())
            .push_bind(credential.imported)
            .push_bind(micros(credential.created_at))
            .push_bind(credential.expires_at.map(micros))
            .push_bind(credential.last_used_at.map(micros));
    });
    execute(connection, query.build(), rows).await
}

async fn insert_events(
    connection: &mut SqliteConnection,
    rows: &[Row<'_>],
) -> Result<(), StoreError> {
    let mut query =
        QueryBuilder::new("INSERT INTO tower_api_key_events (key_row, at, action, actor) ");
    query.push_values(rows, |mut row, &(key_row, new)| {
        let event = &new.event;
        row.push_bind(key_row)
            .push_bind(micros(event.at))
            .push_bind(event.action.as_str())
            .push_bind(event.actor.clone());
    });
    execute(connection, query.build(), rows).await
}

/// Only a statement of the usual length is kept prepared: each other length is another statement.
async fn execute(
    connection: &mut SqliteConnection,
    query: Query<'_, Sqlite, <Sqlite as sqlx::Database>::Arguments>,
    rows: &[Row<'_>],
) -> Result<(), StoreError> {
    query
        .persistent(rows.len() == ROWS)
        .execute(connection)
        .await
        .map_err(StoreError::unavailable)?;
    Ok(())
}
