//! A budget between its type and its columns, which are alike in both databases.

use std::error::Error;

use sqlx::{ColumnIndex, Decode, Row, Type};

use super::columns::{UnreadableColumn, parsed};
use crate::record::{CreditPlan, Refill, RefillEvery};
use crate::store::StoreError;

/// The plan in a row that has the columns `since_version`, `granted`, `refill_amount` and
/// `refill_every`; `granted` is null where the key has no budget.
pub(in crate::store) fn plan<'r, R>(row: &'r R) -> Result<Option<CreditPlan>, UnreadableColumn>
where
    R: Row,
    &'static str: ColumnIndex<R>,
    Option<i64>: Decode<'r, R::Database> + Type<R::Database>,
    Option<&'r str>: Decode<'r, R::Database> + Type<R::Database>,
{
    let count = |count: Option<i64>| count.map(u64::try_from).transpose();
    let granted = parsed(row, "granted", count)?;
    let since_version = parsed(row, "since_version", count)?;
    let Some((granted, since_version)) = granted.zip(since_version) else {
        return Ok(None);
    };
    Ok(Some(CreditPlan {
        granted,
        refill: refill(row)?,
        since_version,
    }))
}

/// The refill in the columns `refill_amount` and `refill_every`.
pub(in crate::store) fn refill<'r, R>(row: &'r R) -> Result<Option<Refill>, UnreadableColumn>
where
    R: Row,
    &'static str: ColumnIndex<R>,
    Option<i64>: Decode<'r, R::Database> + Type<R::Database>,
    Option<&'r str>: Decode<'r, R::Database> + Type<R::Database>,
{
    let count = |count: Option<i64>| count.map(u64::try_from).transpose();
    let amount = parsed(row, "refill_amount", count)?;
    let every = parsed(row, "refill_every", |every: Option<&str>| {
        let every = every.map(|every| match every {
            "day" => Ok(RefillEvery::Day),
            "month" => Ok(RefillEvery::Month),
            _ => Err("no such time"),
        });
        every.transpose()
    })?;
    let pair = amount.zip(every);
    Ok(pair.map(|(amount, every)| Refill { amount, every }))
}

/// Logs that leased credits are lost, since the balance that they belong to cannot be read. Those of other
/// keys in the same batch are returned all the same.
pub(in crate::store) fn pass_over(unreadable: &StoreError) {
    tracing::warn!(
        error = unreadable as &dyn Error,
        "leased credits of a key are lost"
    );
}
