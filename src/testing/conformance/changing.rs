use std::sync::Arc;

use tokio::sync::Barrier;

use super::Store;
use super::inserting::{is_duplicate, settles};
use super::sample::{
    NOW, abandon, actions, apply, change, credential, event, find, insert, insert_with, key,
    record, seconds_from_now,
};
use crate::limit::{RateLimit, RateLimits};
use crate::record::{EventAction, Key};
use crate::scope::ScopeSet;
use crate::store::KeyChange;

pub(super) async fn a_change_is_applied_with_its_event(store: Store) {
    let mut key = insert(&store, record()).await;
    let mut all = change(&key.record);
    let record = &mut all.record;
    record.name = "renamed".into();
    record.owner = Some("acme".to_owned());
    record.scopes = ScopeSet::new(["orders:*"]).expect("a scope");
    record.limits = RateLimits::new([RateLimit::per_minute(5)]).expect("a limit");
    record.metadata.insert("plan".to_owned(), "pro".to_owned());
    record.allowed_addresses = vec!["10.0.0.0/8".parse().expect("a network")];
    record.enabled = false;
    record.expires_at = Some(seconds_from_now(60));
    record.revoked_at = Some(seconds_from_now(30));
    let mut none = change(record);
    none.record = key.record.clone();
    none.record.version = 3;
    none.event.action = EventAction::Enabled;

    let mut expected = vec![EventAction::Issued];
    for change in [all, none] {
        assert!(
            apply(&store, &change).await,
            "KeyRepository contract 4: a change of the stored version is applied"
        );
        expected.push(change.event.action);
        key.record = change.record;
        is_stored(
            &store,
            &key,
            "KeyRepository contract 1: the next call sees the whole change",
        )
        .await;
        assert_eq!(
            actions(&store, key.record.id).await,
            expected,
            "KeyRepository contract 2: `apply` writes its event"
        );
    }
}

/// `key` is what the store has, for both ways of asking.
async fn is_stored(store: &Store, key: &Key, contract: &str) {
    let stored = super::sample::key(store, key.record.id).await;
    assert_eq!(stored.as_ref(), Some(key), "{contract}");
    for credential in &key.credentials {
        let found = find(store, &credential.digest).await;
        let found = found.map(|found| (found.record, found.credential));
        assert_eq!(
            found,
            Some((key.record.clone(), credential.clone())),
            "{contract}"
        );
    }
}

pub(super) async fn a_stale_change_is_not_applied(store: Store) {
    let mut stored = record();
    stored.version = 5;
    let key = insert(&store, stored).await;
    for version in [0, 1, 5, 7, u64::from(u32::MAX)] {
        let mut stale = change(&key.record);
        stale.record.version = version;
        stale.record.name = "stale".into();
        stale.end_credentials_at = Some(NOW);
        stale.add_credential = Some(credential());
        let contract = format!(
            "KeyRepository contract 4: version {version} is not applied over {}",
            key.record.version
        );
        assert!(!apply(&store, &stale).await, "{contract}");
        is_stored(&store, &key, &contract).await;
        let added = stale.add_credential.expect("it was set above").digest;
        assert_eq!(find(&store, &added).await, None, "{contract}");
        assert_eq!(
            actions(&store, key.record.id).await,
            [EventAction::Issued],
            "KeyRepository contract 2: a change that is not applied writes no event"
        );
    }
}

pub(super) async fn of_concurrent_changes_one_is_applied(store: Store) {
    const TASKS: usize = 16;
    let key = insert(&store, record()).await;
    let barrier = Arc::new(Barrier::new(TASKS));
    let tasks: Vec<_> = (0..TASKS)
        .map(|number| {
            let mut change = change(&key.record);
            change.record.name = format!("task {number}");
            change.add_credential = Some(credential());
            let (store, barrier) = (store.clone(), barrier.clone());
            tokio::spawn(async move {
                barrier.wait().await;
                (apply(&store, &change).await, change)
            })
        })
        .collect();
    let mut applied = Vec::new();
    for task in tasks {
        let (was_applied, change) = task.await.expect("KeyRepository::apply: it does not panic");
        applied.extend(was_applied.then_some(change));
    }
    assert_eq!(
        applied.len(),
        1,
        "KeyRepository contract 4: of concurrent changes of one version exactly one is applied"
    );
    let winner = applied.remove(0);
    let credentials = key.credentials.into_iter().chain(winner.add_credential);
    let expected = Key {
        record: winner.record,
        credentials: credentials.collect(),
    };
    is_stored(
        &store,
        &expected,
        "KeyRepository contract 4: the applied change is the stored one",
    )
    .await;
    assert_eq!(
        actions(&store, expected.record.id).await,
        [EventAction::Issued, EventAction::Updated],
        "KeyRepository contract 2: only the applied change writes its event"
    );
}

