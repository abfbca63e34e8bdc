//! Changes of several instances at once.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::Barrier;
use tower_api_key::{Key, KeyDigest, KeyRepository, PostgresStore, UsageDelta};

use super::{Database, update};
use crate::support::insert;

#[tokio::test(flavor = "multi_thread")]
async fn of_changes_by_several_instances_one_is_applied() {
    let database = Database::new("changed at once").await;
    let mut instances = Vec::new();
    for _ in 0..4 {
        instances.push(database.open().await);
    }
    let mut key = insert(&instances[0]).await;
    for round in 0..20 {
        let barrier = Arc::new(Barrier::new(8));
        let tasks: Vec<_> = (0..8)
            .map(|task| {
                let (store, barrier) = (instances[task % 4].clone(), barrier.clone());
                let mut change = update(&key);
                change.record.name = format!("task {task}");
                change.end_credentials_at = Some(Timestamp::UNIX_EPOCH);
                let mut added = key.credentials[0].clone();
                added.digest = KeyDigest::sha256(&format!("{round} {task}"));
                change.add_credential = Some(added);
                tokio::spawn(async move {
                    barrier.wait().await;
                    store.apply(&change).await.unwrap().then_some(change)
                })
            })
            .collect();
        let mut applied = Vec::new();
        for task in tasks {
            applied.extend(task.await.unwrap());
        }
        assert_eq!(applied.len(), 1, "in round {round}");
        let winner = applied.remove(0);
        key = instances[0].get(key.record.id).await.unwrap().unwrap();
        assert_eq!(key.record, winner.record);
        assert_eq!(key.credentials.len(), round + 2);
        assert_eq!(
            key.credentials.last().map(|added| added.digest),
            winner.add_credential.map(|added| added.digest)
        );
    }
    let events = instances[0].events(key.record.id, 100).await.unwrap();
    assert_eq!(events.len(), 21);
}

/// Each batch has the same keys and credentials, in another order; rotations lock the credentials
/// of a key too.
#[tokio::test(flavor = "multi_thread")]
async fn batches_of_several_instances_wait_for_each_other_and_add_up() {
    const BATCHES: u64 = 10;
    let database = Database::new("used at once").await;
    let instances = [database.open().await, database.open().await];
    let mut keys = Vec::new();
    for _ in 0..40 {
        let key = insert(&instances[0]).await;
        keys.push(rotated(&instances[0], &key, 1).await);
    }
    let flushes = instances.iter().enumerate().map(|(instance, store)| {
        let (store, keys) = (store.clone(), keys.clone());
        tokio::spawn(async move {
            for batch in 0..BATCHES {
                let mut deltas: Vec<_> = keys.iter().flat_map(|key| used(key, batch)).collect();
                // Some order, another one for each batch.
                let seed = [instance.to_be_bytes()[7], batch.to_be_bytes()[7]];
                deltas.sort_by_cached_key(|delta| {
                    let text =
                        format!("{seed:?} {:?} {:?}", delta.key, delta.credential.as_bytes());
                    *KeyDigest::sha256(&text).as_bytes()
                });
                store.record_usage(&deltas).await.unwrap();
            }
        })
    });
    let mut tasks: Vec<_> = flushes.collect();
    let (store, rotating) = (instances[0].clone(), keys.clone());
    tasks.push(tokio::spawn(async move {
        for key in &rotating {
            rotated(&store, key, 2).await;
        }
    }));
    for task in tasks {
        task.await.unwrap();
    }
    for key in keys {
        let id = key.record.id;
        let usage = instances[1]
            .usage(id, Timestamp::MIN, Timestamp::MAX)
            .await
            .unwrap();
        // Two credentials, two instances.
        assert_eq!(usage.len(), 1);
        assert_eq!(
            (usage[0].allowed, usage[0].denied),
            (4 * BATCHES, 8 * BATCHES)
        );
        let stored = instances[1].get(id).await.unwrap().unwrap();
        let last = Timestamp::UNIX_EPOCH + SignedDuration::from_secs(9);
        let last_used = stored
            .credentials
            .iter()
            .map(|credential| credential.last_used_at);
        assert_eq!(
            last_used.collect::<Vec<_>>(),
            [Some(last), Some(last), None]
        );
    }
}

/// `key` with one more credential, and an end of all the others.
async fn rotated(store: &PostgresStore, key: &Key, number: i64) -> Key {
    let mut change = update(key);
    // Each time an earlier end, so that every credential is written.
    change.end_credentials_at = Some(Timestamp::MAX - SignedDuration::from_hours(number));
    let mut added = key.credentials[0].clone();
    added.digest = KeyDigest::sha256(&format!("{number} {}", key.record.id));
    change.add_credential = Some(added);
    assert!(store.apply(&change).await.unwrap());
    store.get(key.record.id).await.unwrap().unwrap()
}

fn used(key: &Key, batch: u64) -> Vec<UsageDelta> {
    let at = Timestamp::UNIX_EPOCH + SignedDuration::from_secs(batch.try_into().unwrap());
    let deltas = key.credentials.iter().map(|credential| UsageDelta {
        key: key.record.id,
        credential: credential.digest,
        hour: Timestamp::UNIX_EPOCH,
        allowed: 1,
        denied: 2,
        last_used_at: Some(at),
    });
    deltas.collect()
}
