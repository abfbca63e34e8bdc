//! The balances of budgets. Whoever changes one holds its row until the end of the transaction.

use jiff::Timestamp;
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, PgConnection, PgPool};

use super::lease::Lease;
use super::schema::Schema;
use super::timestamptz::Timestamptz;
use super::write::{begin, column, commit};
use crate::record::{
    CreditBalance, CreditGrant, CreditPeriod, CreditPlan, CreditReturn, KeyId, KeyRecord,
};
use crate::store::StoreError;
use crate::store::sql::columns::{UnreadableColumn, id_text, parsed, plain, saturating};
use crate::store::sql::credits::{pass_over, refill};

const SET: &str = "
INSERT INTO {schema}.credits (
    key_row, since_version, granted, remaining, begun_at, refill_amount, refill_every
)
SELECT * FROM unnest(
    $1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::timestamptz[], $6::bigint[],
    $7::text[]
)
ON CONFLICT (key_row) DO UPDATE
SET since_version = excluded.since_version, granted = excluded.granted,
    remaining = excluded.remaining, begun_at = excluded.begun_at,
    refill_amount = excluded.refill_amount, refill_every = excluded.refill_every";

/// Sets the balances of keys, each by its plan at a time.
pub(super) async fn set(
    connection: &mut PgConnection,
    schema: &Schema,
    plans: &[(i64, CreditPlan, Timestamp)],
) -> Result<(), StoreError> {
    if plans.is_empty() {
        return Ok(());
    }
    let balance = |(_, plan, time): &(_, CreditPlan, _)| CreditBalance::set(plan, *time);
    sqlx::query(AssertSqlSafe(schema.sql(SET)))
        .bind(column(plans.iter(), |(key_row, ..)| *key_row))
        .bind(column(plans.iter(), |(_, plan, _)| {
            saturating(plan.since_version)
        }))
        .bind(column(plans.iter(), |(_, plan, _)| {
            saturating(plan.granted)
        }))
        .bind(column(plans.iter(), |new| {
            saturating(balance(new).remaining)
        }))
        .bind(column(plans.iter(), |new| {
            Timestamptz::from(balance(new).period.begun_at)
        }))
        .bind(column(plans.iter(), |(_, plan, _)| {
            plan.refill.map(|refill| saturating(refill.amount))
        }))
        .bind(column(plans.iter(), |(_, plan, _)| {
            plan.refill.map(|refill| refill.every.as_str())
        }))
        .execute(connection)
        .await
        .map_err(StoreError::unavailable)?;
    Ok(())
}

/// The same for one that was changed at `time`, if the change is about its budget.
pub(super) async fn change(
    connection: &mut PgConnection,
    schema: &Schema,
    key_row: i64,
    record: &KeyRecord,
    time: Timestamp,
) -> Result<(), StoreError> {
    match &record.credits {
        Some(plan) if plan.since_version == record.version => {
            set(connection, schema, &[(key_row, *plan, time)]).await
        }
        Some(_) => Ok(()),
        None => {
            sqlx::query(AssertSqlSafe(schema.sql(END)))
                .bind(key_row)
                .execute(connection)
                .await
                .map_err(StoreError::unavailable)?;
            Ok(())
        }
    }
}

/// Not a `DELETE`, for which the role may lack the right.
const END: &str =
    "UPDATE {schema}.credits SET granted = NULL WHERE key_row = $1 AND granted IS NOT NULL";

/// The balances of some keys. Locked in the order of their rows, as all who lock several do.
const BALANCES: &str = "
SELECT k.id, b.key_row, b.since_version, b.remaining, b.begun_at, b.refill_amount, b.refill_every
FROM {schema}.keys AS k
JOIN {schema}.credits AS b USING (key_row)
WHERE k.id = ANY ($1) AND b.granted IS NOT NULL
ORDER BY b.key_row";

const LOCKED: &str = "\nFOR NO KEY UPDATE OF b";