pub(super) async fn an_end_is_set_and_never_moved_back(store: Store) {
    const CONTRACT: &str = "KeyChange::end_credentials_at: what has no end, or a later one, ends \
                            then; an earlier end stays, and so does the added credential's";
    let mut first = credential();
    first.expires_at = Some(seconds_from_now(1_000));
    let mut key = insert_with(&store, record(), first).await;
    let ends = [
        (None, vec![Some(1_000), None]),
        (Some(2_000), vec![Some(1_000), Some(2_000), None]),
        (
            Some(2_000),
            vec![Some(1_000), Some(2_000), Some(2_000), None],
        ),
        (
            Some(500),
            vec![Some(500), Some(500), Some(500), Some(500), None],
        ),
        (
            Some(-500),
            vec![
                Some(-500),
                Some(-500),
                Some(-500),
                Some(-500),
                Some(-500),
                None,
            ],
        ),
        (
            Some(3_000),
            vec![
                Some(-500),
                Some(-500),
                Some(-500),
                Some(-500),
                Some(-500),
                Some(3_000),
                None,
            ],
        ),
    ];
    for (end, expected) in ends {
        let mut rotation = change(&key.record);
        rotation.end_credentials_at = end.map(seconds_from_now);
        rotation.add_credential = Some(credential());
        rotation.event = event(key.record.id, EventAction::Rotated);
        assert!(
            apply(&store, &rotation).await,
            "KeyRepository::apply: it fits the version"
        );
        key.record = rotation.record;
        key.credentials.extend(rotation.add_credential);
        for (credential, end) in key.credentials.iter_mut().zip(expected) {
            credential.expires_at = end.map(seconds_from_now);
        }
        is_stored(&store, &key, CONTRACT).await;
    }
}

pub(super) async fn removed_credentials_are_gone_and_nothing_else(store: Store) {
    const CONTRACT: &str =
        "KeyChange::remove_credentials: those of the key are deleted, and nothing else";
    let other = insert(&store, record()).await;
    let mut key = insert(&store, record()).await;
    for _ in 0..3 {
        let mut rotation = change(&key.record);
        rotation.end_credentials_at = Some(NOW);
        rotation.add_credential = Some(credential());
        key = changed(&key, &rotation);
        assert!(
            apply(&store, &rotation).await,
            "KeyRepository::apply: it fits the version"
        );
    }
    let (removed, unknown) = ([&key.credentials[0], &key.credentials[2]], credential());
    let mut removal = change(&key.record);
    removal.end_credentials_at = Some(NOW);
    removal.add_credential = Some(credential());
    removal.remove_credentials = [removed[0], removed[1], &other.credentials[0], &unknown]
        .map(|credential| credential.digest)
        .to_vec();

    let mut stale = removal.clone();
    stale.record.version += 1;
    assert!(
        !apply(&store, &stale).await,
        "KeyRepository contract 4: a change of another version is not applied"
    );
    is_stored(&store, &key, CONTRACT).await;

    let mut after = changed(&key, &removal);
    after
        .credentials
        .retain(|credential| removed.iter().all(|gone| gone.digest != credential.digest));
    assert!(
        apply(&store, &removal).await,
        "KeyRepository::apply: it fits the version"
    );
    is_stored(&store, &after, CONTRACT).await;
    is_stored(&store, &other, CONTRACT).await;
    for credential in removed {
        assert_eq!(find(&store, &credential.digest).await, None, "{CONTRACT}");
    }
    assert_eq!(
        actions(&store, key.record.id).await.len(),
        5,
        "{CONTRACT}: the events stay"
    );

    // The order of the credentials stays that of their making.
    let mut rotation = change(&after.record);
    rotation.end_credentials_at = Some(NOW);
    rotation.add_credential = Some(credential());
    assert!(
        apply(&store, &rotation).await,
        "KeyRepository::apply: it fits the version"
    );
    is_stored(&store, &changed(&after, &rotation), CONTRACT).await;
}

pub(super) async fn a_duplicate_credential_changes_nothing(store: Store) {
    let other = insert(&store, record()).await;
    let mut ended = credential();
    ended.expires_at = Some(seconds_from_now(-1_000));
    let key = insert_with(&store, record(), ended).await;
    for known in [&other.credentials[0], &key.credentials[0]] {
        let mut rotation = change(&key.record);
        rotation.record.name = "rotated".into();
        rotation.end_credentials_at = Some(seconds_from_now(-2_000));
        rotation.add_credential = Some(known.clone());
        is_duplicate(
            &store.apply(&rotation).await,
            "a digest that exists already, ended or not",
        );
        for unchanged in [&key, &other] {
            let contract = "KeyRepository contract 1: a refused change changes nothing";
            is_stored(&store, unchanged, contract).await;
            assert_eq!(
                actions(&store, unchanged.record.id).await,
                [EventAction::Issued],
                "KeyRepository contract 2: a refused change writes no event"
            );
        }
    }
}

pub(super) async fn an_abandoned_change_is_whole_or_not_at_all(store: Store) {
    for polls in (0..14).map(|power| 1 << power) {
        let before = insert(&store, record()).await;
        let mut rotation = change(&before.record);
        rotation.end_credentials_at = Some(seconds_from_now(1));
        rotation.add_credential = Some(credential());
        let after = changed(&before, &rotation);
        abandon(store.apply(&rotation), polls).await;
        settles(async || {
            let stored = key(&store, before.record.id).await;
            let events = actions(&store, before.record.id).await;
            (stored.as_ref() == Some(&before) && events.len() == 1)
                || (stored.as_ref() == Some(&after) && events.len() == 2)
        })
        .await;
    }
}

/// `key` after `change`, which ends credentials that have no end yet.
fn changed(key: &Key, change: &KeyChange) -> Key {
    let mut credentials = key.credentials.clone();
    for credential in &mut credentials {
        credential.expires_at = change.end_credentials_at;
    }
    credentials.extend(change.add_credential.clone());
    Key {
        record: change.record.clone(),
        credentials,
    }
}
