use std::error::Error;

use tower_api_key::{
    ApiKeys, CreditBalance, Credits, Key, KeyId, KeyPage, KeyRepository, KeyUpdate, KeyView,
    Refill, StoreErrorKind, UnreadableKey,
};

use crate::Answer;
use crate::failure::Failure;
use crate::global::Global;
use crate::output::{NOT_PROPAGATED, Output, note, plain};
use crate::store::Missing;
use crate::values;
use jiff::Timestamp;

/// Shows a key's credits, or sets them
///
/// What is set holds from now on, whatever was left. Servers that have leased some of the older
/// ones can spend those until they notice the change.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    tower-api-key credits key_01JD8Z6V4M3T2R1Q0P9N8K7J6H\n  \
    tower-api-key credits key_01JD8Z6V4M3T2R1Q0P9N8K7J6H --set 2000\n  \
    tower-api-key credits key_01JD8Z6V4M3T2R1Q0P9N8K7J6H --refill 10000/month")]
pub(crate) struct Args {
    /// The key
    id: KeyId,
    /// How many there are from now on [default: as many as a refill brings]
    #[arg(long, value_name = "AMOUNT")]
    set: Option<u64>,
    /// What they are refilled to each day or month in UTC, or none [default: as it is]
    #[arg(long, value_name = "AMOUNT/day|AMOUNT/month|none", value_parser = refill_or_none)]
    refill: Option<MaybeRefill>,
    /// Takes the budget away, so that the key needs no credits
    #[arg(long, conflicts_with_all = ["set", "refill"])]
    unlimited: bool,
}

#[derive(Clone, Copy)]
enum MaybeRefill {
    None,
    Some(Refill),
}

fn refill_or_none(text: &str) -> Result<MaybeRefill, String> {
    if text == "none" {
        return Ok(MaybeRefill::None);
    }
    values::refill(text).map(MaybeRefill::Some)
}

pub(crate) async fn run(
    args: &Args,
    global: &Global,
    output: &mut Output,
) -> Result<Answer, Failure> {
    let keys = global.keys(Missing::Refuse).await?;
    let mut key = keys.get(args.id).await?;
    let mut propagated = true;
    if let Some(update) = update(args, &key)? {
        let changed = keys.update(args.id, update).await?;
        propagated = changed.is_propagated();
        key = changed.into_key();
    }
    let balance = balance(&keys, &key).await?;
    if !propagated {
        note(NOT_PROPAGATED);
    }
    if output.is_json() {
        let view = KeyView::new(&key, keys.now()).credits(balance);
        output.json(&view.propagated(propagated))?;
    } else {
        let (id, name) = (key.record.id, plain(&key.record.name));
        let text = balance.map_or("needs no credits".to_owned(), |left| text(&left));
        output.line(&format!("{id} ({name}): {text}"))?;
    }
    Ok(Answer::Good)
}

/// What is to be changed, if anything is.
fn update(args: &Args, key: &Key) -> Result<Option<KeyUpdate>, Failure> {
    if args.unlimited {
        return Ok(Some(KeyUpdate::new().credits(None)));
    }
    if args.set.is_none() && args.refill.is_none() {
        return Ok(None);
    }
    let refill = match args.refill {
        Some(MaybeRefill::Some(refill)) => Some(refill),
        Some(MaybeRefill::None) => None,
        None => key.record.credits.and_then(|plan| plan.refill),
    };
    let credits: Option<Credits> = values::budget(args.set, refill);
    let credits = credits.ok_or_else(|| {
        Failure::new("without a refill it has to be said how many there are: --set AMOUNT")
    })?;
    Ok(Some(KeyUpdate::new().credits(credits)))
}

/// What is left of a key's budget, if it has one.
pub(crate) async fn balance(keys: &ApiKeys, key: &Key) -> Result<Option<CreditBalance>, Failure> {
    match key.record.credits {
        Some(_) => Ok(keys.credits(key.record.id).await?),
        None => Ok(None),
    }
}

/// The balances of those keys of a listing that have one. A key whose balance cannot be read is an
/// unreadable key.
pub(crate) async fn balances(
    store: &dyn KeyRepository,
    page: &mut KeyPage,
    now: Timestamp,
) -> Result<Vec<(KeyId, CreditBalance)>, Failure> {
    let records = page.keys.iter().map(|key| &key.record);
    let with_budget = records.filter(|record| record.credits.is_some());
    let ids: Vec<_> = with_budget.map(|record| record.id).collect();
    let mut balances = Vec::new();
    let mut unreadable = Vec::new();
    for ids in ids.chunks(500) {
        match store.credits(ids).await {
            Ok(stored) => balances.extend(stored),
            Err(error) if error.kind() == StoreErrorKind::Corrupt => {
                for id in ids {
                    match store.credits(&[*id]).await {
                        Ok(stored) => balances.extend(stored),
                        Err(error) if error.kind() == StoreErrorKind::Corrupt => {
                            unreadable.push((*id, error.source().map(ToString::to_string)));
                        }
                        Err(error) => return Err(error.into()),
                    }
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    for (id, reason) in unreadable {
        page.keys.retain(|key| key.record.id != id);
        let reason = reason.unwrap_or_else(|| "its balance cannot be read".to_owned());
        page.unreadable
            .push(UnreadableKey::new(id.to_string(), reason));
    }
    for (_, balance) in &mut balances {
        *balance = balance.at(now);
    }
    Ok(balances)
}

/// As in `485 left, refilled to 1000 each month, next at 2026-12-01T00:00:00Z`.
pub(crate) fn text(balance: &CreditBalance) -> String {
    let refill = balance.refill.zip(balance.refills_at());
    let refill = refill.map(|(Refill { amount, every }, next)| {
        let every = every.as_str();
        format!(", refilled to {amount} each {every}, next at {next}")
    });
    format!("{} left{}", balance.remaining, refill.unwrap_or_default())
}