pub(super) async fn take(
    pool: &PgPool,
    schema: &Schema,
    id: KeyId,
    at_least: u64,
    at_most: u64,
    now: Timestamp,
) -> Result<Option<CreditGrant>, StoreError> {
    let mut lease = Lease::of(pool).await?;
    let mut transaction = begin(&mut lease).await?;
    let row = sqlx::query(AssertSqlSafe(schema.sql(&[BALANCES, LOCKED].concat())))
        .bind([id.to_string()])
        .fetch_optional(&mut *transaction)
        .await
        .map_err(StoreError::unavailable)?;
    let mut grant = None;
    if let Some(row) = row {
        let (key_row, balance) = read(&row)?;
        let mut left = balance.at(now);
        let granted = left.take(at_least, at_most);
        if granted > 0 {
            keep(&mut transaction, schema, &[(key_row, left)]).await?;
        }
        grant = Some(CreditGrant { granted, left });
    }
    commit(transaction).await?;
    lease.finish();
    Ok(grant)
}

pub(super) async fn give_back(
    pool: &PgPool,
    schema: &Schema,
    returns: &[CreditReturn],
) -> Result<(), StoreError> {
    let mut lease = Lease::of(pool).await?;
    let mut transaction = begin(&mut lease).await?;
    let ids: Vec<_> = returns.iter().map(|back| back.key.to_string()).collect();
    let rows = sqlx::query(AssertSqlSafe(schema.sql(&[BALANCES, LOCKED].concat())))
        .bind(ids)
        .fetch_all(&mut *transaction)
        .await
        .map_err(StoreError::unavailable)?;
    let mut changed = Vec::new();
    for row in rows {
        let (id, (key_row, mut balance)) = match key_id(&row).and_then(|id| Ok((id, read(&row)?))) {
            Ok(known) => known,
            Err(error) => {
                pass_over(&error);
                continue;
            }
        };
        let mut grew = false;
        for back in returns.iter().filter(|back| back.key == id) {
            grew |= balance.give_back(back.credits, back.period);
        }
        if grew {
            changed.push((key_row, balance));
        }
    }
    keep(&mut transaction, schema, &changed).await?;
    commit(transaction).await?;
    lease.finish();
    Ok(())
}

const KEEP: &str = "
UPDATE {schema}.credits AS b
SET remaining = kept.remaining, begun_at = kept.begun_at
FROM unnest($1::bigint[], $2::bigint[], $3::timestamptz[]) AS kept (key_row, remaining, begun_at)
WHERE b.key_row = kept.key_row";

async fn keep(
    connection: &mut PgConnection,
    schema: &Schema,
    balances: &[(i64, CreditBalance)],
) -> Result<(), StoreError> {
    let rows: Vec<i64> = balances.iter().map(|(row, _)| *row).collect();
    let remaining = balances.iter().map(|(_, left)| saturating(left.remaining));
    let begun = balances
        .iter()
        .map(|(_, left)| Timestamptz::from(left.period.begun_at));
    sqlx::query(AssertSqlSafe(schema.sql(KEEP)))
        .bind(rows)
        .bind(remaining.collect::<Vec<i64>>())
        .bind(begun.collect::<Vec<_>>())
        .execute(connection)
        .await
        .map_err(StoreError::unavailable)?;
    Ok(())
}

pub(super) async fn balances(
    pool: &PgPool,
    schema: &Schema,
    ids: &[KeyId],
) -> Result<Vec<(KeyId, CreditBalance)>, StoreError> {
    let ids: Vec<_> = ids.iter().map(KeyId::to_string).collect();
    let mut lease = Lease::of(pool).await?;
    let rows = sqlx::query(AssertSqlSafe(schema.sql(BALANCES)))
        .bind(ids)
        .fetch_all(&mut *lease)
        .await
        .map_err(StoreError::unavailable)?;
    lease.finish();
    rows.iter()
        .map(|row| Ok((key_id(row)?, read(row)?.1)))
        .collect()
}

fn key_id(row: &PgRow) -> Result<KeyId, StoreError> {
    parsed(row, "id", |text: String| text.parse())
        .map_err(|source: UnreadableColumn| StoreError::corrupt(id_text(row), source))
}

/// The row's number and the balance in it.
fn read(row: &PgRow) -> Result<(i64, CreditBalance), StoreError> {
    let read = || {
        let balance = CreditBalance {
            remaining: parsed(row, "remaining", |count: i64| u64::try_from(count))?,
            period: CreditPeriod {
                since_version: parsed(row, "since_version", |count: i64| u64::try_from(count))?,
                begun_at: parsed(row, "begun_at", Timestamptz::timestamp)?,
            },
            refill: refill(row)?,
        };
        Ok((plain(row, "key_row")?, balance))
    };
    read().map_err(|source: UnreadableColumn| StoreError::corrupt(id_text(row), source))
}
