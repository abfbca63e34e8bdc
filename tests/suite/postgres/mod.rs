//! What `PostgresStore` promises beyond the contracts.

mod bus;
mod deadlocks;
mod listings;
mod notifications;
mod opening;
mod outages;
mod pooler;
mod replicas;
mod rows;
mod silences;
mod standby;
mod versions;
mod writing;

use std::str::FromStr;
use std::thread;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor, PgPool};
use tower_api_key::{Key, KeyChange, PostgresBuilder, PostgresStore};

use crate::support::event;

/// A schema of the server's database, or of another one. It is empty at first and goes when this
/// goes.
pub(crate) struct Database {
    url: String,
    schema: String,
    /// The database itself, where it was made for this.
    separate: Option<String>,
}

impl Database {
    pub(crate) async fn new(schema: &str) -> Self {
        let database = Self {
            url: url(),
            schema: schema.to_owned(),
            separate: None,
        };
        // What a test that was killed has left.
        database.clear().await.unwrap();
        database
    }

    /// In a database of its own, also called `name`.
    pub(crate) async fn separate(name: &str, schema: &str) -> Self {
        let database = Self {
            url: url_of(name),
            schema: schema.to_owned(),
            separate: Some(name.to_owned()),
        };
        database.clear().await.unwrap();
        execute(&url(), &format!("CREATE DATABASE {}", quoted(name)))
            .await
            .unwrap();
        database
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn builder(&self) -> PostgresBuilder {
        PostgresStore::builder().schema(&self.schema)
    }

    pub(crate) async fn open(&self) -> PostgresStore {
        self.builder().connect(&self.url).await.unwrap()
    }

    /// Connections of an application or an operator, beside the store's own.
    pub(crate) async fn pool(&self) -> PgPool {
        self.pool_with([]).await
    }

    pub(crate) async fn pool_with<const N: usize>(&self, settings: [(&str, &str); N]) -> PgPool {
        let options = PgConnectOptions::from_str(&self.url).unwrap();
        PgPoolOptions::new()
            .max_connections(5)
            .connect_with(options.options(settings))
            .await
            .unwrap()
    }

    /// Ends every connection to it but its own.
    pub(crate) async fn end_connections(&self) {
        let query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                     WHERE datname = current_database() AND pid <> pg_backend_pid()";
        execute(&self.url, query).await.unwrap();
    }

    /// Runs statements with the schema for each `{schema}`.
    async fn execute(&self, statements: &str) -> sqlx::Result<u64> {
        let schema = quoted(&self.schema);
        execute(&self.url, &statements.replace("{schema}", &schema)).await
    }

    async fn clear(&self) -> sqlx::Result<u64> {
        let statement = match &self.separate {
            Some(name) => format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", quoted(name)),
            None => format!("DROP SCHEMA IF EXISTS {} CASCADE", quoted(&self.schema)),
        };
        execute(&url(), &statement).await
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // A runtime of its own: that of the test cannot be waited for here.
        thread::scope(|scope| {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                // A test that has failed half-way may hold a lock. The next one clears it away.
                let _ = runtime.block_on(self.clear());
            });
        });
    }
}

/// The server to test against.
pub(crate) fn url() -> String {
    std::env::var("DATABASE_URL")
        .ok()
        .filter(|url| url.starts_with("postgres://") || url.starts_with("postgresql://"))
        .expect("set DATABASE_URL to a PostgreSQL server, or run ./scripts/test, which starts one")
}

/// The same server's database of that name.
fn url_of(database: &str) -> String {
    let url = url();
    let (address, parameters) = url.split_once('?').unwrap_or((&url, ""));
    let (server, _) = address.rsplit_once('/').unwrap();
    format!("{server}/{database}?{parameters}")
}

fn with_parameter(parameter: &str) -> String {
    let url = url();
    let separator = if url.contains('?') { '&' } else { '?' };
    format!("{url}{separator}{parameter}")
}

/// On a connection of its own, as psql does it.
async fn execute(url: &str, statements: &str) -> sqlx::Result<u64> {
    let settings = [("client_min_messages", "warning"), ("lock_timeout", "10s")];
    let options = PgConnectOptions::from_str(url)?.options(settings);
    let mut connection = options.connect().await?;
    let done = connection.execute(AssertSqlSafe(statements)).await?;
    connection.close().await?;
    Ok(done.rows_affected())
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The change of `key` to its next version.
fn update(key: &Key) -> KeyChange {
    let mut record = key.record.clone();
    record.version += 1;
    let event = event(record.id);
    KeyChange::new(record, event)
}
