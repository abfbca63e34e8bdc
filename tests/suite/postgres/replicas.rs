//! Which server is asked for what. The replica is another database here, with other contents.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tower_api_key::{Key, KeyDigest, KeyFilter, KeyRepository, KeyStore, PostgresStore, StoredKey};

use super::outages::{Network, State};
use super::{Database, update};
use crate::support::{event, insert};

/// The time that anything may take before a test gives up.
const A_WHILE: Duration = Duration::from_mins(1);

#[tokio::test]
async fn lookups_ask_the_replica_and_everything_else_the_primary() {
    let primary = Database::new("routed").await;
    let replica = Database::separate("tower_api_key_routed", "routed").await;
    let (on_primary, on_replica) = (primary.open().await, replica.open().await);
    let builder = primary.builder().replica(replica.url());
    let store = builder.connect(primary.url()).await.unwrap();
    let key = insert(&store).await;
    let (id, digest) = (key.record.id, key.credentials[0].digest);

    until_found(&store, &digest, None).await;
    assert_eq!(name(store.find_latest(&digest).await.unwrap()), "billing");
    copy(&key, &on_replica).await;
    let mut change = update(&key);
    change.record.name = "changed".into();
    assert!(store.apply(&change).await.unwrap());
    until_found(&store, &digest, Some("billing")).await;
    assert_eq!(name(store.find_latest(&digest).await.unwrap()), "changed");
    let pointer: Arc<dyn KeyRepository> = Arc::new(store.clone());
    assert_eq!(name(pointer.find_latest(&digest).await.unwrap()), "changed");

    assert_eq!(
        store.get(id).await.unwrap(),
        on_primary.get(id).await.unwrap()
    );
    let all = KeyFilter::default();
    assert_eq!(
        store.list(&all).await.unwrap(),
        on_primary.list(&all).await.unwrap()
    );
    assert_eq!(store.events(id, None, 9).await.unwrap().events.len(), 2);
}

#[tokio::test]
async fn when_the_replica_is_silent_the_primary_is_asked() {
    let primary = Database::new("replaced").await;
    let replica = Database::separate("tower_api_key_replaced", "replaced").await;
    let network = Network::new().await;
    replica.open().await.close().await;
    let builder = primary.builder().replica(network.way_to(replica.url()));
    let store = builder.connect(primary.url()).await.unwrap();
    let digest = insert(&store).await.credentials[0].digest;
    until_found(&store, &digest, None).await;

    network.set(State::Silent);
    assert_eq!(name(store.find(&digest).await.unwrap()), "billing");
    // It rests: not every lookup tries it again.
    let tried = network.connections();
    for _ in 0..5 {
        assert_eq!(name(store.find(&digest).await.unwrap()), "billing");
    }
    assert_eq!(network.connections(), tried);
}

#[tokio::test]
async fn a_replica_need_not_be_there_yet() {
    let primary = Database::new("without replica").await;
    let store = primary
        .builder()
        .replica("postgres://127.0.0.1:1/keys")
        .connect(primary.url())
        .await
        .unwrap();
    let digest = insert(&store).await.credentials[0].digest;
    assert_eq!(name(store.find(&digest).await.unwrap()), "billing");
    assert_eq!(store.find(&KeyDigest::sha256("")).await.unwrap(), None);
    store.close().await;
    assert!(store.find(&digest).await.is_err());
}

/// Waits until a lookup is answered with a key of this name, or with none. A replica is asked once
/// it has been found to be a replica.
async fn until_found(store: &PostgresStore, digest: &KeyDigest, expected: Option<&str>) {
    let answered = timeout(A_WHILE, async {
        loop {
            let found = store.find(digest).await.unwrap();
            if found.as_ref().map(|found| found.record.name.as_str()) == expected {
                return;
            }
            tokio::task::yield_now().await;
        }
    });
    answered.await.expect("the right server is asked");
}

/// Replication, of one key.
async fn copy(key: &Key, replica: &PostgresStore) {
    let event = event(key.record.id);
    replica
        .insert(&key.record, &key.credentials[0], &event)
        .await
        .unwrap();
}

fn name(found: Option<StoredKey>) -> String {
    found.expect("the primary has it").record.name
}
