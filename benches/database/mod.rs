//! A database file with many keys, loaded fast and removed afterwards.

use std::sync::atomic::{AtomicUsize, Ordering};

use sqlx::sqlite::{SqliteConnectOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection};
use tempfile::TempDir;
use tower_api_key::{KeyDigest, SqliteStore};

/// Keys in a temporary file, which goes when this goes.
pub(crate) struct Database {
    pub(crate) store: SqliteStore,
    /// The numbers of the keys, each once, in random order.
    order: Vec<u32>,
    next: AtomicUsize,
    _directory: TempDir,
}

impl Database {
    /// A database of `count` keys, where `text` is the secret of the key with that number.
    pub(crate) async fn with_keys(count: u32, text: impl Fn(u32) -> String) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let path = directory.path().join("keys.db");
        let path_text = path.to_str().expect("a temporary path is text");
        // The store makes the tables, and is opened anew once they are full.
        open(path_text).await.close().await;
        let options = SqliteConnectOptions::new()
            .filename(&path)
            .synchronous(SqliteSynchronous::Off)
            .pragma("cache_size", "-1000000");
        load(&options, count, text)
            .await
            .expect("keys can be loaded");

        let mut order: Vec<_> = (0..count).collect();
        // Random, and the same in every run.
        order.sort_by_cached_key(|number| *KeyDigest::sha256(&number.to_string()).as_bytes());
        Self {
            store: open(path_text).await,
            order,
            next: AtomicUsize::new(0),
            _directory: directory,
        }
    }

    /// The number of the key that has waited longest for its turn.
    pub(crate) fn next_key(&self) -> u32 {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        self.order[turn % self.order.len()]
    }
}

async fn open(path: &str) -> SqliteStore {
    SqliteStore::open(path)
        .await
        .expect("the store can be opened")
}

/// In one transaction, many keys to a statement.
async fn load(
    options: &SqliteConnectOptions,
    count: u32,
    text: impl Fn(u32) -> String,
) -> sqlx::Result<()> {
    const AT_ONCE: usize = 10_000;
    let mut connection = options.connect().await?;
    let mut transaction = connection.begin().await?;
    let numbers: Vec<_> = (0..count).collect();
    for numbers in numbers.chunks(AT_ONCE) {
        let digests = numbers
            .iter()
            .map(|&number| KeyDigest::sha256(&text(number)));
        let digests: Vec<_> = digests.flat_map(|digest| *digest.as_bytes()).collect();
        let start = text(numbers[0]).chars().take(12).collect::<String>();
        for statement in [INSERT_KEYS, INSERT_CREDENTIALS] {
            sqlx::query(statement)
                .bind(numbers[0])
                .bind(numbers[numbers.len() - 1])
                .bind(&digests)
                .bind(&start)
                .execute(&mut *transaction)
                .await?;
        }
    }
    transaction.commit().await?;
    connection.close().await
}

/// The ids are of digits only, which a ULID can be, and count upwards, as those of keys issued one
/// after the other do.
const INSERT_KEYS: &str = r#"
WITH RECURSIVE number (n) AS (SELECT ?1 UNION ALL SELECT n + 1 FROM number WHERE n < ?2)
INSERT INTO tower_api_key_keys
SELECT n + 1, printf('key_%026d', n), 1, 'key ' || n, 'owner ' || (n / 10), 'sk', 'live',
       '["invoices:read","orders:*"]',
       '[{"name":"burst","quota":100,"window_seconds":60},{"name":"daily","quota":10000,"window_seconds":86400}]',
       '{"plan":"pro","region":"eu-central"}', '[]',
       1, 1767225600000000 + n, NULL, NULL
FROM number
WHERE ?3 IS NOT NULL AND ?4 IS NOT NULL"#;

const INSERT_CREDENTIALS: &str = "
WITH RECURSIVE number (n) AS (SELECT ?1 UNION ALL SELECT n + 1 FROM number WHERE n < ?2)
INSERT INTO tower_api_key_credentials
SELECT substr(?3, (n - ?1) * 32 + 1, 32), n + 1, 1, NULL, ?4, 0,
       1767225600000000 + n, NULL, 1767225600000000 + n
FROM number";
