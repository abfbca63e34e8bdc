//! Notifications through a `PgBouncer`.

use std::error::Error;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::{Connection, Executor, PgConnection};
use tokio::time::Instant;
use tower_api_key::{
    ApiKeys, CacheConfig, InvalidationBus, KeyDigest, KeyStore, NewKey, PostgresStore, StoreError,
    StoredKey, Verifier,
};

use super::Database;
use crate::core_support::verify;
use crate::log::Log;

/// `LISTEN` succeeds there, and nothing arrives.
#[tokio::test]
async fn a_bus_behind_a_pooler_of_transactions_is_not_trusted_and_says_so() {
    let database = Database::new("pooled").await;
    let direct = database.open().await;
    let pooler = PgBouncer::start(&["transaction"]);
    let bus = pooler.open(&database).await.bus().unwrap();
    let error = bus.subscribe().await.err().expect("nothing is delivered");
    let reason = error.source().unwrap().to_string();
    assert!(reason.contains("pool_mode"), "{reason}");

    let (log, _guard) = Log::capture_of("tower_api_key=error");
    let keys = ApiKeys::builder(direct.clone()).deaf().build();
    let store = Pooled { direct, bus };
    let cache = CacheConfig::default().max_bus_silence(Duration::from_secs(3));
    let verifier = Verifier::builder(store).cache(cache).build_verifier();
    let issued = keys.issue(NewKey::named("x").scopes(["orders:read"]));
    let issued = issued.await.unwrap();
    let accepts = async || verify(&verifier, issued.secret().expose()).await.is_ok();
    assert!(accepts().await);
    keys.revoke(issued.key().record.id).await.unwrap();
    // The cache's TTL is a minute.
    let give_up = Instant::now() + Duration::from_secs(30);
    while accepts().await {
        assert!(Instant::now() < give_up, "a revoked key passes");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let log = log.all();
    assert!(log.contains("cannot be reached"), "{log}");
    assert!(log.contains("pool_mode"), "{log}");
}

/// By turns each of its connections gets a server process, so that it looks as if the process were
/// its own.
#[tokio::test]
async fn a_bus_that_looks_sound_is_found_out_by_its_proof() {
    let database = Database::new("by_turns").await;
    let pooler = PgBouncer::start(&["transaction", "server_round_robin=1"]);
    let store = pooler.open(&database).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut connection = PgConnection::connect(&pooler.url).await.unwrap();
        connection.execute("BEGIN").await.unwrap();
        held.push(connection);
    }
    for mut connection in held {
        connection.execute("ROLLBACK").await.unwrap();
    }
    let error = store.bus().unwrap().subscribe().await.err();
    let error = error.expect("nothing is delivered");
    let reason = error.source().unwrap().to_string();
    assert!(reason.contains("pool_mode"), "{reason}");
}

#[tokio::test]
async fn a_bus_behind_a_pooler_of_sessions_works() {
    let database = Database::new("sessions").await;
    let direct = database.open().await;
    let pooler = PgBouncer::start(&["session"]);
    let bus = pooler.open(&database).await.bus().unwrap();
    let mut listener = bus.subscribe().await.unwrap();
    let keys = ApiKeys::builder(direct).deaf().build();
    let issued = keys.issue(NewKey::named("x")).await.unwrap();
    let soon = Instant::now() + Duration::from_secs(30);
    let invalidation = listener.next(soon).await.unwrap().unwrap().to_string();
    assert!(invalidation.starts_with(&issued.key().record.id.to_string()));
    assert_eq!(listener.next(Instant::now()).await.unwrap(), None);
}

/// Reads keys from the server itself, and listens through the pooler. A `PgBouncer` before 1.21
/// does not know the store's prepared statements.
#[derive(Debug)]
struct Pooled {
    direct: PostgresStore,
    bus: Arc<dyn InvalidationBus>,
}

#[async_trait]
impl KeyStore for Pooled {
    async fn find(&self, digest: &KeyDigest) -> Result<Option<StoredKey>, StoreError> {
        self.direct.find(digest).await
    }

    fn bus(&self) -> Option<Arc<dyn InvalidationBus>> {
        Some(Arc::clone(&self.bus))
    }
}

/// A server of one test's own, before the suite's PostgreSQL. It ends with this value.
struct PgBouncer {
    process: Child,
    url: String,
}

impl PgBouncer {
    /// With a `pool_mode` and further settings.
    fn start(settings: &[&str]) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/pgbouncer");
        let mut process = Command::new(script)
            .args(settings)
            .env("DATABASE_URL", super::url())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut url = String::new();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        output.read_line(&mut url).unwrap();
        assert!(url.ends_with('\n'), "the script says what is missing");
        url.pop();
        Self { process, url }
    }

    async fn open(&self, database: &Database) -> PostgresStore {
        let builder = database.builder().statement_timeout(None);
        builder.connect(&self.url).await.unwrap()
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        _ = self.process.wait();
    }
}
