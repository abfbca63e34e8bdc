use std::num::NonZero;
use std::str::FromStr;
use std::thread;
use std::time::{Duration, Instant};

use sqlx::SqlitePool;
use sqlx::error::DatabaseError;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};

use crate::store::StoreError;

/// How long to wait for a lock that another process holds, and for a free connection.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// Reads what [`SqliteStore::open`](super::SqliteStore::open) was given.
pub(super) fn options(database: &str) -> Result<SqliteConnectOptions, StoreError> {
    if path(database).is_empty() {
        // To SQLite it would be a temporary database, another one for each connection.
        return Err(StoreError::unavailable(
            "no database: give a path, `sqlite:path` or `sqlite::memory:`",
        ));
    }
    if scheme(database).is_some_and(|scheme| scheme != "sqlite") || is_mistaken(database) {
        // Not with any part of it: it may be a URL with a password.
        return Err(StoreError::unavailable(
            "no SQLite database: SQLite has `path`, `sqlite:path` and `sqlite::memory:`, and \
             PostgreSQL `postgres://…`; a path with a colon or `=`, or that begins with a quote or \
             a space, needs `sqlite:` or `./` before it",
        ));
    }
    let options = if in_memory(database) {
        // Private to its one connection, as SQLite's shared cache has locks of its own.
        SqliteConnectOptions::new().in_memory(true)
    } else if database.starts_with("sqlite:") {
        // Not with sqlx's error, which quotes values.
        let named = SqliteConnectOptions::from_str(database).map_err(|_| {
            StoreError::unavailable(
                "the URL cannot be read: its parameters can be `mode`, `cache`, `immutable` and `vfs`",
            )
        })?;
        let chosen = database.split_once('?');
        let mode_is_chosen = chosen.is_some_and(|(_, query)| query.contains("mode="));
        if mode_is_chosen {
            named
        } else {
            named.create_if_missing(true)
        }
    } else {
        SqliteConnectOptions::new()
            .filename(database)
            .create_if_missing(true)
    };
    Ok(options
        .busy_timeout(PATIENCE)
        .foreign_keys(true)
        // In WAL mode `NORMAL` would leave the last commits to a power cut; a revocation that has
        // returned must not come undone.
        .synchronous(SqliteSynchronous::Full))
}

/// The scheme of `database` (RFC 3986 §3.1), if it has one. One letter is a drive of Windows.
fn scheme(database: &str) -> Option<&str> {
    let (scheme, _) = database.split_once(':')?;
    let mut letters = scheme.bytes();
    let begins_well = letters
        .next()
        .is_some_and(|first| first.is_ascii_alphabetic());
    let goes_on_well =
        letters.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'));
    (scheme.len() > 1 && begins_well && goes_on_well).then_some(scheme)
}

/// Returns whether `database` is no path, but a connection string of `name=value` pairs, as libpq takes,
/// or a text that kept its quotes or spaces on the way here. As the name of a new file it would show its
/// password in every listing of the directory.
fn is_mistaken(database: &str) -> bool {
    let is_wrapped =
        database.starts_with(|first: char| first.is_whitespace() || "'\"".contains(first));
    let is_word = |name: &str| {
        name.bytes()
            .all(|byte| byte.is_ascii_alphabetic() || byte == b'_')
    };
    let name = database.split_once('=').map(|(name, _)| name.trim_end());
    is_wrapped || name.is_some_and(is_word)
}

/// Whether the database has no file.
pub(super) fn in_memory(database: &str) -> bool {
    path(database) == ":memory:" || database.contains("mode=memory")
}

fn path(database: &str) -> &str {
    let named = database.strip_prefix("sqlite:").unwrap_or(database);
    let named = named.strip_prefix("//").unwrap_or(named);
    named.split_once('?').map_or(named, |(path, _)| path)
}

/// The one connection that writes; it also puts the database into WAL mode.
pub(super) async fn writer(options: &SqliteConnectOptions) -> Result<SqlitePool, StoreError> {
    let options = options.clone().journal_mode(SqliteJournalMode::Wal);
    let started = Instant::now();
    loop {
        // Where two processes open a new file at once, one may find it locked while the other
        // changes its mode. SQLite does not wait for that lock, so it is tried again.
        match lasting()
            .max_connections(1)
            .connect_with(options.clone())
            .await
        {
            Err(error) if is_busy(&error) && started.elapsed() < PATIENCE => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            outcome => return outcome.map_err(StoreError::unavailable),
        }
    }
}

/// The connections that look keys up, made as they are needed.
pub(super) fn readers(options: &SqliteConnectOptions) -> SqlitePool {
    let options = options
        .clone()
        .pragma("query_only", "ON")
        // In KiB. It holds the inner pages of the two trees of a lookup among several million keys,
        // so that each lookup reads two leaves anew and nothing else.
        .pragma("cache_size", "-8192");
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    let most = u32::try_from(processors)
        .unwrap_or(MOST_READERS)
        .clamp(2, MOST_READERS);
    lasting().max_connections(most).connect_lazy_with(options)
}

/// The connections that list keys and what belongs to them. They are apart from those of the
/// lookups, so that a verification never waits for a listing.
pub(super) fn listing_readers(options: &SqliteConnectOptions) -> SqlitePool {
    let options = options.clone().pragma("query_only", "ON");
    lasting()
        .max_connections(LISTING_READERS)
        .connect_lazy_with(options)
}

/// Each keeps a processor busy while it reads.
const LISTING_READERS: u32 = 2;

/// More would only contend for the processors: a lookup hardly ever waits for the disk.
const MOST_READERS: u32 = 8;

/// Connections that stay open, with the pages and the statements that they have cached, and, in
/// memory, with the data.
fn lasting() -> SqlitePoolOptions {
    SqlitePoolOptions::new()
        .acquire_timeout(PATIENCE)
        .idle_timeout(None)
        .max_lifetime(None)
        // There is no network between that could have broken.
        .test_before_acquire(false)
}

fn is_busy(error: &sqlx::Error) -> bool {
    const SQLITE_BUSY: u32 = 5;
    let code = error.as_database_error().and_then(DatabaseError::code);
    // The low byte is the primary code, the rest tells kinds of busy apart.
    code.and_then(|code| code.parse::<u32>().ok())
        .is_some_and(|code| code & 0xff == SQLITE_BUSY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scheme_is_told_from_a_path() {
        for (database, expected) in [
            ("sqlite:keys.db", Some("sqlite")),
            ("sqlite::memory:", Some("sqlite")),
            ("postgresql:", Some("postgresql")),
            ("postgres:user:password@host/keys", Some("postgres")),
            ("mysql://host/keys", Some("mysql")),
            ("keys.db", None),
            (":memory:", None),
            ("C:\\keys.db", None),
            ("./a:b.db", None),
            ("/srv/a:b.db", None),
            ("a b:c.db", None),
            ("1:2.db", None),
        ] {
            assert_eq!(scheme(database), expected, "{database}");
        }
    }
}
