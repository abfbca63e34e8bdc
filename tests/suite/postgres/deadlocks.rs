//! Plain SQL and the store wait for each other's rows, and PostgreSQL ends the store's transaction.

use std::future::Future;
use std::time::Duration;

use jiff::Timestamp;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, PgPool, Row};
use tower_api_key::{
    ApiKeys, Credits, Key, KeyRepository, KeyUpdate, NewKey, PostgresStore, UsageBatch, UsageDelta,
};

use super::{Database, quoted, with_parameter};
use crate::server::DEADLINE;

/// One of the tests, with a key whose first row plain SQL has locked.
struct Scene {
    database: Database,
    keys: ApiKeys,
    key: Key,
    plain: PgConnection,
    watching: PgPool,
}

impl Scene {
    /// The store's transactions are the ones that find a deadlock, and so the ones that are ended.
    async fn new(name: &str) -> Self {
        let database = Database::new(name).await;
        let store = open(&database, name).await;
        let keys = ApiKeys::builder(store).build();
        let new = NewKey::named("x").credits(Credits::new(100));
        let id = keys.issue(new).await.unwrap().key().record.id;
        let hour = Duration::from_hours(1);
        keys.rotate(id, hour).await.unwrap();
        let key = keys.get(id).await.unwrap();
        let mut plain = PgConnection::connect(&super::url()).await.unwrap();
        plain.execute("SET deadlock_timeout = '1h'").await.unwrap();
        let watching = database.pool().await;
        Self {
            database,
            keys,
            key,
            plain,
            watching,
        }
    }

    async fn plain(&mut self, statement: &str) {
        let statement = statement.replace("{schema}", &quoted(&self.database.schema));
        let done = self.plain.execute(AssertSqlSafe(statement)).await;
        done.expect("plain SQL goes on");
    }

    /// Runs `call` after the `first` statement, and the `second` when the call waits for the first.
    async fn crossed<T: Send + 'static>(
        &mut self,
        first: &str,
        call: impl Future<Output = T> + Send + 'static,
        second: &str,
    ) -> T {
        self.plain("BEGIN").await;
        self.plain(first).await;
        let call = tokio::spawn(call);
        let waiting = "SELECT count(*) FROM pg_stat_activity
                       WHERE application_name = $1 AND wait_event_type = 'Lock'";
        loop {
            let row = sqlx::query(waiting).bind(&self.database.schema);
            let row = row.fetch_one(&self.watching).await.unwrap();
            if row.get::<i64, _>(0) > 0 {
                break;
            }
            assert!(!call.is_finished(), "the call does not wait");
            tokio::task::yield_now().await;
        }
        self.plain(second).await;
        self.plain("COMMIT").await;
        call.await.unwrap()
    }
}

/// A store whose connections are called `name`. PostgreSQL looks for a deadlock when a transaction has waited
/// for its default of one second, and the store's wait until then.
async fn open(database: &Database, name: &str) -> PostgresStore {
    let url = with_parameter(&format!("application_name={name}"));
    let builder = database.builder().statement_timeout(None);
    let store = builder.deadline(DEADLINE).connect(&url).await;
    store.unwrap()
}

#[tokio::test]
async fn a_change_is_made_after_the_plain_sql_that_it_waited_for() {
    let mut scene = Scene::new("deadlock_of_a_change").await;
    let (keys, id) = (scene.keys.clone(), scene.key.record.id);
    let change = {
        let keys = keys.clone();
        async move { keys.update(id, KeyUpdate::new().name("late")).await }
    };
    let changed = scene
        .crossed(
            "UPDATE {schema}.keys SET enabled = false",
            change,
            "UPDATE {schema}.credentials SET expires_at = now()",
        )
        .await;
    assert_eq!(changed.unwrap().record.name, "late");
    let key = keys.get(id).await.unwrap();
    assert_eq!(key.record.name, "late");
    assert!(!key.record.enabled);
    let ended = |end: Option<Timestamp>| end.is_some_and(|end| end <= Timestamp::now());
    assert!(key.credentials.iter().all(|known| ended(known.expires_at)));
}

#[tokio::test]
async fn use_is_written_once_after_the_plain_sql_that_it_waited_for() {
    let mut scene = Scene::new("deadlock_of_use").await;
    let store = scene.database.open().await;
    let id = scene.key.record.id;
    let mut digests: Vec<_> = scene.key.credentials.iter().map(|of| of.digest).collect();
    digests.sort_by_key(|digest| *digest.as_bytes());
    let deltas = digests.iter().map(|digest| UsageDelta {
        key: id,
        credential: *digest,
        hour: Timestamp::UNIX_EPOCH,
        allowed: 1,
        denied: 0,
        last_used_at: Some(Timestamp::now()),
    });
    let batch = UsageBatch::new(deltas.collect());
    let recording = open(&scene.database, "deadlock_of_use").await;
    // In the other order than the store, which locks them in that of their digests.
    let [first, second] = [digests[1], digests[0]].map(|digest| {
        // `"…"` in JSON.
        let json = serde_json::to_string(&digest).unwrap();
        let hex = json.trim_matches('"');
        format!("UPDATE {{schema}}.credentials SET expires_at = now() WHERE digest = '\\x{hex}'")
    });
    let recorded = async move { recording.record_usage(&batch).await };
    scene.crossed(&first, recorded, &second).await.unwrap();
    let usage = store.usage(id, Timestamp::MIN, Timestamp::MAX).await;
    assert_eq!(usage.unwrap()[0].allowed, 2);
}
