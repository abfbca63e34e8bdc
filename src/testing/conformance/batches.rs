use std::sync::Arc;

use tokio::sync::Barrier;

use super::Store;
use super::inserting::{largest_record, peculiar_record, settles};
use super::sample::{
    abandon, actions, credential, event, events, find, insert, key, record, seconds_from_now,
};
use crate::record::{EventAction, Key, KeyRecord};
use crate::store::{KeyInsertion, StoreError};

fn insertion(record: KeyRecord) -> KeyInsertion {
    KeyInsertion {
        event: event(record.id, EventAction::Imported),
        record,
        credential: credential(),
    }
}

fn insertions(count: usize) -> Vec<KeyInsertion> {
    (0..count).map(|_| insertion(record())).collect()
}

fn key_of(insertion: &KeyInsertion) -> Key {
    Key {
        record: insertion.record.clone(),
        credentials: vec![insertion.credential.clone()],
    }
}

async fn insert_all(store: &Store, batch: &[KeyInsertion]) -> Vec<bool> {
    let written = store.insert_all(batch).await;
    written.expect("KeyRepository contract 6: a batch is written without an error")
}

async fn is_whole(store: &Store, insertion: &KeyInsertion) -> bool {
    let id = insertion.record.id;
    find(store, &insertion.credential.digest).await.is_some()
        && key(store, id).await == Some(key_of(insertion))
        && events(store, id).await == [insertion.event.clone()]
}

async fn is_absent(store: &Store, insertion: &KeyInsertion) -> bool {
    let id = insertion.record.id;
    find(store, &insertion.credential.digest).await.is_none()
        && key(store, id).await.is_none()
        && events(store, id).await.is_empty()
}

pub(super) async fn a_batch_is_written_as_it_is_given(store: Store) {
    assert!(
        insert_all(&store, &[]).await.is_empty(),
        "KeyRepository::insert_all: a batch can be empty"
    );
    // More than goes over at once, whatever a database's limit is.
    let mut batch = insertions(1_500);
    batch.extend([largest_record(), peculiar_record()].map(insertion));
    let mut complete = insertion(record());
    complete.record.expires_at = Some(seconds_from_now(10));
    complete.record.revoked_at = Some(seconds_from_now(20));
    complete.credential.pepper = Some("2026-01".to_owned());
    complete.credential.imported = true;
    complete.credential.expires_at = Some(seconds_from_now(30));
    complete.credential.last_used_at = Some(seconds_from_now(-40));
    complete.event.actor = None;
    batch.push(complete);
    assert!(
        insert_all(&store, &batch).await == vec![true; batch.len()],
        "KeyRepository contract 6: `insert_all` tells of each new key that it was written"
    );
    let (most, last) = batch.split_at(1_490);
    for insertion in most.iter().step_by(149).chain(last) {
        assert!(
            is_whole(&store, insertion).await,
            "KeyRepository contract 6: `insert_all` writes what `insert` does: {insertion:?}"
        );
    }
}

pub(super) async fn duplicates_in_a_batch_leave_no_trace(store: Store) {
    let known = insert(&store, record()).await;
    let [first, last] = [(); 2].map(|()| insertion(record()));
    let mut known_digest = insertion(record());
    known_digest.credential = known.credentials[0].clone();
    let known_id = insertion(KeyRecord {
        id: known.record.id,
        ..record()
    });
    let mut earlier_digest = insertion(record());
    earlier_digest.credential = first.credential.clone();
    let earlier_id = insertion(KeyRecord {
        id: first.record.id,
        ..record()
    });
    // Neither of these two stands in its way: they were passed over.
    let mut freed = insertion(KeyRecord {
        id: known_digest.record.id,
        ..record()
    });
    freed.credential.digest = known_id.credential.digest;
    let batch = [
        first.clone(),
        known_digest.clone(),
        known_id.clone(),
        earlier_digest.clone(),
        earlier_id.clone(),
        freed.clone(),
        last.clone(),
    ];
    for (round, written) in [[true, false, false, false, false, true, true], [false; 7]]
        .into_iter()
        .enumerate()
    {
        assert_eq!(
            insert_all(&store, &batch).await,
            written,
            "KeyRepository contract 6: `insert_all` tells which keys were new, in round {round}"
        );
        for insertion in [&first, &freed, &last] {
            assert!(
                is_whole(&store, insertion).await,
                "KeyRepository contract 6: duplicates do not keep others from being written"
            );
        }
        assert!(
            key(&store, earlier_digest.record.id).await.is_none()
                && find(&store, &earlier_id.credential.digest).await.is_none(),
            "KeyRepository contract 6: a duplicate leaves no trace"
        );
        assert_eq!(
            (
                key(&store, known.record.id).await,
                actions(&store, known.record.id).await
            ),
            (Some(known.clone()), vec![EventAction::Issued]),
            "KeyRepository contract 6: a duplicate changes nothing of the key that is there"
        );
    }
}

pub(super) async fn of_concurrent_batches_each_key_is_written_once(store: Store) {
    const TASKS: usize = 4;
    let shared = insertions(200);
    let barrier = Arc::new(Barrier::new(TASKS));
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            // The same digests under other ids, in another order.
            let mut batch = insertions(shared.len());
            for (own, shared) in batch.iter_mut().zip(&shared) {
                own.credential.digest = shared.credential.digest;
            }
            batch.rotate_left(task * 50);
            let (store, barrier) = (store.clone(), barrier.clone());
            tokio::spawn(async move {
                barrier.wait().await;
                let written = insert_all(&store, &batch).await;
                let written = batch.into_iter().zip(written);
                let written = written.filter_map(|(new, written)| written.then_some(new));
                written.collect::<Vec<_>>()
            })
        })
        .collect();
    let mut written = 0;
    for task in tasks {
        for insertion in task
            .await
            .expect("KeyRepository::insert_all: it does not panic")
        {
            written += 1;
            assert!(
                is_whole(&store, &insertion).await,
                "KeyRepository contract 6: what is told to be written is there"
            );
        }
    }
    assert_eq!(
        written,
        shared.len(),
        "KeyRepository contract 3: of concurrent batches with one digest one writes it"
    );
}

pub(super) async fn an_abandoned_batch_can_be_given_again(store: Store) {
    for polls in (0..14).map(|power| 1 << power) {
        let batch = insertions(20);
        abandon(store.insert_all(&batch), polls).await;
        settles(async || {
            for insertion in &batch {
                if !is_whole(&store, insertion).await && !is_absent(&store, insertion).await {
                    return false;
                }
            }
            true
        })
        .await;
        let again: Result<Vec<bool>, StoreError> = store.insert_all(&batch).await;
        again.expect("KeyRepository contract 6: an abandoned batch can be given again");
        for insertion in &batch {
            assert!(
                is_whole(&store, insertion).await,
                "KeyRepository contract 6: given again, an abandoned batch is whole"
            );
        }
    }
}
