use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Barrier;

use super::Store;
use super::sample::{
    NOW, abandon, actions, apply, change, credential, event, events, find, insert, insert_with,
    key, record, seconds_from_now,
};
use crate::limit::{RateLimit, RateLimits};
use crate::record::{
    Credential, CreditPlan, Credits, EventAction, Key, KeyRecord, Refill, UsageBatch, UsageDelta,
};
use crate::scope::{Scope, ScopeSet};
use crate::store::{StoreError, StoreErrorKind};

pub(super) async fn a_key_comes_back_as_it_was_written(store: Store) {
    for record in [record(), largest_record(), peculiar_record()] {
        let mut credential = credential();
        credential.pepper = record.owner.as_ref().map(|_| "2026-01".to_owned());
        credential.imported = record.owner.is_some();
        let written = insert_with(&store, record, credential).await;
        let id = written.record.id;
        assert_eq!(
            key(&store, id).await.as_ref(),
            Some(&written),
            "KeyRepository contract 1: the next call sees what was inserted, as it was given"
        );
        assert_eq!(
            events(&store, id).await,
            [event(id, EventAction::Issued)],
            "KeyRepository contract 2: `insert` writes its event"
        );

        let mut renamed = change(&written.record);
        renamed.record.name.push('!');
        renamed.event.actor = None;
        assert!(
            apply(&store, &renamed).await,
            "KeyRepository::apply: it fits the version"
        );
        assert_eq!(
            key(&store, id).await.map(|key| key.record),
            Some(renamed.record),
            "KeyRepository contract 1: the next call sees what was changed, as it was given"
        );
        assert_eq!(
            events(&store, id).await.last(),
            Some(&renamed.event),
            "KeyRepository contract 2: `apply` writes its event as it was given"
        );
    }
}

/// Everything as long and as large as its type allows.
pub(super) fn largest_record() -> KeyRecord {
    let mut record = record();
    record.version = u64::from(u32::MAX);
    record.name = "n".repeat(200);
    record.owner = Some("o".repeat(500));
    let scopes = (0..ScopeSet::MAX_LEN).map(|n| format!("{n:0>width$}", width = Scope::MAX_LEN));
    record.scopes = ScopeSet::new(scopes).expect("the longest scopes are valid");
    let limits = (0..RateLimits::MAX_LEN).map(|n| {
        let name = format!("{n:->width$}", width = RateLimit::MAX_NAME_LEN);
        RateLimit::new(&name, RateLimit::MAX_QUOTA, RateLimit::MAX_WINDOW)
            .expect("the largest limit is valid")
    });
    record.limits = RateLimits::new(limits).expect("the most limits are valid");
    record.credits = Some(CreditPlan {
        granted: Credits::MAX,
        refill: Some(Refill::daily(Credits::MAX)),
        since_version: record.version,
    });
    record.metadata = (0..100)
        .map(|n| (format!("key {n}"), "v".repeat(500)))
        .collect();
    record.allowed_addresses = ["0.0.0.0/0", "10.1.2.3/32", "2001:db8::/32", "::/0"]
        .map(|network| network.parse().expect("these are networks"))
        .to_vec();
    record.enabled = false;
    record
}

