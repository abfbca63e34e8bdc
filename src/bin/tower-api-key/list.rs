use std::collections::HashMap;
use std::sync::Arc;

use clap::ValueEnum;
use jiff::Timestamp;
use tower_api_key::{ApiKeys, Key, KeyFilter, KeyId, KeyPage, KeyStatus, KeyView, UnreadableKey};

use crate::Answer;
use crate::credits;
use crate::failure::Failure;
use crate::global::Global;
use crate::json::{PageBody, UnreadableBody};
use crate::output::{Output, note, plain};
use crate::show::status_name;
use crate::store::Missing;
use crate::table::{Columns, or_dash};

/// Lists keys, newest first
#[derive(clap::Args)]
#[command(after_help = "Example:\n  \
    tower-api-key list --owner acme --status active")]
pub(crate) struct Args {
    /// Only keys of this owner
    #[arg(long)]
    owner: Option<String>,
    /// Only keys of this environment
    #[arg(long)]
    environment: Option<String>,
    /// Only keys with this status
    #[arg(long)]
    status: Option<Status>,
    /// At most this many
    #[arg(long, value_name = "COUNT", default_value_t = 50, value_parser = limit)]
    limit: usize,
    /// Only keys after this one: the `next_cursor` of a listing before
    #[arg(long, value_name = "ID")]
    cursor: Option<KeyId>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Status {
    Active,
    Disabled,
    Expired,
    Revoked,
}

impl From<Status> for KeyStatus {
    fn from(status: Status) -> Self {
        match status {
            Status::Active => Self::Active,
            Status::Disabled => Self::Disabled,
            Status::Expired => Self::Expired,
            Status::Revoked => Self::Revoked,
        }
    }
}

pub(crate) fn limit(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(limit @ 1..=100_000) => Ok(limit),
        _ => Err("write a number from 1 to 100000".to_owned()),
    }
}

pub(crate) async fn run(
    args: Args,
    global: &Global,
    output: &mut Output,
) -> Result<Answer, Failure> {
    let store = global.open(Missing::Refuse).await?;
    let keys = global.keys_over(Arc::clone(&store), global.format())?;
    let now = keys.now();
    let mut page = fetch(args, &keys, now).await?;
    if output.is_json() {
        let balances = credits::balances(&*store, &mut page, now).await?;
        let mut balances: HashMap<_, _> = balances.into_iter().collect();
        let bodies = page.keys.iter().map(|key| {
            let balance = balances.remove(&key.record.id);
            KeyView::new(key, now).credits(balance)
        });
        output.json(&PageBody {
            keys: bodies.collect(),
            unreadable: page.unreadable.iter().map(UnreadableBody::new).collect(),
            next_cursor: page.next,
        })?;
        return Ok(answer(&page));
    }
    for UnreadableKey { id, reason, .. } in &page.unreadable {
        note(&plain(&format!("error: key {id} cannot be read: {reason}")));
    }
    if page.keys.is_empty() {
        if page.unreadable.is_empty() {
            note("No key fits.");
        }
        return Ok(answer(&page));
    }
    let mut columns = Columns::new([
        "ID",
        "NAME",
        "OWNER",
        "ENVIRONMENT",
        "STATUS",
        "STARTS WITH",
        "LAST USED",
        "EXPIRES",
    ]);
    for key in &page.keys {
        columns.row(row(key, now));
    }
    columns.write(output)?;
    if let Some(next) = page.next {
        output.finish()?;
        note(&format!("There are more: --cursor {next}"));
    }
    Ok(answer(&page))
}

/// A script must notice that a listing is without some keys.
fn answer(page: &KeyPage) -> Answer {
    if page.unreadable.is_empty() {
        Answer::Good
    } else {
        Answer::Bad
    }
}

/// Page by page, so that no single answer of the database is large.
async fn fetch(args: Args, keys: &ApiKeys, now: Timestamp) -> Result<KeyPage, Failure> {
    const PAGE: usize = 500;
    let mut filter = KeyFilter::default();
    filter.owner = args.owner;
    filter.environment = args.environment;
    filter.status = args.status.map(|status| (status.into(), now));
    filter.after = args.cursor;
    let mut found = KeyPage::default();
    loop {
        filter.limit = PAGE.min(args.limit - found.keys.len());
        let page = keys.list(&filter).await?;
        found.keys.extend(page.keys);
        found.unreadable.extend(page.unreadable);
        found.next = page.next;
        if found.next.is_none() || found.keys.len() >= args.limit {
            return Ok(found);
        }
        filter.after = found.next;
    }
}

fn row(key: &Key, now: Timestamp) -> [String; 8] {
    let record = &key.record;
    let newest = key.credentials.last();
    [
        record.id.to_string(),
        record.name.clone(),
        or_dash(record.owner.as_ref()),
        record.environment.clone(),
        status_name(record.status(now)).to_owned(),
        or_dash(
            newest
                .map(|newest| &newest.start)
                .filter(|start| !start.is_empty()),
        ),
        or_dash(key.last_used_at()),
        or_dash(record.expires_at),
    ]
}
