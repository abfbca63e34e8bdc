//! Plain SQL and the store change a key at once, and neither change undoes the other.

use std::time::Duration;

use jiff::Timestamp;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};
use sqlx::{AssertSqlSafe, SqlitePool};
use tokio::time::Instant;
use tower_api_key::{
    ApiKeys, Credits, Key, KeyChange, KeyErrorKind, KeyRepository, KeyStore, KeyUpdate, NewKey,
    SqliteStore, UsageBatch, UsageDelta,
};

use crate::support::{event, insert};

/// Each of the pragmas decides whether SQLite runs triggers for rows that `REPLACE` removes.
const WRITERS: [[&str; 2]; 4] = [
    [
        "PRAGMA recursive_triggers = OFF",
        "PRAGMA foreign_keys = ON",
    ],
    [
        "PRAGMA recursive_triggers = OFF",
        "PRAGMA foreign_keys = OFF",
    ],
    ["PRAGMA recursive_triggers = ON", "PRAGMA foreign_keys = ON"],
    [
        "PRAGMA recursive_triggers = ON",
        "PRAGMA foreign_keys = OFF",
    ],
];

/// The time for a change to be noticed before a test gives up.
const A_WHILE: Duration = Duration::from_secs(30);

const KEY_COLUMNS: &str = "key_row, id, version, name, owner, prefix, environment, scopes, limits, \
                           metadata, allowed_addresses, 0, created_at, expires_at, revoked_at";

const CREDENTIAL_COLUMNS: &str =
    "key_row, position, pepper, start, imported, created_at, 0, last_used_at";

#[tokio::test]
async fn plain_sql_makes_a_version_of_its_own() {
    let replaced_key = format!("REPLACE INTO $keys SELECT {KEY_COLUMNS} FROM $keys");
    let deleted_and_inserted = format!(
        "CREATE TEMP TABLE kept AS SELECT {KEY_COLUMNS} FROM $keys; \
         PRAGMA defer_foreign_keys = ON; DELETE FROM $keys; \
         INSERT INTO $keys SELECT * FROM kept; DROP TABLE kept"
    );
    let replaced_credential =
        format!("REPLACE INTO $credentials SELECT digest, {CREDENTIAL_COLUMNS} FROM $credentials");
    let replaced_by_another = format!(
        "REPLACE INTO $credentials SELECT zeroblob(32), {CREDENTIAL_COLUMNS} FROM $credentials"
    );
    for (statement, is_change) in [
        ("UPDATE $keys SET revoked_at = 0", true),
        ("UPDATE $keys SET enabled = 1 - enabled", true),
        (
            "UPDATE $keys SET scopes = '[]', name = 'y', version = 1",
            true,
        ),
        ("UPDATE $keys SET enabled = enabled", false),
        (&replaced_key, true),
        (&deleted_and_inserted, true),
        (
            "INSERT INTO $keys SELECT * FROM $keys WHERE true ON CONFLICT (id) DO UPDATE SET enabled = 0",
            true,
        ),
        ("UPDATE $credentials SET expires_at = 0", true),
        ("UPDATE $credentials SET digest = zeroblob(32)", true),
        ("UPDATE $credentials SET last_used_at = 1", false),
        ("UPDATE $credentials SET start = start", false),
        ("DELETE FROM $credentials", true),
        (&replaced_credential, true),
        (&replaced_by_another, true),
        (
            "INSERT INTO $credits VALUES (1, 1, 5, 5, 0, NULL, NULL)",
            true,
        ),
        ("UPDATE $credits SET granted = 7", true),
        ("UPDATE $credits SET remaining = 3", false),
        (
            "REPLACE INTO $credits VALUES (1, 1, 9, 9, 0, NULL, NULL)",
            true,
        ),
        ("DELETE FROM $credits", true),
    ] {
        for writer in WRITERS {
            let file = File::new().await;
            let store = &file.store;
            let key = insert(store).await;
            let pool = file.pool(writer).await;
            if statement.contains("credits") && !statement.starts_with("INSERT") {
                let add = "INSERT INTO $credits VALUES (1, 1, 5, 5, 0, NULL, NULL)";
                run(&pool, add).await;
            }
            let computed_from = file.stored(&key).await;
            let mut noticing = store.bus().unwrap().subscribe().await.unwrap();
            run(&pool, statement).await;

            let case = format!("{statement} after {writer:?}");
            let changed = file.stored(&key).await;
            let raised = changed.record.version > computed_from.record.version;
            assert_eq!(raised, is_change, "{case}");
            if is_change {
                let noticed = noticing.next(Instant::now() + A_WHILE).await;
                let noticed = noticed.unwrap().expect(&case).to_string();
                assert!(noticed.contains(&key.record.id.to_string()), "{case}");
            }
            assert_eq!(
                store.apply(&renamed(&computed_from)).await.unwrap(),
                !is_change,
                "{case}"
            );
            if is_change {
                assert_eq!(file.stored(&key).await, changed, "{case}");
                assert!(store.apply(&renamed(&changed)).await.unwrap(), "{case}");
            }
        }
    }
}

