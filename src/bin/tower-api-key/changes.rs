//! Switching keys off and on, and ending them.

use tower_api_key::{ApiKeys, Changed, KeyId, KeyView};

use crate::Answer;
use crate::credits;
use crate::failure::Failure;
use crate::global::Global;
use crate::output::{NOT_PROPAGATED, Output, note, plain};
use crate::store::Missing;

/// Switches a key off; `enable` switches it on again
#[derive(clap::Args)]
#[command(after_help = "Example:\n  tower-api-key disable key_01JD8Z6V4M3T2R1Q0P9N8K7J6H")]
pub(crate) struct Disable {
    /// The key
    id: KeyId,
}

/// Switches a key on again
#[derive(clap::Args)]
#[command(after_help = "Example:\n  tower-api-key enable key_01JD8Z6V4M3T2R1Q0P9N8K7J6H")]
pub(crate) struct Enable {
    /// The key
    id: KeyId,
}

/// Ends a key for good; its row stays for the audit trail
#[derive(clap::Args)]
#[command(after_help = "Example:\n  \
    tower-api-key revoke key_01JD8Z6V4M3T2R1Q0P9N8K7J6H --actor alice")]
pub(crate) struct Revoke {
    /// The key
    id: KeyId,
}

pub(crate) async fn disable(
    args: &Disable,
    global: &Global,
    output: &mut Output,
) -> Result<Answer, Failure> {
    let keys = global.keys(Missing::Refuse).await?;
    let key = keys.disable(args.id).await?;
    tell(&keys, &key, "Disabled", output).await
}

pub(crate) async fn enable(
    args: &Enable,
    global: &Global,
    output: &mut Output,
) -> Result<Answer, Failure> {
    let keys = global.keys(Missing::Refuse).await?;
    let key = keys.enable(args.id).await?;
    tell(&keys, &key, "Enabled", output).await
}

pub(crate) async fn revoke(
    args: &Revoke,
    global: &Global,
    output: &mut Output,
) -> Result<Answer, Failure> {
    let keys = global.keys(Missing::Refuse).await?;
    let key = keys.revoke(args.id).await?;
    tell(&keys, &key, "Revoked", output).await
}

pub(crate) async fn tell(
    keys: &ApiKeys,
    key: &Changed,
    what: &str,
    output: &mut Output,
) -> Result<Answer, Failure> {
    if output.is_json() {
        let balance = credits::balance(keys, key).await?;
        let view = KeyView::new(key, keys.now()).credits(balance);
        output.json(&view.propagated(key.is_propagated()))?;
    } else {
        let (id, name) = (key.record.id, plain(&key.record.name));
        output.line(&format!("{what} {id} ({name})."))?;
    }
    if !key.is_propagated() {
        note(NOT_PROPAGATED);
    }
    Ok(Answer::Good)
}
