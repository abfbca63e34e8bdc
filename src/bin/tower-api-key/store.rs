//! Opening the store.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tower_api_key::{
    ApiKeys, Builder, KeyFormat, KeyRepository, PostgresStore, SqliteStore, Verifier,
};

use crate::failure::Failure;
use crate::global::Global;

/// Whether a command may begin in a database that is not there yet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missing {
    /// A slip of the pen must not make an empty one.
    Refuse,
    Create,
}

impl Global {
    /// The keys, as whom they are changed, with the service's own format.
    pub(crate) async fn keys(&self, missing: Missing) -> Result<ApiKeys, Failure> {
        self.keys_of(self.format(), missing).await
    }

    pub(crate) async fn keys_of(
        &self,
        format: KeyFormat,
        missing: Missing,
    ) -> Result<ApiKeys, Failure> {
        self.keys_over(self.open(missing).await?, format)
    }

    pub(crate) fn keys_over(
        &self,
        store: Arc<dyn KeyRepository>,
        format: KeyFormat,
    ) -> Result<ApiKeys, Failure> {
        let keys = self.set_up(ApiKeys::builder(store), format)?.build();
        Ok(keys.acting_as(&self.actor))
    }

    /// What decides on keys here, and counts nothing. It finds imported ones, too.
    pub(crate) fn verifier(
        &self,
        store: Arc<dyn KeyRepository>,
        format: KeyFormat,
    ) -> Result<Verifier, Failure> {
        let builder = self.set_up(Verifier::builder(store), format)?;
        Ok(builder.accept_imported(true).build_verifier())
    }

    fn set_up<S>(&self, builder: Builder<S>, format: KeyFormat) -> Result<Builder<S>, Failure> {
        Ok(builder.format(format).hasher(self.hasher()?).deaf())
    }

    /// The store that the URL names.
    pub(crate) async fn open(&self, missing: Missing) -> Result<Arc<dyn KeyRepository>, Failure> {
        let url = self.store.as_deref().filter(|url| !url.is_empty());
        let url = url.ok_or_else(|| {
            Failure::new(
                "no database: give --store sqlite:PATH or --store postgres://…, or set DATABASE_URL",
            )
        })?;
        if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            let opened = PostgresStore::builder()
                .schema(&self.schema)
                .max_connections(2)
                // Nobody is kept waiting but whoever gave the command.
                .acquire_timeout(Duration::from_secs(10))
                .statement_timeout(Duration::from_mins(1))
                .connect(url)
                .await;
            let store = opened.map_err(|error| {
                Failure::caused_by("PostgreSQL cannot be opened; is the URL right?", &error)
            })?;
            return Ok(Arc::new(store));
        }
        let opened = SqliteStore::open(&sqlite_url(url, missing)?).await;
        let store = opened.map_err(|error| {
            let what = match missing {
                Missing::Refuse => "SQLite's database cannot be opened; is the path right?",
                Missing::Create => "SQLite's database cannot be made or opened; is the path right?",
            };
            Failure::caused_by(what, &error)
        })?;
        Ok(Arc::new(store))
    }
}

/// What to open: a path, or a URL that says that the file has to be there.
fn sqlite_url(url: &str, missing: Missing) -> Result<String, Failure> {
    if url.contains(":memory:") || url.contains("mode=memory") {
        return Err(Failure::new(
            "a database in memory ends with this command: give --store sqlite:PATH",
        ));
    }
    if missing == Missing::Create || url.contains("mode=") {
        return Ok(url.to_owned());
    }
    if url.starts_with("sqlite:") {
        let separator = if url.contains('?') { '&' } else { '?' };
        return Ok(format!("{url}{separator}mode=rw"));
    }
    // A scheme of something else is refused when it is opened; one letter is a drive of Windows.
    let is_path = url
        .split_once(':')
        .is_none_or(|(scheme, _)| scheme.len() == 1);
    if is_path && !Path::new(url).exists() {
        // Not with the path: it may be a connection string with a password.
        return Err(Failure::new(
            "there is no file at the path that --store or DATABASE_URL names; \
             `tower-api-key issue` would make it",
        ));
    }
    Ok(url.to_owned())
}
