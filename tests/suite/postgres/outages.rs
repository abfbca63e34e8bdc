//! Connections that break, and servers that go away or silent.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sqlx::PgPool;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tower_api_key::{KeyRepository, KeyStore, PostgresStore, StoreErrorKind};

use super::{Database, update, url, with_parameter};
use crate::support::insert;

#[tokio::test]
async fn after_a_connection_was_ended_the_next_call_works() {
    let database = Database::new("ended").await;
    let own_name = with_parameter("application_name=ended");
    let store = database.builder().connect(&own_name).await.unwrap();
    let pool = database.pool().await;
    let key = insert(&store).await;
    let digest = key.credentials[0].digest;
    for _ in 0..5 {
        end_connections(&pool).await;
        assert!(store.find(&digest).await.unwrap().is_some());
    }
    end_connections(&pool).await;
    assert!(store.apply(&update(&key)).await.unwrap());
    end_connections(&pool).await;
    let events = store.events(key.record.id, None, 9).await.unwrap();
    assert_eq!(events.events.len(), 2);
}

async fn end_connections(pool: &PgPool) {
    let query = "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity
                 WHERE application_name = 'ended'";
    let ended: i64 = sqlx::query_scalar(query).fetch_one(pool).await.unwrap();
    assert!(ended > 0);
}

#[tokio::test]
async fn a_server_that_is_gone_is_an_outage_until_it_is_back() {
    let database = Database::new("gone").await;
    let network = Network::new().await;
    let store = through(&database, &network).await;
    let key = insert(&store).await;
    network.set(State::Gone);
    for _ in 0..3 {
        is_outage(&store, &key).await;
    }
    network.set(State::Up);
    assert!(
        store
            .find(&key.credentials[0].digest)
            .await
            .unwrap()
            .is_some()
    );
}

/// Callers have deadlines. What they have given up must not keep the connections: the network may
/// be back long before TCP notices that it was away.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_silence_lookups_work_at_once() {
    let database = Database::new("silent").await;
    let network = Network::new().await;
    let store = through(&database, &network).await;
    let digest = insert(&store).await.credentials[0].digest;

    // As many lookups as there are connections, each with its statement under way.
    let pool = database.pool().await;
    let mut lock = pool.begin().await.unwrap();
    let statement = "LOCK silent.keys IN ACCESS EXCLUSIVE MODE";
    sqlx::query(statement).execute(&mut *lock).await.unwrap();
    let mut lookups = JoinSet::new();
    for _ in 0..10 {
        let store = store.clone();
        lookups.spawn(async move { store.find(&digest).await.is_ok() });
    }
    let waiting = "SELECT count(*) FROM pg_locks
                   WHERE relation = 'silent.keys'::regclass AND NOT granted";
    let mut under_way: i64 = 0;
    while under_way < 10 {
        let query = sqlx::query_scalar(waiting);
        under_way = query.fetch_one(&mut *lock).await.unwrap();
    }
    network.set(State::Silent);
    lookups.shutdown().await;
    lock.rollback().await.unwrap();

    network.set(State::Up);
    let found = timeout(Duration::from_secs(10), async {
        while store.find(&digest).await.is_err() {}
    });
    found.await.expect("no lookup waits for what was given up");
}

async fn is_outage(store: &PostgresStore, key: &tower_api_key::Key) {
    let kind = |error: tower_api_key::StoreError| error.kind();
    let unavailable = StoreErrorKind::Unavailable;
    let found = store.find(&key.credentials[0].digest).await.map_err(kind);
    assert_eq!(found, Err(unavailable));
    let latest = store.find_latest(&key.credentials[0].digest).await;
    assert_eq!(latest.map_err(kind), Err(unavailable));
    assert_eq!(
        store.apply(&update(key)).await.map_err(kind),
        Err(unavailable)
    );
}

async fn through(database: &Database, network: &Network) -> PostgresStore {
    let builder = database
        .builder()
        .acquire_timeout(Duration::from_millis(300));
    builder
        .connect(&network.way_to(database.url()))
        .await
        .unwrap()
}

/// A way to the server that can be cut.
pub(super) struct Network {
    port: u16,
    state: watch::Sender<State>,
    connections: Arc<AtomicUsize>,
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum State {
    /// Connections are ended as soon as they are made.
    Gone,
    /// What is sent arrives nowhere.
    Silent,
    Up,
}

impl Network {
    pub(super) async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = watch::Sender::new(State::Up);
        let watching = state.subscribe();
        let connections = Arc::<AtomicUsize>::default();
        let made = Arc::clone(&connections);
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                made.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(carry(client, watching.clone()));
            }
        });
        Self {
            port,
            state,
            connections,
        }
    }

    /// How many were made on this way so far.
    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    pub(super) fn set(&self, state: State) {
        self.state.send_replace(state);
    }

    /// The URL of a database of the server, by this way.
    pub(super) fn way_to(&self, url: &str) -> String {
        let (scheme, rest) = url.split_once("://").unwrap();
        let (authority, path) = rest.split_once('/').unwrap();
        let user = authority.rsplit_once('@').map_or("", |(user, _)| user);
        format!("{scheme}://{user}@127.0.0.1:{}/{path}", self.port)
    }
}

async fn carry(mut client: TcpStream, mut state: watch::Receiver<State>) {
    let options: sqlx::postgres::PgConnectOptions = url().parse().unwrap();
    let address = (options.get_host(), options.get_port());
    let mut server = TcpStream::connect(address).await.unwrap();
    if *state.borrow_and_update() == State::Up {
        tokio::select! {
            _ = copy_bidirectional(&mut client, &mut server) => return,
            _ = state.wait_for(|state| *state != State::Up) => {}
        }
    }
    // A connection that was cut off by a silence is never heard of again.
    if *state.borrow() == State::Silent {
        std::future::pending::<()>().await;
    }
}
