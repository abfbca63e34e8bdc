use std::fs;
use std::path::PathBuf;

use tower_api_key::{KeyFormat, KeyHasher, Pepper};

use crate::failure::Failure;
use crate::values;

/// What every command takes.
#[derive(clap::Args)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct Global {
    /// The database: `sqlite:PATH` or `postgres://USER:PASSWORD@HOST/DATABASE`
    ///
    /// A path alone is one of SQLite, and any other scheme is refused. The variable keeps a
    /// password out of the list of processes.
    #[arg(
        long,
        global = true,
        env = "DATABASE_URL",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub(crate) store: Option<String>,

    /// The schema of the tables in PostgreSQL
    #[arg(
        long,
        global = true,
        default_value = "tower_api_key",
        hide_short_help = true
    )]
    pub(crate) schema: String,

    /// Writes JSON, as the admin router does
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// Who is written into the audit trail
    #[arg(long, global = true, default_value = "cli", value_name = "NAME")]
    pub(crate) actor: String,

    /// The prefixes of the service's keys, that of secret keys first
    #[arg(
        long, global = true, env = "TOWER_API_KEY_PREFIXES", value_name = "PREFIX,…",
        default_value = "sk,pk", value_delimiter = ',', value_parser = values::prefix
    )]
    pub(crate) prefixes: Vec<String>,

    /// The environments of the service's keys, that of a new key first
    #[arg(
        long, global = true, env = "TOWER_API_KEY_ENVIRONMENTS", value_name = "NAME,…",
        default_value = "live,test", value_delimiter = ',', value_parser = values::environment
    )]
    pub(crate) environments: Vec<String>,

    /// The service's pepper, where it has one: its id, and a file with its bytes
    ///
    /// Given more than once, the first is for new secrets, and the others are accepted.
    #[arg(
        long = "pepper", global = true, value_name = "ID=FILE", value_parser = values::pair,
        hide_short_help = true
    )]
    pub(crate) peppers: Vec<(String, String)>,
}

impl Global {
    /// What the keys look like.
    pub(crate) fn format(&self) -> KeyFormat {
        format_of(&self.prefixes, &self.environments)
    }

    /// How secrets become digests.
    pub(crate) fn hasher(&self) -> Result<KeyHasher, Failure> {
        let mut peppers = self.peppers.iter().map(|(id, path)| pepper(id, path));
        let Some(current) = peppers.next() else {
            return Ok(KeyHasher::sha256());
        };
        let mut hasher = KeyHasher::peppered(current?).accept_unpeppered();
        for previous in peppers {
            hasher = hasher.accept(previous?);
        }
        Ok(hasher)
    }
}

/// The format with these names, which were checked before, and of which there is one at least.
pub(crate) fn format_of(prefixes: &[String], environments: &[String]) -> KeyFormat {
    let first = prefixes.first().map_or("sk", String::as_str);
    prefixes
        .iter()
        .fold(KeyFormat::new(first), |format, prefix| {
            format.prefix(prefix)
        })
        .environments(environments.iter().map(String::as_str))
}

fn pepper(id: &str, path: &str) -> Result<Pepper, Failure> {
    let path = PathBuf::from(path);
    let what = format!("--pepper {id}={}", path.display());
    let bytes = fs::read(&path).map_err(|error| Failure::caused_by(&what, &error))?;
    let bytes = zeroize::Zeroizing::new(bytes);
    Pepper::new(id, &bytes).map_err(|error| Failure::caused_by(&what, &error))
}
