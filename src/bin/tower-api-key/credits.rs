use tower_api_key::{
    ApiKeys, CreditBalance, Credits, Key, KeyId, KeyRepository, KeyUpdate, KeyView, Refill,
};

use crate::Answer;
use crate::failure::Failure;
use crate::global::Global;
use crate::output::{Output, plain};
use crate::store::Missing;
use crate::values;
use jiff::Timestamp;

/// Shows a key's credits, or sets them
///
/// What is set holds from now on, whatever was left. Servers that have leased some of the older ones
/// can spend those until they notice the change.
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
    if let Some(update) = update(args, &key)? {
        key = keys.update(args.id, update).await?;
    }
    let balance = balance(&keys, &key).await?;
    if output.is_json() {
        output.json(&KeyView::new(&key, keys.now()).credits(balance))?;
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

/// The same of those of many keys that have one.
pub(crate) async fn balances(
    store: &dyn KeyRepository,
    keys: &[Key],
    now: Timestamp,
) -> Result<Vec<(KeyId, CreditBalance)>, Failure> {
    let records = keys.iter().map(|key| &key.record);
    let with_budget = records.filter(|record| record.credits.is_some());
    let ids: Vec<_> = with_budget.map(|record| record.id).collect();
    let mut balances = Vec::new();
    for ids in ids.chunks(500) {
        let stored = store.credits(ids).await?;
        balances.extend(stored.into_iter().map(|(id, left)| (id, left.at(now))));
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
