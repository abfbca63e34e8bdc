use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::Barrier;

use super::Store;
use super::sample::{
    NOW, abandon, apply, change, credential, events, find, insert, key, record, seconds_from_now,
};
use crate::record::{Credential, EventAction, Key, KeyId, UsageBatch, UsageBucket, UsageDelta};
use crate::store::EventPage;

const ANSWERS: &str = "KeyRepository::usage: a lookup has an answer";

pub(super) async fn counts_add_up(store: Store) {
    const CONTRACT: &str = "KeyRepository::record_usage: counts add up, over all credentials";
    let key = insert_rotated(&store).await;
    let [first, second] = &key.credentials[..] else {
        panic!("{CONTRACT}: a rotated key has two credentials, not {key:?}");
    };
    let id = key.record.id;
    record_usage(&store, &[]).await;
    assert_eq!(usage(&store, id).await, [], "{CONTRACT}");

    record_usage(
        &store,
        &[
            used(id, first, 0, 3, 1),
            used(id, second, 0, 2, 0),
            used(id, first, 1, 0, 7),
        ],
    )
    .await;
    record_usage(
        &store,
        &[used(id, second, 0, 10, 20), used(id, first, 0, 100, 200)],
    )
    .await;
    assert_eq!(
        usage(&store, id).await,
        [bucket(0, 115, 221), bucket(1, 0, 7)],
        "{CONTRACT}"
    );

    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let (store, delta) = (store.clone(), used(id, first, 2, 1, 2));
            tokio::spawn(async move { record_usage(&store, &[delta, delta]).await })
        })
        .collect();
    for task in tasks {
        task.await
            .expect("KeyRepository::record_usage: it does not panic");
    }
    assert_eq!(
        usage(&store, id).await,
        [bucket(0, 115, 221), bucket(1, 0, 7), bucket(2, 16, 32)],
        "{CONTRACT}, also of concurrent calls"
    );

    // More than any use, but no reason to fail or to lose the rest of the batch.
    record_usage(
        &store,
        &[
            used(id, first, 3, u64::MAX, 1),
            used(id, first, 3, u64::MAX, 1),
        ],
    )
    .await;
    let most = usage(&store, id).await.pop().expect(CONTRACT);
    assert!(
        most.allowed >= 1 << 62 && most.denied == 2,
        "{CONTRACT}, up to the largest number"
    );
}

pub(super) async fn a_batch_that_is_given_again_counts_once(store: Store) {
    const CONTRACT: &str = "KeyRepository contract 9: a batch of use counts once";
    const TASKS: usize = 8;
    let key = insert(&store, record()).await;
    let (id, credential) = (key.record.id, &key.credentials[0]);
    let delta = UsageDelta {
        last_used_at: Some(NOW),
        ..used(id, credential, 0, 3, 1)
    };
    let give = async |batch: &UsageBatch| store.record_usage(batch).await.expect(CONTRACT);
    let batch = UsageBatch::new(vec![delta, used(id, credential, 1, 0, 2)]);
    for _ in 0..3 {
        give(&batch).await;
        let counted = [bucket(0, 3, 1), bucket(1, 0, 2)];
        assert_eq!(usage(&store, id).await, counted, "{CONTRACT}");
    }
    // The same counts are another batch's as well.
    let other = UsageBatch::new(vec![delta]);
    give(&other).await;
    give(&batch).await;
    give(&other).await;
    let counted = [bucket(0, 6, 2), bucket(1, 0, 2)];
    assert_eq!(
        usage(&store, id).await,
        counted,
        "{CONTRACT}, and by its id, not by what is in it"
    );

    // A caller that has given up asks again while the first call is still at work.
    let at_once = UsageBatch::new(vec![used(id, credential, 2, 1, 1)]);
    let barrier = Arc::new(Barrier::new(TASKS));
    let tasks: Vec<_> = (0..TASKS)
        .map(|_| {
            let (store, batch, barrier) = (store.clone(), at_once.clone(), barrier.clone());
            tokio::spawn(async move {
                barrier.wait().await;
                store.record_usage(&batch).await.expect(CONTRACT);
            })
        })
        .collect();
    for task in tasks {
        task.await
            .expect("KeyRepository::record_usage: it does not panic");
    }
    assert_eq!(
        usage(&store, id).await.pop(),
        Some(bucket(2, 1, 1)),
        "{CONTRACT}, also of concurrent calls"
    );

    // Abandoned at any point, and given again.
    for polls in (0..12).map(|power| 1 << power) {
        let before = usage(&store, id).await.pop().expect(CONTRACT);
        let batch = UsageBatch::new(vec![used(id, credential, 2, 1, 0)]);
        abandon(store.record_usage(&batch), polls).await;
        give(&batch).await;
        let after = usage(&store, id).await.pop();
        assert_eq!(
            after,
            Some(bucket(2, before.allowed + 1, 1)),
            "{CONTRACT}, also after a call that was dropped"
        );
    }
}

