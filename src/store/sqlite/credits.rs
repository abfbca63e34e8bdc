//! The balances of budgets.

use jiff::Timestamp;
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Sqlite, SqliteConnection, SqlitePool};

use super::write::{begin, commit};
use crate::record::{CreditBalance, CreditGrant, CreditPeriod, CreditReturn, KeyId, KeyRecord};
use crate::store::StoreError;
use crate::store::sql::columns::{
    UnreadableColumn, id_text, micros, parsed, saturating, timestamp,
};
use crate::store::sql::credits::{pass_over, refill};

const SET: &str = "
INSERT INTO tower_api_key_credits (
    key_row, since_version, granted, remaining, begun_at, refill_amount, refill_every
) VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (key_row) DO UPDATE
SET since_version = excluded.since_version, granted = excluded.granted,
    remaining = excluded.remaining, begun_at = excluded.begun_at,
    refill_amount = excluded.refill_amount, refill_every = excluded.refill_every";

/// Sets the balance of a key that is new at `time`.
pub(super) async fn set(
    connection: &mut SqliteConnection,
    key_row: i64,
    record: &KeyRecord,
    time: Timestamp,
) -> Result<(), StoreError> {
    let Some(plan) = &record.credits else {
        return Ok(());
    };
    let balance = CreditBalance::set(plan, time);
    sqlx::query(SET)
        .bind(key_row)
        .bind(saturating(plan.since_version))
        .bind(saturating(plan.granted))
        .bind(saturating(balance.remaining))
        .bind(micros(balance.period.begun_at))
        .bind(plan.refill.map(|refill| saturating(refill.amount)))
        .bind(plan.refill.map(|refill| refill.every.as_str()))
        .execute(connection)
        .await
        .map_err(StoreError::unavailable)?;
    Ok(())
}

/// The same for a key that was changed at `time`, if the change is about its budget.
pub(super) async fn change(
    connection: &mut SqliteConnection,
    key_row: i64,
    record: &KeyRecord,
    time: Timestamp,
) -> Result<(), StoreError> {
    match &record.credits {
        Some(plan) if plan.since_version == record.version => {
            set(connection, key_row, record, time).await
        }
        Some(_) => Ok(()),
        None => {
            sqlx::query(END)
                .bind(key_row)
                .execute(connection)
                .await
                .map_err(StoreError::unavailable)?;
            Ok(())
        }
    }
}

const END: &str = "UPDATE tower_api_key_credits SET granted = NULL WHERE key_row = ?";

const BALANCE: &str = "
SELECT k.id, b.key_row, b.since_version, b.remaining, b.begun_at, b.refill_amount, b.refill_every
FROM tower_api_key_keys AS k
JOIN tower_api_key_credits AS b USING (key_row)
WHERE b.granted IS NOT NULL AND k.id = ?";

const KEEP: &str = "UPDATE tower_api_key_credits SET remaining = ?, begun_at = ? WHERE key_row = ?";

pub(super) async fn take(
    pool: &SqlitePool,
    id: KeyId,
    at_least: u64,
    at_most: u64,
    now: Timestamp,
) -> Result<Option<CreditGrant>, StoreError> {
    let mut transaction = begin(pool).await?;
    let row = sqlx::query(BALANCE)
        .bind(id.to_string())
        .fetch_optional(&mut *transaction)
        .await
        .map_err(StoreError::unavailable)?;
    let Some(row) = row else {
        return Ok(None);
    };
    let (key_row, balance) = read(&row)?;
    let mut left = balance.at(now);
    let granted = left.take(at_least, at_most);
    if granted > 0 {
        keep(&mut transaction, key_row, &left).await?;
    }
    commit(transaction).await?;
    Ok(Some(CreditGrant { granted, left }))
}

pub(super) async fn give_back(
    pool: &SqlitePool,
    returns: &[CreditReturn],
) -> Result<(), StoreError> {
    let mut transaction = begin(pool).await?;
    for back in returns {
        let row = sqlx::query(BALANCE)
            .bind(back.key.to_string())
            .fetch_optional(&mut *transaction)
            .await
            .map_err(StoreError::unavailable)?;
        let Some(row) = row else { continue };
        let (key_row, mut balance) = match read(&row) {
            Ok(known) => known,
            Err(error) => {
                pass_over(&error);
                continue;
            }
        };
        if balance.give_back(back.credits, back.period) {
            keep(&mut transaction, key_row, &balance).await?;
        }
    }
    commit(transaction).await
}

async fn keep(
    connection: &mut SqliteConnection,
    key_row: i64,
    balance: &CreditBalance,
) -> Result<(), StoreError> {
    sqlx::query(KEEP)
        .bind(saturating(balance.remaining))
        .bind(micros(balance.period.begun_at))
        .bind(key_row)
        .execute(connection)
        .await
        .map_err(StoreError::unavailable)?;
    Ok(())
}

pub(super) async fn balances(
    pool: &SqlitePool,
    ids: &[KeyId],
) -> Result<Vec<(KeyId, CreditBalance)>, StoreError> {
    let mut balances = Vec::new();
    // As many as a page of keys has: far below what SQLite takes as parameters.
    for ids in ids.chunks(500) {
        let mut query = QueryBuilder::<Sqlite>::new(BALANCE.trim_end_matches("= ?"));
        query.push("IN (");
        let mut list = query.separated(", ");
        for id in ids {
            list.push_bind(id.to_string());
        }
        query.push(")");
        let rows = query.build().fetch_all(pool).await;
        for row in rows.map_err(StoreError::unavailable)? {
            balances.push((key_id(&row)?, read(&row)?.1));
        }
    }
    Ok(balances)
}

fn key_id(row: &SqliteRow) -> Result<KeyId, StoreError> {
    parsed(row, "id", |text: String| text.parse())
        .map_err(|source: UnreadableColumn| StoreError::corrupt(id_text(row), source))
}

/// The row's number and the balance in it.
fn read(row: &SqliteRow) -> Result<(i64, CreditBalance), StoreError> {
    let read = || {
        let key_row = parsed(row, "key_row", Ok::<i64, jiff::Error>)?;
        let balance = CreditBalance {
            remaining: parsed(row, "remaining", |count: i64| u64::try_from(count))?,
            period: CreditPeriod {
                since_version: parsed(row, "since_version", |count: i64| u64::try_from(count))?,
                begun_at: parsed(row, "begun_at", timestamp)?,
            },
            refill: refill(row)?,
        };
        Ok((key_row, balance))
    };
    read().map_err(|source: UnreadableColumn| StoreError::corrupt(id_text(row), source))
}
