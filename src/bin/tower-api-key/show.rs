use jiff::Timestamp;
use tower_api_key::{CreditBalance, Key, KeyId, KeyStatus, KeyView};

use crate::Answer;
use crate::credits;
use crate::failure::Failure;
use crate::global::Global;
use crate::output::Output;
use crate::store::Missing;
use crate::table::{Columns, or_dash};

/// Shows a key and its secrets' starts
#[derive(clap::Args)]
#[command(after_help = "Example:\n  tower-api-key show key_01JD8Z6V4M3T2R1Q0P9N8K7J6H")]
pub(crate) struct Args {
    /// The key
    id: KeyId,
}

pub(crate) async fn run(
    args: &Args,
    global: &Global,
    output: &mut Output,
) -> Result<Answer, Failure> {
    let keys = global.keys(Missing::Refuse).await?;
    let key = keys.get(args.id).await?;
    let (balance, now) = (credits::balance(&keys, &key).await?, keys.now());
    if output.is_json() {
        output.json(&KeyView::new(&key, now).credits(balance))?;
    } else {
        write(&key, balance, now, output)?;
    }
    Ok(Answer::Good)
}

fn write(
    key: &Key,
    balance: Option<CreditBalance>,
    now: Timestamp,
    output: &mut Output,
) -> Result<(), Failure> {
    let record = &key.record;
    let mut columns = Columns::unnamed();
    let mut row = |name: &str, value: String| columns.row([name.to_owned(), value]);
    row("id", record.id.to_string());
    row("name", record.name.clone());
    row("owner", or_dash(record.owner.as_ref()));
    row("prefix", record.prefix.clone());
    row("environment", record.environment.clone());
    row("status", status_name(record.status(now)).to_owned());
    row("scopes", joined(record.scopes.iter()));
    row(
        "limits",
        joined(record.limits.iter().map(|limit| {
            format!(
                "{}={}/{}s",
                limit.name(),
                limit.quota(),
                limit.window_seconds()
            )
        })),
    );
    row("credits", or_dash(balance.as_ref().map(credits::text)));
    let metadata = record.metadata.iter();
    row(
        "metadata",
        joined(metadata.map(|(name, value)| format!("{name}={value}"))),
    );
    row("allowed from", joined(record.allowed_addresses.iter()));
    row("created", record.created_at.to_string());
    row("expires", or_dash(record.expires_at));
    row("revoked", or_dash(record.revoked_at));
    row("last used", or_dash(key.last_used_at()));
    columns.write(output)?;

    output.line("")?;
    let mut columns = Columns::new(["SECRET", "CREATED", "ENDS", "LAST USED"]);
    for credential in &key.credentials {
        columns.row([
            format!("{}…", credential.start),
            credential.created_at.to_string(),
            or_dash(credential.expires_at),
            or_dash(credential.last_used_at),
        ]);
    }
    columns.write(output)
}

fn joined(values: impl Iterator<Item = impl ToString>) -> String {
    let values: Vec<String> = values.map(|value| value.to_string()).collect();
    or_dash((!values.is_empty()).then(|| values.join(" ")))
}

pub(crate) fn status_name(status: KeyStatus) -> &'static str {
    match status {
        KeyStatus::Active => "active",
        KeyStatus::Disabled => "disabled",
        KeyStatus::Expired => "expired",
        KeyStatus::Revoked => "revoked",
        _ => "unknown",
    }
}