pub(super) async fn last_use_never_moves_back(store: Store) {
    const CONTRACT: &str = "KeyRepository::record_usage: `last_used_at` moves forwards, never back";
    let key = insert_rotated(&store).await;
    let id = key.record.id;
    let (first, second) = (&key.credentials[0], &key.credentials[1]);
    let at = |credential: &Credential, second: Option<i64>| UsageDelta {
        last_used_at: second.map(seconds_from_now),
        ..used(id, credential, 0, 1, 0)
    };
    let steps = [
        (vec![at(first, None)], [None, None]),
        (vec![at(first, Some(-5))], [Some(-5), None]),
        (
            vec![at(first, Some(-9)), at(second, Some(3))],
            [Some(-5), Some(3)],
        ),
        (
            vec![at(second, Some(2)), at(first, None)],
            [Some(-5), Some(3)],
        ),
        (
            vec![at(first, Some(8)), at(first, Some(9)), at(first, Some(7))],
            [Some(9), Some(3)],
        ),
    ];
    for (batch, expected) in steps {
        record_usage(&store, &batch).await;
        let expected = expected.map(|second| second.map(seconds_from_now));
        let stored = super::sample::key(&store, id).await.expect(CONTRACT);
        let last_used: Vec<_> = stored
            .credentials
            .iter()
            .map(|credential| credential.last_used_at)
            .collect();
        assert_eq!(last_used, expected, "{CONTRACT}");
        let found = find(&store, &second.digest).await.expect(CONTRACT);
        assert_eq!(found.credential.last_used_at, expected[1], "{CONTRACT}");
        assert_eq!(
            stored.record, key.record,
            "KeyRepository::record_usage: use changes nothing else, the version neither"
        );
    }
}

pub(super) async fn what_does_not_exist_is_passed_over(store: Store) {
    const CONTRACT: &str = "KeyRepository::record_usage: what belongs to a key or credential that does not exist is \
         passed over";
    let key = insert(&store, record()).await;
    let other = insert(&store, record()).await;
    let (id, known) = (key.record.id, &key.credentials[0]);
    let unknown = KeyId::generate(NOW);
    let at = |delta| UsageDelta {
        last_used_at: Some(NOW),
        ..delta
    };
    let batch = [
        at(used(unknown, &credential(), 0, 1, 1)),
        at(used(unknown, known, 0, 1, 1)),
        at(used(other.record.id, known, 0, 0, 0)),
        at(used(other.record.id, &credential(), 0, 0, 0)),
        used(id, known, 1, 5, 6),
    ];
    let recorded = store.record_usage(&UsageBatch::new(batch.to_vec())).await;
    assert!(recorded.is_ok(), "{CONTRACT}: {recorded:?}");
    assert_eq!(
        usage(&store, id).await,
        [bucket(1, 5, 6)],
        "{CONTRACT}; the rest is written"
    );
    assert_eq!(usage(&store, unknown).await, [], "{CONTRACT}");
    for unused in [key, other] {
        let stored = super::sample::key(&store, unused.record.id).await;
        assert_eq!(stored, Some(unused), "{CONTRACT}");
    }
}

pub(super) async fn a_range_is_half_open(store: Store) {
    let key = insert(&store, record()).await;
    let (id, credential) = (key.record.id, &key.credentials[0]);
    let batch: Vec<_> = [3, 1, 2, 0]
        .map(|hour| used(id, credential, hour, 1, 0))
        .to_vec();
    record_usage(&store, &batch).await;
    let ranges = [
        (hour(0), hour(4), 0..4),
        (hour(1), hour(3), 1..3),
        (hour(1), hour(1), 0..0),
        (hour(3), hour(1), 0..0),
        (hour(1) + SignedDuration::from_micros(1), hour(3), 2..3),
        (hour(1), hour(3) + SignedDuration::from_micros(1), 1..4),
        (hour(-9), hour(0), 0..0),
        (Timestamp::MIN, Timestamp::MAX, 0..4),
        (Timestamp::MAX, Timestamp::MIN, 0..0),
    ];
    for (from, to, expected) in ranges {
        let expected: Vec<_> = expected.map(|hour| bucket(hour, 1, 0)).collect();
        assert_eq!(
            store.usage(id, from, to).await.expect(ANSWERS),
            expected,
            "KeyRepository::usage: the hours from {from} up to, but without, {to}, oldest first"
        );
    }
}

