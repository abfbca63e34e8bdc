//! What happened to a key: its use and its audit trail.

use clap::ValueEnum;
use jiff::SignedDuration;
use tower_api_key::{BucketSize, EventCursor, KeyId};

use crate::Answer;
use crate::failure::Failure;
use crate::global::Global;
use crate::json::{EventsBody, UsageBody};
use crate::list;
use crate::output::{Output, note};
use crate::store::Missing;
use crate::table::{Columns, or_dash};
use crate::values::When;

/// Shows how much a key was used, by the hour or the day
///
/// Servers write what they have counted every ten seconds.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  \
    tower-api-key usage key_01JD8Z6V4M3T2R1Q0P9N8K7J6H --from 30d --bucket day")]
pub(crate) struct UsageArgs {
    /// The key
    id: KeyId,
    /// From when: a time, a day, or how long ago as in 7d
    #[arg(long, value_name = "WHEN", default_value = "24h")]
    from: When,
    /// Up to when [default: now]
    #[arg(long, value_name = "WHEN")]
    to: Option<When>,
    /// How long each line's period is
    #[arg(long, default_value = "hour")]
    bucket: Bucket,
}

#[derive(Clone, Copy, ValueEnum)]
enum Bucket {
    Hour,
    Day,
}

impl From<Bucket> for BucketSize {
    fn from(bucket: Bucket) -> Self {
        match bucket {
            Bucket::Hour => Self::Hour,
            Bucket::Day => Self::Day,
        }
    }
}

pub(crate) async fn usage(
    args: &UsageArgs,
    global: &Global,
    output: &mut Output,
) -> Result<Answer, Failure> {
    let keys = global.keys(Missing::Refuse).await?;
    let now = keys.now();
    let to = args.to.map_or(now, |to| to.before(now));
    // As long ago as was said, and not less because an hour had begun already.
    let from = match args.from {
        When::At(from) => from,
        When::Apart(_) => BucketSize::Hour.start(args.from.before(now)),
    };
    if to.duration_since(from) < SignedDuration::ZERO {
        return Err(Failure::new("--from is after --to"));
    }
    let hours = keys.usage(args.id, from, to).await?;
    let buckets = BucketSize::from(args.bucket).gather(hours);
    if output.is_json() {
        output.json(&UsageBody { buckets })?;
        return Ok(Answer::Good);
    }
    if buckets.is_empty() {
        note(&format!("No use from {from} to {to}."));
        return Ok(Answer::Good);
    }
    let mut columns = Columns::new(["FROM", "ALLOWED", "DENIED"]);
    let (mut allowed, mut denied) = (0_u64, 0_u64);
    for bucket in &buckets {
        allowed = allowed.saturating_add(bucket.allowed);
        denied = denied.saturating_add(bucket.denied);
        columns.row([
            bucket.start.to_string(),
            bucket.allowed.to_string(),
            bucket.denied.to_string(),
        ]);
    }
    columns.row(["total".to_owned(), allowed.to_string(), denied.to_string()]);
    columns.write(output)?;
    Ok(Answer::Good)
}

/// Shows who did what to a key, newest first
#[derive(clap::Args)]
#[command(after_help = "Example:\n  tower-api-key events key_01JD8Z6V4M3T2R1Q0P9N8K7J6H")]
pub(crate) struct EventsArgs {
    /// The key
    id: KeyId,
    /// At most this many
    #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = list::limit)]
    limit: usize,
    /// Only older events: the `next_cursor` of a page before
    #[arg(long, value_name = "CURSOR")]
    before: Option<EventCursor>,
}

pub(crate) async fn events(
    args: &EventsArgs,
    global: &Global,
    output: &mut Output,
) -> Result<Answer, Failure> {
    let keys = global.keys(Missing::Refuse).await?;
    let page = keys.events(args.id, args.before, args.limit).await?;
    if output.is_json() {
        output.json(&EventsBody::new(&page))?;
        return Ok(Answer::Good);
    }
    let mut columns = Columns::new(["AT", "ACTION", "ACTOR"]);
    for event in &page.events {
        columns.row([
            event.at.to_string(),
            event.action.to_string(),
            or_dash(event.actor.as_ref()),
        ]);
    }
    columns.write(output)?;
    if let Some(next) = page.next {
        output.finish()?;
        note(&format!("There are older ones: --before {next}"));
    }
    Ok(Answer::Good)
}
