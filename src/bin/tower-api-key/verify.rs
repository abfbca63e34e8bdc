use std::net::IpAddr;
use std::sync::Arc;

use serde::Serialize;
use tower_api_key::{ApiKeys, DenialReason, KeyView, Requirements, Scope};

use crate::Answer;
use crate::failure::Failure;
use crate::global::Global;
use crate::output::{Output, plain};
use crate::standing::{self, Standing};
use crate::store::Missing;
use crate::{credits, secret, values};

/// Tells whether a key works, and if not, why
///
/// The secret is read from standard input or a file, never from an argument. It does not count as
/// use and charges no limit and no credits. A client learns none of this: to it, every key that does
/// not work is the same.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  \
    tower-api-key verify --scope orders:read --address 10.0.0.7 < secret.txt")]
pub(crate) struct Args {
    /// The file with the secret; - for standard input
    #[arg(long, value_name = "FILE", default_value = "-")]
    secret_file: String,
    /// A scope that it has to have; more than once for more
    #[arg(long = "scope", value_name = "SCOPE", value_parser = required_scope)]
    scopes: Vec<String>,
    /// The address it is used from [default: any that is allowed]
    #[arg(long)]
    address: Option<IpAddr>,
    /// How many credits the request takes, where the key has a budget
    #[arg(long, value_name = "CREDITS", default_value_t = 1)]
    cost: u64,
    /// A prefix that is accepted beside the first of --prefixes; more than once for more
    #[arg(long = "accept-prefix", value_name = "PREFIX", value_parser = values::prefix)]
    accepted_prefixes: Vec<String>,
    /// An environment that is accepted; more than once for more [default: all]
    #[arg(long = "environment", value_name = "NAME", value_parser = values::environment)]
    accepted_environments: Vec<String>,
}

fn required_scope(text: &str) -> Result<String, String> {
    let scope = Scope::new(text).map_err(|error| error.to_string())?;
    if scope.is_wildcard() {
        return Err("a scope with * can be granted, but not required".to_owned());
    }
    Ok(text.to_owned())
}

#[derive(Serialize)]
struct Verdict<'a> {
    valid: bool,
    reason: Option<&'static str>,
    imported: bool,
    key: Option<KeyView<'a>>,
}

pub(crate) async fn run(
    args: &Args,
    global: &Global,
    output: &mut Output,
) -> Result<Answer, Failure> {
    let text = secret::read(&args.secret_file)?;
    let store = global.open(Missing::Refuse).await?;
    let verifier = global.verifier(Arc::clone(&store), global.format())?;
    let keys = ApiKeys::builder(store).deaf().build();
    let needs = Requirements::new()
        .scopes(&args.scopes)
        .accept_prefixes(&args.accepted_prefixes)
        .environments(&args.accepted_environments);
    let standing = standing::of(&text, args.address, &needs, args.cost, &verifier, &keys).await?;
    if output.is_json() {
        output.json(&Verdict {
            valid: standing.refused.is_none(),
            reason: standing.refused.map(DenialReason::as_str),
            imported: standing.imported,
            key: standing
                .key
                .as_ref()
                .map(|key| KeyView::new(key, keys.now()).credits(standing.balance)),
        })?;
    } else {
        write(&standing, args, output)?;
    }
    Ok(match standing.refused {
        None => Answer::Good,
        Some(_) => Answer::Bad,
    })
}

fn write(standing: &Standing, args: &Args, output: &mut Output) -> Result<(), Failure> {
    match standing.refused {
        None => output.line("valid")?,
        Some(reason) => {
            let why = explain(reason, standing);
            output.line(&format!("not valid: {}: {why}", reason.as_str()))?;
        }
    }
    let Some(key) = &standing.key else {
        return Ok(());
    };
    let (id, name) = (key.record.id, plain(&key.record.name));
    output.line(&format!("key: {id} ({name})"))?;
    if standing.refused.is_none() && standing.imported {
        output.line("note: it was imported, and works only where the server accepts those")?;
    }
    let networks = &key.record.allowed_addresses;
    if standing.refused.is_none() && args.address.is_none() && !networks.is_empty() {
        let networks: Vec<String> = networks.iter().map(ToString::to_string).collect();
        output.line(&format!("note: it works only from {}", networks.join(" ")))?;
    }
    Ok(())
}

fn explain(reason: DenialReason, standing: &Standing) -> String {
    let record = standing.key.as_ref().map(|key| &key.record);
    let when =
        |time: Option<jiff::Timestamp>| time.map_or(String::new(), |time| format!(" at {time}"));
    match reason {
        DenialReason::Address => "it may not be used from this address".to_owned(),
        DenialReason::Credits => {
            let left = standing.balance.as_ref().map(credits::text);
            format!("it has too few credits: {}", left.unwrap_or_default())
        }
        DenialReason::Disabled => "the key is switched off; `enable` switches it on".to_owned(),
        DenialReason::Environment => format!(
            "its environment, {}, is not accepted",
            record.map_or("", |record| &record.environment)
        ),
        DenialReason::Expired => match record.and_then(|record| record.expires_at) {
            Some(end) => format!("the key, or this secret of it, has ended; the key's end: {end}"),
            None => "this secret was replaced by a rotation, and its grace is over".to_owned(),
        },
        DenialReason::Malformed => {
            "it is neither a text of this format with a right checksum nor an imported key"
                .to_owned()
        }
        DenialReason::Prefix => format!(
            "keys that start with {} are accepted only where a route says so; see --accept-prefix",
            record.map_or("", |record| &record.prefix)
        ),
        DenialReason::Revoked => {
            let revoked_at = record.and_then(|record| record.revoked_at);
            format!("the key was ended for good{}", when(revoked_at))
        }
        DenialReason::Scope => "it lacks a scope that is required".to_owned(),
        DenialReason::Unknown => "it is in the service's format, but not stored here".to_owned(),
        other => format!("a server would refuse it ({})", other.as_str()),
    }
}
