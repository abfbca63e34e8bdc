//! A page of keys with what is left of their budgets.

use std::error::Error;
use std::mem;

use crate::record::{CreditBalance, KeyId};
use crate::registry::{ApiKeys, KeyError};
use crate::store::{KeyFilter, KeyPage, UnreadableKey};

type Balances = Vec<(KeyId, CreditBalance)>;

/// The page that `filter` asks for, and the balances of the keys on it that have a budget. A key
/// whose balance cannot be read is an unreadable key.
pub(super) async fn page(
    keys: &ApiKeys,
    filter: &KeyFilter,
) -> Result<(KeyPage, Balances), KeyError> {
    let mut page = keys.list(filter).await?;
    let balances = match keys.balances(&page.keys).await {
        Err(error) if error.is_corrupt() => one_by_one(keys, &mut page).await?,
        balances => balances?,
    };
    Ok((page, balances))
}

async fn one_by_one(keys: &ApiKeys, page: &mut KeyPage) -> Result<Balances, KeyError> {
    let mut balances = Vec::new();
    for key in mem::take(&mut page.keys) {
        match keys.balances([&key]).await {
            Ok(balance) => {
                balances.extend(balance);
                page.keys.push(key);
            }
            Err(error) if error.is_corrupt() => {
                let id = key.record.id.to_string();
                let logged = &error as &dyn Error;
                tracing::error!(
                    error = logged,
                    "a balance cannot be read; a listing names its key"
                );
                let reason = error
                    .source()
                    .map_or_else(|| error.to_string(), ToString::to_string);
                page.unreadable.push(UnreadableKey::new(id, reason));
            }
            Err(error) => return Err(error),
        }
    }
    page.unreadable.sort_by(|one, other| other.id.cmp(&one.id));
    Ok(balances)
}