/// Texts that break what quotes, escapes or counts characters wrongly.
pub(super) fn peculiar_record() -> KeyRecord {
    const PECULIAR: &str =
        "'; DROP TABLE keys; --\"\\\n\t{}[]$1?:x Zürich 東京 🗝\u{fe0f} e\u{301} \u{202e}";
    let mut record = record();
    record.name = PECULIAR.into();
    record.owner = Some(PECULIAR.to_owned());
    record.credits = Some(CreditPlan {
        granted: 0,
        refill: Some(Refill::monthly(1)),
        since_version: 1,
    });
    record.prefix = "pk".into();
    record.environment = PECULIAR.into();
    record.scopes = ScopeSet::new(["*", "a'b:{}$1", "orders:*"]).expect("these are scopes");
    record.metadata = [("", ""), (PECULIAR, PECULIAR), ("null", "null")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    record
}

pub(super) async fn times_are_kept_to_the_microsecond(store: Store) {
    const CONTRACT: &str = "KeyRepository contract 5: times are kept to the microsecond";
    for micros in [
        -1,
        -2_208_988_800_000_001,
        0,
        1,
        1_767_225_600_123_456,
        253_402_207_200_999_999,
    ] {
        let time =
            Timestamp::from_nanosecond(micros * 1_000).expect("the year 9999 is within range");
        let mut record = record();
        record.created_at = time;
        record.expires_at = Some(time);
        record.revoked_at = Some(time);
        let mut credential = credential();
        credential.created_at = time;
        credential.expires_at = Some(time);
        credential.last_used_at = Some(time);
        let mut issued = event(record.id, EventAction::Imported);
        issued.at = time;
        store
            .insert(&record, &credential, &issued)
            .await
            .unwrap_or_else(|error| panic!("{CONTRACT}, {time} too: {error}"));
        let found = find(&store, &credential.digest).await;
        let found = found.map(|found| (found.record, found.credential));
        assert_eq!(
            found,
            Some((record.clone(), credential.clone())),
            "{CONTRACT}"
        );
        assert_eq!(events(&store, record.id).await, [issued], "{CONTRACT}");

        let used = UsageDelta {
            key: record.id,
            credential: credential.digest,
            hour: time,
            allowed: 1,
            denied: 0,
            last_used_at: None,
        };
        let batch = UsageBatch::new(vec![used]);
        store.record_usage(&batch).await.expect(CONTRACT);
        let used = store
            .usage(record.id, time, Timestamp::MAX)
            .await
            .expect(CONTRACT);
        assert_eq!(
            used.first().map(|bucket| bucket.start),
            Some(time),
            "{CONTRACT}"
        );
    }
}

pub(super) async fn a_duplicate_leaves_no_trace(store: Store) {
    let first = insert(&store, record()).await;
    let mut ended = credential();
    ended.expires_at = Some(seconds_from_now(-1_000));
    let mut revoked = record();
    revoked.revoked_at = Some(seconds_from_now(-1_000));
    let ended = insert_with(&store, revoked, ended).await;

    for known in [&first, &ended] {
        let mut other = record();
        let outcome = insert_copy(&store, &other, &known.credentials[0]).await;
        is_duplicate(&outcome, "a digest that exists already, ended or not");
        assert_eq!(
            key(&store, other.id).await,
            None,
            "KeyRepository contract 1: a refused insert writes no key"
        );
        assert_eq!(
            events(&store, other.id).await,
            [],
            "KeyRepository contract 2: a refused insert writes no event"
        );

        other.id = known.record.id;
        let unused = credential();
        is_duplicate(
            &insert_copy(&store, &other, &unused).await,
            "an id that exists already",
        );
        assert_eq!(
            find(&store, &unused.digest).await,
            None,
            "KeyRepository contract 1: a refused insert writes no credential"
        );
        assert_eq!(
            key(&store, known.record.id).await.as_ref(),
            Some(known),
            "KeyRepository contract 1: a refused insert changes no other key"
        );
        assert_eq!(
            actions(&store, known.record.id).await,
            [EventAction::Issued],
            "KeyRepository contract 2: a refused insert writes no event"
        );
    }
}

async fn insert_copy(
    store: &Store,
    record: &KeyRecord,
    credential: &Credential,
) -> Result<(), StoreError> {
    let issued = event(record.id, EventAction::Issued);
    store.insert(record, credential, &issued).await
}

/// Checks clause 3 on an outcome.
pub(super) fn is_duplicate<T: std::fmt::Debug>(outcome: &Result<T, StoreError>, what: &str) {
    let kind = outcome.as_ref().map_err(StoreError::kind);
    assert!(
        matches!(kind, Err(StoreErrorKind::Duplicate)),
        "KeyRepository contract 3: {what} is a duplicate error, not {outcome:?}"
    );
}

pub(super) async fn of_concurrent_duplicates_one_is_written(store: Store) {
    const TASKS: usize = 8;
    let credential = credential();
    let barrier = Arc::new(Barrier::new(TASKS));
    let tasks: Vec<_> = (0..TASKS)
        .map(|_| {
            let (store, credential, barrier) = (store.clone(), credential.clone(), barrier.clone());
            tokio::spawn(async move {
                let record = record();
                barrier.wait().await;
                (record.id, insert_copy(&store, &record, &credential).await)
            })
        })
        .collect();
    let mut written = Vec::new();
    for task in tasks {
        match task
            .await
            .expect("KeyRepository::insert: it does not panic")
        {
            (id, Ok(())) => written.push(id),
            (_, refused) => is_duplicate(&refused, "a digest that another task is inserting"),
        }
    }
    let found = find(&store, &credential.digest).await;
    assert_eq!(
        written,
        Vec::from_iter(found.map(|found| found.record.id)),
        "KeyRepository contract 3: of concurrent inserts of one digest exactly one succeeds"
    );
}

pub(super) async fn an_abandoned_insert_is_whole_or_not_at_all(store: Store) {
    for polls in (0..14).map(|power| 1 << power) {
        let record = record();
        let credential = credential();
        abandon(insert_copy(&store, &record, &credential), polls).await;
        let whole = Key {
            record: record.clone(),
            credentials: vec![credential.clone()],
        };
        settles(async || {
            let found = find(&store, &credential.digest).await.is_some();
            let stored = key(&store, record.id).await;
            let events = actions(&store, record.id).await;
            match stored {
                Some(key) => found && key == whole && events == [EventAction::Issued],
                None => !found && events.is_empty(),
            }
        })
        .await;
    }
    insert_with(
        &store,
        record(),
        Credential {
            created_at: NOW,
            ..credential()
        },
    )
    .await;
}

/// Waits until a state is whole: what an abandoned call had sent may still be under way.
pub(super) async fn settles(is_whole: impl AsyncFn() -> bool) {
    for _ in 0..200 {
        if is_whole().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("KeyRepository contract 1: an abandoned call leaves a whole change or none");
}
