use clap::ArgGroup;
use ipnet::IpNet;
use tower_api_key::{KeyId, KeyUpdate, RateLimit};

use crate::Answer;
use crate::changes;
use crate::failure::Failure;
use crate::global::Global;
use crate::issue::network;
use crate::output::Output;
use crate::store::Missing;
use crate::values::{self, When};

/// Changes what is named of a key and leaves the rest
///
/// A list that is given takes the place of the one that the key has. The credits are changed by
/// `credits`.
#[derive(clap::Args)]
#[command(
    group = ArgGroup::new("change").required(true).multiple(true).args([
        "name", "scopes", "no_scopes", "limits", "no_limits", "expires", "metadata", "no_metadata",
        "allowed_addresses", "allow_all",
    ]),
    after_help = "Examples:\n  \
        tower-api-key update key_01JD8Z6V4M3T2R1Q0P9N8K7J6H --allow 203.0.113.0/24 --allow 10.0.0.7\n  \
        tower-api-key update key_01JD8Z6V4M3T2R1Q0P9N8K7J6H --name reports --expires never",
)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one option of the command"
)]
pub(crate) struct Args {
    /// The key
    id: KeyId,
    /// Its name for people
    #[arg(long)]
    name: Option<String>,
    /// A scope, as in orders:read or orders:*; more than once for more
    #[arg(long = "scope", value_name = "SCOPE")]
    scopes: Vec<String>,
    /// Takes all scopes away
    #[arg(long, conflicts_with = "scopes")]
    no_scopes: bool,
    /// A limit, as in burst=100/60s; more than once for several
    #[arg(long = "limit", value_name = "NAME=QUOTA/WINDOW", value_parser = values::limit)]
    limits: Vec<RateLimit>,
    /// Takes its own limits away
    #[arg(long, conflicts_with = "limits")]
    no_limits: bool,
    /// Its end: a time, a day, how far from now as in 90d, or never
    #[arg(long, value_name = "WHEN|never", value_parser = end)]
    expires: Option<End>,
    /// Something to keep with the key; more than once for more
    #[arg(long, value_name = "NAME=VALUE", value_parser = values::pair)]
    metadata: Vec<(String, String)>,
    /// Takes the metadata away
    #[arg(long, conflicts_with = "metadata")]
    no_metadata: bool,
    /// A network it may be used from, as in 10.0.0.0/8; more than once for more
    #[arg(long = "allow", value_name = "NETWORK", value_parser = network)]
    allowed_addresses: Vec<IpNet>,
    /// Lets it be used from everywhere
    #[arg(long, conflicts_with = "allowed_addresses")]
    allow_all: bool,
}

#[derive(Clone, Copy)]
enum End {
    Never,
    When(When),
}

fn end(text: &str) -> Result<End, String> {
    if text == "never" {
        return Ok(End::Never);
    }
    text.parse().map(End::When)
}

pub(crate) async fn run(
    args: Args,
    global: &Global,
    output: &mut Output,
) -> Result<Answer, Failure> {
    let keys = global.keys(Missing::Refuse).await?;
    let mut update = KeyUpdate::new();
    if let Some(name) = args.name {
        update = update.name(name);
    }
    if args.no_scopes || !args.scopes.is_empty() {
        update = update.scopes(args.scopes);
    }
    if args.no_limits || !args.limits.is_empty() {
        update = update.limits(args.limits);
    }
    match args.expires {
        None => {}
        Some(End::Never) => update = update.expires_at(None),
        Some(End::When(end)) => update = update.expires_at(end.after(keys.now())),
    }
    if args.no_metadata || !args.metadata.is_empty() {
        update = update.metadata(args.metadata.into_iter().collect());
    }
    if args.allow_all || !args.allowed_addresses.is_empty() {
        update = update.allowed_addresses(args.allowed_addresses);
    }
    let key = keys.update(args.id, update).await?;
    changes::tell(&keys, &key, "Updated", output).await
}
