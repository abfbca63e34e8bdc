use ipnet::IpNet;
use tower_api_key::{CreditBalance, NewKey, RateLimit, Refill};

use crate::Answer;
use crate::failure::Failure;
use crate::global::Global;
use crate::output::Output;
use crate::store::Missing;
use crate::values::{self, When};

/// Makes a key and tells its secret, once
///
/// The secret is the one line on standard output; the key's id goes to standard error. A database of
/// SQLite that is not there yet is made.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  \
    tower-api-key issue billing --owner acme --scope orders:read --limit burst=100/60s \\\n    \
    --expires 90d")]
pub(crate) struct Args {
    /// What people call the key
    name: String,
    /// Whom it belongs to
    #[arg(long)]
    owner: Option<String>,
    /// What kind of key it is [default: the first of --prefixes]
    #[arg(long)]
    prefix: Option<String>,
    /// Its environment [default: the first of --environments]
    #[arg(long)]
    environment: Option<String>,
    /// What it may do, as in orders:read or orders:*; more than once for more
    #[arg(long = "scope", value_name = "SCOPE")]
    scopes: Vec<String>,
    /// How much it may do; more than once for several limits
    #[arg(long = "limit", value_name = "NAME=QUOTA/WINDOW", value_parser = values::limit)]
    limits: Vec<RateLimit>,
    /// How many credits it has [default: as many as a refill brings, or any number without one]
    #[arg(long, value_name = "AMOUNT")]
    credits: Option<u64>,
    /// What its credits are refilled to each day or month in UTC, as in 1000/month
    #[arg(long, value_name = "AMOUNT/day|AMOUNT/month", value_parser = values::refill)]
    refill: Option<Refill>,
    /// When it ends: a time, a day, or how far from now as in 90d [default: never]
    #[arg(long, value_name = "WHEN")]
    expires: Option<When>,
    /// Something to keep with the key; more than once for more
    #[arg(long, value_name = "NAME=VALUE", value_parser = values::pair)]
    metadata: Vec<(String, String)>,
    /// A network it may be used from, as in 10.0.0.0/8; more than once for more [default: all]
    #[arg(long = "allow", value_name = "NETWORK", value_parser = network)]
    allowed_addresses: Vec<IpNet>,
}

pub(crate) async fn run(
    args: Args,
    global: &Global,
    output: &mut Output,
) -> Result<Answer, Failure> {
    let keys = global.keys(Missing::Create).await?;
    let mut new = NewKey::named(args.name)
        .scopes(args.scopes)
        .allowed_addresses(args.allowed_addresses);
    if let Some(owner) = args.owner {
        new = new.owner(owner);
    }
    if let Some(prefix) = args.prefix {
        new = new.prefix(prefix);
    }
    if let Some(environment) = args.environment {
        new = new.environment(environment);
    }
    for limit in args.limits {
        new = new.limit(limit);
    }
    if let Some(credits) = values::budget(args.credits, args.refill) {
        new = new.credits(credits);
    }
    if let Some(end) = args.expires {
        new = new.expires_at(end.after(keys.now()));
    }
    for (name, value) in args.metadata {
        new = new.metadata(name, value);
    }
    let issued = keys.issue(new).await?;
    let now = keys.now();
    let plan = issued.key().record.credits.as_ref();
    let balance = plan.map(|plan| CreditBalance::set(plan, now));
    output.secret(&issued, balance, "Issued", now)?;
    Ok(Answer::Good)
}

/// A network, or a single address.
pub(crate) fn network(text: &str) -> Result<IpNet, String> {
    let address = || {
        text.parse()
            .ok()
            .map(|address: std::net::IpAddr| address.into())
    };
    let network = text.parse().ok().or_else(address);
    network.ok_or_else(|| "write a network as in 10.0.0.0/8, or an address".to_owned())
}
