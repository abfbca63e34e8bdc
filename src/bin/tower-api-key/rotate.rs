use std::time::Duration;

use tower_api_key::KeyId;

use crate::Answer;
use crate::failure::Failure;
use crate::global::{Global, format_of};
use crate::output::{Output, note};
use crate::store::Missing;
use crate::values;

/// Gives a key a new secret; the older ones end after a grace period
#[derive(clap::Args)]
#[command(after_help = "Example:\n  \
    tower-api-key rotate key_01JD8Z6V4M3T2R1Q0P9N8K7J6H --grace 7d")]
pub(crate) struct Args {
    /// The key
    id: KeyId,
    /// How long the older secrets go on working; 0 ends them at once, as after a leak
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = grace)]
    grace: Duration,
}

pub(crate) async fn run(
    args: &Args,
    global: &Global,
    output: &mut Output,
) -> Result<Answer, Failure> {
    let keys = global.keys(Missing::Refuse).await?;
    // The new secret looks as the key's record says, also where --prefixes does not name its kind.
    let record = keys.get(args.id).await?.record;
    let with = |names: &[String], name: &str, check: fn(&str) -> Result<String, String>| {
        let mut names = names.to_vec();
        names.push(check(name).map_err(|reason| Failure::new(format!("{name:?}: {reason}")))?);
        Ok::<_, Failure>(names)
    };
    let prefixes = with(&global.prefixes, &record.prefix, values::prefix)?;
    let environments = with(
        &global.environments,
        &record.environment,
        values::environment,
    )?;
    let keys = global
        .keys_of(format_of(&prefixes, &environments), Missing::Refuse)
        .await?;
    // Before there is a secret that could be lost to an error.
    let balance = keys.credits(args.id).await?;
    let issued = keys.rotate(args.id, args.grace).await?;
    let now = keys.now();
    output.secret(&issued, balance, "Rotated", now)?;
    let still_live = issued.key().credentials.iter().rev().skip(1);
    let end = still_live
        .filter_map(|credential| credential.expires_at)
        .max();
    if let Some(end) = end.filter(|end| *end > now && !output.is_json()) {
        note(&format!("The older secrets end by {end}."));
    }
    Ok(Answer::Good)
}

/// The longest grace of the admin router.
const MOST: Duration = Duration::from_hours(365 * 24);

fn grace(text: &str) -> Result<Duration, String> {
    let grace = values::duration(text)?;
    if grace > MOST {
        return Err("the longest grace is 365d".to_owned());
    }
    Ok(grace)
}