pub(super) async fn events_come_by_pages_newest_first(store: Store) {
    let mut record = insert(&store, record()).await.record;
    // One time for several events: only the order of writing tells them apart.
    for action in [
        EventAction::Updated,
        EventAction::Disabled,
        EventAction::Enabled,
        EventAction::Rotated,
        EventAction::Revoked,
    ] {
        let mut change = change(&record);
        change.event.action = action;
        change.event.at = seconds_from_now(-i64::from(action == EventAction::Enabled));
        assert!(
            apply(&store, &change).await,
            "KeyRepository::apply: it fits the version"
        );
        record = change.record;
    }
    insert(&store, super::sample::record()).await;
    let all = events(&store, record.id).await;
    let actions: Vec<_> = all.iter().map(|event| event.action.as_str()).collect();
    assert_eq!(
        actions,
        [
            "issued", "updated", "disabled", "enabled", "rotated", "revoked"
        ],
        "KeyRepository::events: a key's own events, in the order in which they were written"
    );
    let newest_first: Vec<_> = all.into_iter().rev().collect();
    for limit in 1..=newest_first.len() + 1 {
        let mut before = None;
        for expected in newest_first.chunks(limit) {
            let page = store.events(record.id, before, limit).await;
            let page = page.expect("KeyRepository::events: a lookup has an answer");
            assert_eq!(
                page.events, expected,
                "KeyRepository::events: {limit} on a page, newest first, before {before:?}"
            );
            let is_last = expected.last() == newest_first.last();
            assert_eq!(
                page.next.is_none(),
                is_last,
                "EventPage::next: it leads to older events, and there are none after {expected:?}"
            );
            before = page.next;
        }
    }
    let none = store.events(record.id, None, 0).await;
    assert_eq!(
        none.expect("KeyRepository::events: a lookup has an answer"),
        EventPage::default(),
        "KeyRepository::events: at most `limit` events"
    );

    // Writing goes on while somebody turns the pages.
    let first = store.events(record.id, None, 2).await;
    let first = first.expect("KeyRepository::events: a lookup has an answer");
    assert!(
        apply(&store, &change(&record)).await,
        "KeyRepository::apply: it fits the version"
    );
    let second = store.events(record.id, first.next, 2).await;
    assert_eq!(
        second.map(|page| page.events).ok(),
        Some(newest_first[2..4].to_vec()),
        "KeyRepository::events: a page follows the one before it, whatever is written between"
    );
}

pub(super) async fn an_unknown_key_has_nothing(store: Store) {
    let unknown = record();
    assert_eq!(
        key(&store, unknown.id).await,
        None,
        "KeyRepository::get: an unknown key is None"
    );
    assert!(
        !apply(&store, &change(&unknown)).await,
        "KeyRepository::apply: a change of an unknown key is not applied"
    );
    assert_eq!(
        key(&store, unknown.id).await,
        None,
        "KeyRepository::apply: a change of an unknown key makes none"
    );
    assert_eq!(
        events(&store, unknown.id).await,
        [],
        "KeyRepository::events: none of an unknown key"
    );
    assert_eq!(
        usage(&store, unknown.id).await,
        [],
        "KeyRepository::usage: none of an unknown key"
    );
}

/// A key with two credentials.
async fn insert_rotated(store: &Store) -> Key {
    let key = insert(store, record()).await;
    let mut rotation = change(&key.record);
    rotation.add_credential = Some(credential());
    assert!(
        apply(store, &rotation).await,
        "KeyRepository::apply: it fits the version"
    );
    let rotated = super::sample::key(store, key.record.id).await;
    rotated.expect("KeyRepository::get: a changed key exists")
}

async fn record_usage(store: &Store, batch: &[UsageDelta]) {
    let recorded = store.record_usage(&UsageBatch::new(batch.to_vec())).await;
    recorded.expect("KeyRepository::record_usage: use is recorded");
}

async fn usage(store: &Store, id: KeyId) -> Vec<UsageBucket> {
    store
        .usage(id, Timestamp::MIN, Timestamp::MAX)
        .await
        .expect(ANSWERS)
}

fn used(id: KeyId, credential: &Credential, at: i64, allowed: u64, denied: u64) -> UsageDelta {
    UsageDelta {
        key: id,
        credential: credential.digest,
        hour: hour(at),
        allowed,
        denied,
        last_used_at: None,
    }
}

fn bucket(at: i64, allowed: u64, denied: u64) -> UsageBucket {
    UsageBucket {
        start: hour(at),
        allowed,
        denied,
    }
}

fn hour(hour: i64) -> Timestamp {
    seconds_from_now(hour * 3_600)
}