/// A row that another one takes the place of is noticed too, under its own id and digest.
#[tokio::test]
async fn what_is_replaced_is_noticed() {
    for (statement, tags) in [
        (
            format!(
                "REPLACE INTO $keys SELECT {}",
                KEY_COLUMNS.replace("id,", "'key_other',")
            ) + " FROM $keys WHERE key_row = 1",
            false,
        ),
        (
            "UPDATE OR REPLACE $keys SET key_row = 1 WHERE key_row = 2".to_owned(),
            false,
        ),
        (
            format!(
                "REPLACE INTO $credentials SELECT zeroblob(32), {CREDENTIAL_COLUMNS} \
                 FROM $credentials WHERE key_row = 1"
            ),
            true,
        ),
        (
            "UPDATE OR REPLACE $credentials SET key_row = 1 WHERE key_row = 2".to_owned(),
            true,
        ),
    ] {
        for writer in WRITERS.iter().filter(|writer| writer[1].ends_with("OFF")) {
            let file = File::new().await;
            let (first, _second) = (insert(&file.store).await, insert(&file.store).await);
            let pool = file.pool(*writer).await;
            let mut changes = file.store.bus().unwrap().subscribe().await.unwrap();
            run(&pool, &statement).await;
            let id = first.record.id;
            let expected = if tags {
                let tag = first.credentials[0].digest.as_bytes()[..8].iter();
                let tag: Vec<_> = tag.map(|byte| format!("{byte:02x}")).collect();
                format!("{id} {}", tag.concat())
            } else {
                id.to_string()
            };
            loop {
                let noticed = changes.next(Instant::now() + A_WHILE).await.unwrap();
                let noticed = noticed.unwrap_or_else(|| panic!("{statement}: {expected}"));
                if noticed.to_string() == expected {
                    break;
                }
            }
        }
    }
}

/// A key that the store writes has the version that the store gave it, whatever is written with it.
#[tokio::test]
async fn a_change_of_the_store_is_one_version() {
    let file = File::new().await;
    let keys = ApiKeys::builder(file.store.clone()).build();
    let new = NewKey::named("billing").credits(Credits::new(100));
    let id = keys.issue(new).await.unwrap().key().record.id;
    let version = async || keys.get(id).await.unwrap().record.version;
    assert_eq!(version().await, 1);
    let rotated = keys.rotate(id, Duration::from_mins(1)).await.unwrap();
    assert_eq!((rotated.key().record.version, version().await), (2, 2));
    let topped_up = KeyUpdate::new().credits(Credits::new(50));
    let updated = keys.update(id, topped_up).await.unwrap();
    assert_eq!((updated.record.version, version().await), (3, 3));
    let revoked = keys.revoke(id).await.unwrap();
    assert_eq!((revoked.record.version, version().await), (4, 4));
}

