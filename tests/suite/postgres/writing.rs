//! Changes of several instances at once.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::Barrier;
use tower_api_key::{Key, KeyDigest, KeyRepository, UsageBatch, UsageDelta};

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
    let events = instances[0].events(key.record.id, None, 100).await;
    let events = events.unwrap().events;
    assert_eq!(events.len(), 21);
}

/// Each batch has the same keys, in another order.
#[tokio::test(flavor = "multi_thread")]
async fn batches_of_several_instances_wait_for_each_other_and_add_up() {
    const TASKS: u64 = 6;
    const BATCHES: u64 = 15;
    let database = Database::new("used at once").await;
    let instances = [database.open().await, database.open().await];
    let mut keys = Vec::new();
    for _ in 0..150 {
        keys.push(insert(&instances[0]).await);
    }
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let (store, keys) = (instances[usize::from(task % 2 == 0)].clone(), keys.clone());
            tokio::spawn(async move {
                for batch in 0..BATCHES {
                    let mut deltas: Vec<_> = keys.iter().flat_map(|key| used(key, batch)).collect();
                    deltas.sort_by_cached_key(|delta| {
                        let text = format!("{task} {batch} {:?}", delta.key);
                        *KeyDigest::sha256(&text).as_bytes()
                    });
                    store.record_usage(&UsageBatch::new(deltas)).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let last = Timestamp::UNIX_EPOCH + SignedDuration::from_secs(14);
    for key in keys {
        let id = key.record.id;
        let usage = instances[1]
            .usage(id, Timestamp::MIN, Timestamp::MAX)
            .await
            .unwrap();
        assert_eq!(usage.len(), 1);
        assert_eq!(usage[0].allowed, TASKS * BATCHES);
        assert_eq!(usage[0].denied, 2 * TASKS * BATCHES);
        let stored = instances[1].get(id).await.unwrap().unwrap();
        assert_eq!(stored.credentials[0].last_used_at, Some(last));
    }
}

/// Both write all the credentials of one key.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_and_a_rotation_wait_for_each_other() {
    const ROUNDS: u32 = 60;
    let database = Database::new("used while rotated").await;
    let store = database.open().await;
    let id = insert(&store).await.record.id;
    let add = "INSERT INTO {schema}.credentials
               SELECT sha256(n::text::bytea), 1, n, NULL, 's', false, now(), NULL, NULL
               FROM generate_series(2, 300) AS n";
    database.execute(add).await.unwrap();
    let key = store.get(id).await.unwrap().unwrap();

    let (flushing, rotated) = (store.clone(), key.clone());
    let flushes = tokio::spawn(async move {
        for batch in 0..ROUNDS {
            let deltas = used(&key, batch.into());
            flushing
                .record_usage(&UsageBatch::new(deltas))
                .await
                .unwrap();
        }
    });
    let mut change = update(&rotated);
    for round in 1..=ROUNDS {
        // Each time an earlier end, so that every credential is written.
        let hours = SignedDuration::from_hours(round.into());
        change.end_credentials_at = Some(Timestamp::MAX - hours);
        assert!(store.apply(&change).await.unwrap());
        change.record.version += 1;
    }
    flushes.await.unwrap();
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