/// 200 revocations by plain SQL, raced against the store's own changes of the same keys.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_revocation_by_plain_sql_is_lost_to_a_change_of_the_store() {
    const ROUNDS: usize = 200;
    let file = File::new().await;
    let keys = ApiKeys::builder(file.store.clone()).build();
    let pool = file.pool(WRITERS[0]).await;
    let mut lost = 0;
    for round in 0..ROUNDS {
        let issued = keys.issue(NewKey::named("raced")).await.unwrap();
        let id = issued.key().record.id;
        let changing = {
            let keys = keys.clone();
            tokio::spawn(async move {
                loop {
                    let update = KeyUpdate::new().name("renamed");
                    match keys.update(id, update).await {
                        Ok(key) if key.record.revoked_at.is_some() => return,
                        Ok(_) => {}
                        Err(error) => return assert_eq!(error.kind(), KeyErrorKind::Revoked),
                    }
                    // A revocation that was lost would keep it here for ever.
                    if keys.events(id, None, 100).await.unwrap().events.len() == 100 {
                        return;
                    }
                }
            })
        };
        for _ in 0..round % 7 {
            tokio::task::yield_now().await;
        }
        let revoke = format!("UPDATE $keys SET revoked_at = 1 WHERE id = '{id}'");
        run(&pool, &revoke).await;
        changing.await.unwrap();
        lost += usize::from(keys.get(id).await.unwrap().record.revoked_at.is_none());
    }
    assert_eq!(lost, 0);
}

/// A batch that comes again a day later is not expected, and its id need not be kept.
#[tokio::test]
async fn the_ids_of_old_batches_are_pruned() {
    let file = File::new().await;
    let key = insert(&file.store).await;
    let pool = file.pool(WRITERS[0]).await;
    let older = "INSERT INTO $usage_batches VALUES
                 ('old', (unixepoch() - 25 * 3600) * 1000000),
                 ('new', (unixepoch() - 23 * 3600) * 1000000)";
    run(&pool, older).await;
    let batch = UsageBatch::new(vec![UsageDelta {
        key: key.record.id,
        credential: key.credentials[0].digest,
        hour: Timestamp::UNIX_EPOCH,
        allowed: 1,
        denied: 0,
        last_used_at: None,
    }]);
    file.store.record_usage(&batch).await.unwrap();
    let ids = "SELECT id FROM tower_api_key_usage_batches ORDER BY recorded_at";
    let ids: Vec<String> = sqlx::query_scalar(ids).fetch_all(&pool).await.unwrap();
    assert_eq!(ids, ["new".to_owned(), batch.id.to_string()]);
}

struct File {
    store: SqliteStore,
    directory: tempfile::TempDir,
}

impl File {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys.db");
        let store = SqliteStore::open(path.to_str().unwrap()).await.unwrap();
        Self { store, directory }
    }

    /// The connection of a program that has these settings.
    async fn pool(&self, settings: [&'static str; 2]) -> SqlitePool {
        let options = SqliteConnectOptions::new().filename(self.directory.path().join("keys.db"));
        let pool = SqlitePoolOptions::new()
            .max_connections(1)
            .connect_with(options.busy_timeout(Duration::from_secs(5)))
            .await
            .unwrap();
        for setting in settings {
            sqlx::query(setting).execute(&pool).await.unwrap();
        }
        pool
    }

    async fn stored(&self, key: &Key) -> Key {
        self.store.get(key.record.id).await.unwrap().unwrap()
    }
}

/// In one transaction, with the beginning of the tables' names for each `$`.
async fn run(pool: &SqlitePool, statements: &str) {
    let statements = statements.replace('$', "tower_api_key_");
    let mut transaction = pool.begin_with("BEGIN IMMEDIATE").await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(statements.clone()))
        .execute(&mut *transaction)
        .await
        .unwrap_or_else(|error| panic!("{statements}: {error}"));
    transaction.commit().await.unwrap();
}

fn renamed(key: &Key) -> KeyChange {
    let mut record = key.record.clone();
    record.version += 1;
    record.name = "late".into();
    let event = event(record.id);
    KeyChange::new(record, event)
}
