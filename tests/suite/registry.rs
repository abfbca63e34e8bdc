//! The write side: what it changes, what it refuses, and what it leaves behind.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tower_api_key::testing::ManualClock;
use tower_api_key::{
    ApiKeys, Attempt, DenialReason, EventAction, Key, KeyDigest, KeyError, KeyErrorKind, KeyFilter,
    KeyFormat, KeyId, KeyRepository, KeyStatus, KeyUpdate, MemoryStore, NewKey, RateLimit,
    Requirements, Scope, SqliteStore, UsageDelta,
};

use crate::core_support::{Bench, NANOSECOND, SECOND, refusal, settle, unknown_key, verify};

const MINUTE: Duration = Duration::from_mins(1);
const DAY: Duration = Duration::from_hours(24);

/// Runs `test` over every store that needs no server.
async fn over_each_store(test: impl AsyncFn(ApiKeys, ManualClock)) {
    async fn run<S: KeyRepository + Clone>(store: S, test: &impl AsyncFn(ApiKeys, ManualClock)) {
        // With all that a clock can show: what a store does not keep must be nowhere.
        let clock = ManualClock::new("2026-01-01T00:00:00.123456789Z".parse().unwrap());
        let format = KeyFormat::new("sk").prefix("pk");
        let builder = ApiKeys::builder(store).clock(clock.clone());
        test(builder.format(format).build(), clock).await;
    }
    run(MemoryStore::new(), &test).await;
    let store = SqliteStore::open("sqlite::memory:").await.unwrap();
    run(store, &test).await;
}

fn billing() -> NewKey {
    NewKey::named("billing").scopes(["orders:read"])
}

#[track_caller]
fn kind<T>(outcome: Result<T, KeyError>) -> KeyErrorKind {
    match outcome {
        Ok(_) => panic!("it was accepted"),
        Err(error) => error.kind(),
    }
}

async fn actions(keys: &ApiKeys, id: KeyId) -> Vec<EventAction> {
    let events = keys.events(id, 100).await.unwrap();
    events.iter().map(|event| event.action).collect()
}

#[tokio::test]
async fn what_is_returned_is_what_is_stored() {
    over_each_store(async |keys, clock| {
        let new = billing()
            .owner("acme")
            .prefix("pk")
            .environment("test")
            .limit(RateLimit::per_minute(5))
            .limit(RateLimit::per_day(50))
            .expires_at(keys.now() + 30 * DAY + NANOSECOND)
            .metadata("plan", "gold")
            .allowed_addresses(["10.0.0.0/8".parse().unwrap()]);
        let issued = keys.issue(new.clone()).await.unwrap();
        let key = issued.key();
        let id = key.record.id;
        assert_eq!(keys.get(id).await.unwrap(), *key);
        assert_eq!(key.record.created_at, keys.now());
        assert_eq!(key.record.expires_at, Some(keys.now() + 30 * DAY));
        assert_eq!(key.record.version, 1);
        assert_eq!(key.credentials[0].start, issued.secret().start());
        assert!(issued.secret().expose().starts_with("pk_test_"));

        for change in 0..7 {
            clock.advance(SECOND + NANOSECOND);
            let update = KeyUpdate::new();
            let changed = match change {
                0 => keys
                    .rotate(id, MINUTE + NANOSECOND)
                    .await
                    .unwrap()
                    .key()
                    .clone(),
                1 => keys.rotate(id, Duration::MAX).await.unwrap().key().clone(),
                2 => keys.update(id, update.name("other")).await.unwrap(),
                3 => keys.update(id, update.expires_at(None)).await.unwrap(),
                4 => keys.disable(id).await.unwrap(),
                5 => keys.enable(id).await.unwrap(),
                _ => keys.revoke(id).await.unwrap(),
            };
            assert_eq!(changed.record.version, 2 + change);
            assert_eq!(keys.get(id).await.unwrap(), changed);
            assert_whole_microseconds(&changed);
        }
        let digest = KeyDigest::sha256("imported");
        let imported = keys.import(new, digest, "imp").await.unwrap();
        assert_eq!(keys.get(imported.record.id).await.unwrap(), imported);
        assert!(imported.credentials[0].imported);

        let page = keys.list(&KeyFilter::default()).await.unwrap();
        assert_eq!(page.keys.len(), 2);
        assert_eq!(page.keys[0], imported, "newest first");
        for event in keys.events(id, 100).await.unwrap() {
            assert_eq!(event.at.as_nanosecond() % 1_000, 0);
        }
        let missing = KeyId::generate(keys.now());
        let never = (Timestamp::MIN, Timestamp::MAX);
        for refused in [
            kind(keys.get(missing).await),
            kind(keys.update(missing, KeyUpdate::new()).await),
            kind(keys.rotate(missing, DAY).await),
            kind(keys.revoke(missing).await),
            kind(keys.disable(missing).await),
            kind(keys.events(missing, 1).await),
            kind(keys.usage(missing, never.0, never.1).await),
        ] {
            assert_eq!(refused, KeyErrorKind::NotFound);
        }
    })
    .await;
}

fn assert_whole_microseconds(key: &Key) {
    let record = &key.record;
    let mut times = vec![
        Some(record.created_at),
        record.expires_at,
        record.revoked_at,
    ];
    for credential in &key.credentials {
        times.push(Some(credential.created_at));
        times.push(credential.expires_at);
        times.push(credential.last_used_at);
    }
    for time in times.into_iter().flatten() {
        assert_eq!(time.as_nanosecond() % 1_000, 0, "{time}");
    }
}

#[tokio::test]
async fn the_last_use_is_kept_to_the_microsecond() {
    over_each_store(async |keys, _| {
        let issued = keys.issue(billing()).await.unwrap();
        let text = issued.secret().expose();
        verify(keys.verifier(), text).await.unwrap();
        keys.flush().await.unwrap();
        let key = keys.get(issued.key().record.id).await.unwrap();
        assert_eq!(key.last_used_at(), Some(keys.now()));
    })
    .await;
}

#[tokio::test]
async fn nothing_revoked_comes_back() {
    over_each_store(async |keys, clock| {
        let issued = keys.issue(billing()).await.unwrap();
        let id = issued.key().record.id;
        let revoked = keys.revoke(id).await.unwrap();
        assert_eq!(revoked.record.revoked_at, Some(keys.now()));
        clock.advance(SECOND);
        for refused in [
            kind(keys.enable(id).await),
            kind(keys.disable(id).await),
            kind(keys.rotate(id, DAY).await),
            kind(keys.update(id, KeyUpdate::new().name("other")).await),
            kind(keys.update(id, KeyUpdate::new().expires_at(None)).await),
        ] {
            assert_eq!(refused, KeyErrorKind::Revoked);
        }
        // Again is no change, and no second event.
        assert_eq!(keys.revoke(id).await.unwrap(), revoked);
        assert_eq!(keys.get(id).await.unwrap(), revoked);
        let expected = [EventAction::Issued, EventAction::Revoked];
        assert_eq!(actions(&keys, id).await, expected);
        let outcome = verify(keys.verifier(), issued.secret().expose()).await;
        assert_eq!(refusal(outcome), DenialReason::Revoked);
    })
    .await;
}

#[tokio::test]
async fn nothing_expired_comes_back() {
    over_each_store(async |keys, clock| {
        let new = billing().expires_at(keys.now() + MINUTE);
        let issued = keys.issue(new).await.unwrap();
        let id = issued.key().record.id;
        let later = keys.now() + DAY;
        // To the microsecond that stores keep.
        clock.advance(MINUTE.saturating_sub(Duration::from_micros(1)));
        keys.disable(id).await.unwrap();
        clock.advance(Duration::from_micros(1));
        for refused in [
            kind(keys.rotate(id, DAY).await),
            kind(keys.update(id, KeyUpdate::new().expires_at(later)).await),
            kind(keys.update(id, KeyUpdate::new().expires_at(None)).await),
        ] {
            assert_eq!(refused, KeyErrorKind::Expired);
        }
        // It can be renamed and switched on, and has expired all the same.
        keys.update(id, KeyUpdate::new().name("old")).await.unwrap();
        keys.enable(id).await.unwrap();
        let outcome = verify(keys.verifier(), issued.secret().expose()).await;
        assert_eq!(refusal(outcome), DenialReason::Expired);
        let key = keys.revoke(id).await.unwrap();
        assert_eq!(key.record.status(keys.now()), KeyStatus::Revoked);
    })
    .await;
}

#[tokio::test]
async fn an_end_can_be_moved_until_it_has_come() {
    over_each_store(async |keys, clock| {
        let new = billing().expires_at(keys.now() + MINUTE);
        let issued = keys.issue(new).await.unwrap();
        let id = issued.key().record.id;
        let end = |end: Option<Timestamp>| KeyUpdate::new().expires_at(end);
        let good = async || {
            verify(keys.verifier(), issued.secret().expose())
                .await
                .is_ok()
        };
        keys.update(id, end(Some(keys.now() + 2 * MINUTE)))
            .await
            .unwrap();
        clock.advance(MINUTE);
        assert!(good().await);
        keys.update(id, end(None)).await.unwrap();
        clock.advance(MINUTE);
        assert!(good().await);
        keys.update(id, end(Some(keys.now() + SECOND)))
            .await
            .unwrap();
        clock.advance(SECOND);
        assert!(!good().await);
    })
    .await;
}

#[tokio::test]
async fn a_rotation_only_ever_shortens_what_was_before() {
    over_each_store(async |keys, clock| {
        let first = keys.issue(billing()).await.unwrap();
        let id = first.key().record.id;
        let second = keys.rotate(id, MINUTE).await.unwrap();
        // A longer grace gives the first no longer life, and the second its own.
        let third = keys.rotate(id, DAY).await.unwrap();
        let ends: Vec<_> = third
            .key()
            .credentials
            .iter()
            .map(|credential| credential.expires_at)
            .collect();
        let now = keys.now();
        assert_eq!(ends, [Some(now + MINUTE), Some(now + DAY), None]);
        let good = async || {
            let mut good = [false; 3];
            for (good, issued) in good.iter_mut().zip([&first, &second, &third]) {
                let outcome = verify(keys.verifier(), issued.secret().expose()).await;
                *good = outcome.is_ok();
            }
            good
        };
        assert_eq!(good().await, [true; 3]);
        clock.advance(MINUTE);
        assert_eq!(good().await, [false, true, true]);
        // One that has ended stays ended.
        let fourth = keys.rotate(id, DAY).await.unwrap();
        assert_eq!(good().await, [false, true, true]);
        assert_eq!(
            fourth.key().credentials[0].expires_at,
            Some(now + MINUTE),
            "and keeps its end"
        );
        // Without a grace the others end at once.
        let fifth = keys.rotate(id, Duration::ZERO).await.unwrap();
        assert_eq!(good().await, [false; 3]);
        let text = fifth.secret().expose();
        verify(keys.verifier(), text).await.unwrap();
        clock.advance(1_000 * DAY);
        verify(keys.verifier(), text).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_rotation_does_not_outlive_the_key() {
    over_each_store(async |keys, clock| {
        let new = billing().expires_at(keys.now() + MINUTE);
        let issued = keys.issue(new).await.unwrap();
        let rotated = keys.rotate(issued.key().record.id, DAY).await.unwrap();
        clock.advance(MINUTE);
        for issued in [issued, rotated] {
            let outcome = verify(keys.verifier(), issued.secret().expose()).await;
            assert_eq!(refusal(outcome), DenialReason::Expired);
        }
    })
    .await;
}

#[tokio::test]
async fn a_rotation_keeps_identity_use_and_limits() {
    over_each_store(async |keys, _| {
        let new = billing().owner("acme").limit(RateLimit::per_hour(3));
        let old = keys.issue(new).await.unwrap();
        let id = old.key().record.id;
        let text = old.secret().expose();
        verify(keys.verifier(), text).await.unwrap();
        let new = keys.rotate(id, DAY).await.unwrap();
        let mut record = new.key().record.clone();
        record.version = 1;
        assert_eq!(record, old.key().record);
        assert_ne!(new.secret().expose(), text);

        // Both secrets draw on one quota.
        verify(keys.verifier(), new.secret().expose())
            .await
            .unwrap();
        verify(keys.verifier(), text).await.unwrap();
        for issued in [&old, &new] {
            let outcome = verify(keys.verifier(), issued.secret().expose()).await;
            assert_eq!(refusal(outcome), DenialReason::Quota);
        }
        keys.flush().await.unwrap();
        let usage = keys.usage(id, Timestamp::MIN, Timestamp::MAX).await;
        let [bucket] = usage.unwrap()[..] else {
            panic!("it was used in one hour")
        };
        assert_eq!((bucket.allowed, bucket.denied), (3, 2));
        let expected = [EventAction::Issued, EventAction::Rotated];
        assert_eq!(actions(&keys, id).await, expected);
    })
    .await;
}

#[tokio::test]
async fn a_disabled_key_can_be_rotated_and_stays_disabled() {
    over_each_store(async |keys, _| {
        let issued = keys.issue(billing()).await.unwrap();
        let id = issued.key().record.id;
        keys.disable(id).await.unwrap();
        let rotated = keys.rotate(id, DAY).await.unwrap();
        let text = rotated.secret().expose();
        let outcome = verify(keys.verifier(), text).await;
        assert_eq!(refusal(outcome), DenialReason::Disabled);
        keys.enable(id).await.unwrap();
        verify(keys.verifier(), text).await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_updates_all_survive() {
    over_each_store(async |keys, _| {
        let issued = keys.issue(billing()).await.unwrap();
        let id = issued.key().record.id;
        let name = |task: usize| format!("name {task}");
        let updating: Vec<_> = (0..32)
            .map(|task| {
                let keys = keys.clone();
                let update = KeyUpdate::new();
                let metadata = BTreeMap::from([("by".to_owned(), "task".to_owned())]);
                let update = match task {
                    0 => update.scopes(["orders:write"]),
                    1 => update.limits([RateLimit::per_hour(7)]),
                    2 => update.metadata(metadata),
                    3 => update.allowed_addresses(["10.0.0.0/8".parse().unwrap()]),
                    4 => update.expires_at(keys.now() + DAY),
                    5 => update.enabled(false),
                    task => update.name(name(task)),
                };
                tokio::spawn(async move { keys.update(id, update).await })
            })
            .collect();
        for update in updating {
            update.await.unwrap().unwrap();
        }
        let record = keys.get(id).await.unwrap().record;
        assert_eq!(record.version, 33);
        assert!(record.scopes.covers(&Scope::new("orders:write").unwrap()));
        assert_eq!(record.scopes.len(), 1);
        assert_eq!(record.limits.len(), 1);
        assert_eq!(record.metadata["by"], "task");
        assert_eq!(record.allowed_addresses.len(), 1);
        assert_eq!(record.expires_at, Some(keys.now() + DAY));
        assert!(!record.enabled);
        assert!((6..32).any(|task| record.name == name(task)));
        assert_eq!(actions(&keys, id).await.len(), 33);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_wins_over_concurrent_rotations() {
    over_each_store(async |keys, _| {
        for _ in 0..10 {
            let issued = keys.issue(billing()).await.unwrap();
            let id = issued.key().record.id;
            let rotating: Vec<_> = (0..4)
                .map(|_| {
                    let keys = keys.clone();
                    tokio::spawn(async move { keys.rotate(id, DAY).await })
                })
                .collect();
            let (first, second) = tokio::join!(keys.revoke(id), keys.revoke(id));
            assert_eq!(
                first.unwrap().record.revoked_at,
                second.unwrap().record.revoked_at
            );
            let mut secrets = vec![issued.secret().clone()];
            for rotation in rotating {
                match rotation.await.unwrap() {
                    Ok(rotated) => secrets.push(rotated.secret().clone()),
                    Err(error) => assert_eq!(error.kind(), KeyErrorKind::Revoked),
                }
            }
            for secret in &secrets {
                let outcome = verify(keys.verifier(), secret.expose()).await;
                assert_eq!(refusal(outcome), DenialReason::Revoked);
            }
            let key = keys.get(id).await.unwrap();
            assert_eq!(key.credentials.len(), secrets.len());
            // The revocation is the last that happened, and it happened once.
            let mut expected = vec![EventAction::Rotated; secrets.len() + 1];
            expected[0] = EventAction::Issued;
            *expected.last_mut().unwrap() = EventAction::Revoked;
            assert_eq!(actions(&keys, id).await, expected);
        }
    })
    .await;
}

#[tokio::test]
async fn the_trail_tells_what_was_done_when_and_by_whom() {
    over_each_store(async |keys, clock| {
        let admin = keys.acting_as("key_of_the_admin");
        let issued = admin.issue(billing()).await.unwrap();
        let id = issued.key().record.id;
        clock.advance(SECOND);
        keys.update(id, KeyUpdate::new().name("other"))
            .await
            .unwrap();
        // What changes nothing leaves nothing behind.
        keys.update(id, KeyUpdate::new().name("other"))
            .await
            .unwrap();
        keys.enable(id).await.unwrap();
        keys.acting_as("first")
            .acting_as("second")
            .disable(id)
            .await
            .unwrap();
        admin.enable(id).await.unwrap();
        clock.advance(SECOND);
        admin.rotate(id, DAY).await.unwrap();
        admin.revoke(id).await.unwrap();
        let events = keys.events(id, 100).await.unwrap();
        let trail: Vec<_> = events
            .iter()
            .map(|event| (event.action, event.actor.as_deref()))
            .collect();
        let by = Some("key_of_the_admin");
        let expected = [
            (EventAction::Issued, by),
            (EventAction::Updated, None),
            (EventAction::Disabled, Some("second")),
            (EventAction::Enabled, by),
            (EventAction::Rotated, by),
            (EventAction::Revoked, by),
        ];
        assert_eq!(trail, expected);
        let began = issued.key().record.created_at;
        let seconds: Vec<_> = events
            .iter()
            .map(|event| event.at.duration_since(began).as_secs())
            .collect();
        assert_eq!(seconds, [0, 1, 1, 1, 2, 2]);
        assert!(events.iter().all(|event| event.key == id));
        // The last ones, oldest first.
        assert_eq!(keys.events(id, 2).await.unwrap(), events[4..]);
        assert_eq!(keys.events(id, 0).await.unwrap(), []);

        let digest = KeyDigest::sha256("imported");
        let imported = admin.import(billing(), digest, "").await.unwrap();
        let events = keys.events(imported.record.id, 100).await.unwrap();
        assert_eq!(events.len(), 1);
        assert_eq!(events[0].action, EventAction::Imported);
    })
    .await;
}

#[tokio::test]
async fn values_are_checked() {
    over_each_store(async |keys, _| {
        let x = |length| "x".repeat(length);
        let ok = "";
        let now = keys.now();
        let network = "10.0.0.0/8".parse().unwrap();
        let metadata = |name: String, value: String| billing().metadata(name, value);
        let many_metadata = |entries| {
            (0..entries).fold(billing(), |new, entry| new.metadata(format!("{entry}"), ""))
        };
        let scopes = |scopes: usize| {
            let scopes = (0..scopes).map(|scope| format!("s{scope}"));
            NewKey::named("x").scopes(scopes)
        };
        let limits = |limits: usize| {
            (0..limits).fold(billing(), |new, limit| {
                new.limit(RateLimit::per_minute(1).named(&format!("l{limit}")))
            })
        };
        let table = [
            (NewKey::named(""), "name"),
            (NewKey::named("x"), ok),
            (NewKey::named(x(200)), ok),
            (NewKey::named(x(201)), "name"),
            (NewKey::named("ü".repeat(200)), ok),
            (NewKey::named("ü".repeat(201)), "name"),
            (NewKey::named("日本語 🔑"), ok),
            (NewKey::named("a\nb"), "name"),
            (NewKey::named("a\0b"), "name"),
            (NewKey::named("a\u{85}b"), "name"),
            (billing().owner(""), "owner"),
            (billing().owner(x(200)), ok),
            (billing().owner(x(201)), "owner"),
            (billing().owner("a\tb"), "owner"),
            (billing().prefix("rk"), "prefix"),
            (billing().prefix(""), "prefix"),
            (billing().prefix("pk"), ok),
            (billing().environment("test"), ok),
            (billing().environment("staging"), "environment"),
            (billing().scopes(["Bad Scope"]), "scopes"),
            (billing().scopes([""]), "scopes"),
            (billing().scopes(["orders:*", "*"]), ok),
            (scopes(100), ok),
            (scopes(101), "scopes"),
            (limits(8), ok),
            (limits(9), "limits"),
            (
                limits(1).limit(RateLimit::per_hour(1).named("l0")),
                "limits",
            ),
            (billing().expires_at(now), "expires_at"),
            (billing().expires_at(now - SECOND), "expires_at"),
            (billing().expires_at(Timestamp::MIN), "expires_at"),
            (billing().expires_at(now + NANOSECOND), "expires_at"),
            (billing().expires_at(now + Duration::from_micros(1)), ok),
            (billing().expires_at(Timestamp::MAX), ok),
            (many_metadata(50), ok),
            (many_metadata(51), "metadata"),
            (metadata(String::new(), x(1)), "metadata"),
            (metadata(x(64), x(1_024)), ok),
            (metadata("ü".repeat(64), "ü".repeat(1_024)), ok),
            (metadata(x(65), x(1)), "metadata"),
            (metadata(x(1), x(1_025)), "metadata"),
            (metadata("a\nb".into(), x(1)), "metadata"),
            (metadata(x(1), "two\nlines".into()), ok),
            (metadata(x(1), "a\0b".into()), "metadata"),
            (billing().allowed_addresses([network; 100]), ok),
            (
                billing().allowed_addresses([network; 101]),
                "allowed_addresses",
            ),
        ];
        for (new, field) in table {
            let shown = format!("{new:?}");
            match keys.issue(new).await {
                Ok(issued) => {
                    assert_eq!(field, ok, "{shown}");
                    let stored = keys.get(issued.key().record.id).await.unwrap();
                    assert_eq!(stored, *issued.key());
                }
                Err(error) => {
                    assert_eq!(error.kind(), KeyErrorKind::Invalid, "{shown}");
                    assert_eq!(error.field(), Some(field), "{shown}");
                    assert!(error.to_string().starts_with(field), "{error}");
                }
            }
        }
    })
    .await;
}

#[tokio::test]
async fn an_update_is_checked_like_a_new_key_and_changes_nothing_if_it_is_wrong() {
    over_each_store(async |keys, _| {
        let issued = keys.issue(billing()).await.unwrap();
        let id = issued.key().record.id;
        let now = keys.now();
        let update = KeyUpdate::new;
        let network = "10.0.0.0/8".parse().unwrap();
        let two = [RateLimit::per_hour(1), RateLimit::per_hour(2)];
        let value = BTreeMap::from([("a".to_owned(), "\0".to_owned())]);
        for (wrong, field) in [
            (update().name(""), "name"),
            (update().name("x".repeat(201)), "name"),
            (update().name("a\rb"), "name"),
            (update().scopes(["bad scope"]), "scopes"),
            (update().limits(two), "limits"),
            (update().metadata(value), "metadata"),
            (
                update().allowed_addresses([network; 101]),
                "allowed_addresses",
            ),
            (update().expires_at(now), "expires_at"),
        ] {
            let error = keys.update(id, wrong.enabled(false)).await.unwrap_err();
            assert_eq!(error.kind(), KeyErrorKind::Invalid);
            assert_eq!(error.field(), Some(field));
        }
        assert_eq!(keys.get(id).await.unwrap(), *issued.key());
        assert_eq!(actions(&keys, id).await, [EventAction::Issued]);
    })
    .await;
}

#[tokio::test]
async fn what_an_import_shows_is_checked() {
    over_each_store(async |keys, _| {
        for (number, (start, good)) in [
            (String::new(), true),
            ("old_".into(), true),
            ("x".repeat(32), true),
            ("x".repeat(33), false),
            ("a b".into(), false),
            ("a\n".into(), false),
            ("é".into(), false),
        ]
        .into_iter()
        .enumerate()
        {
            let digest = KeyDigest::sha256(&number.to_string());
            let outcome = keys.import(billing(), digest, &start).await;
            assert_eq!(outcome.is_ok(), good, "{start}");
            if let Err(error) = outcome {
                assert_eq!(error.field(), Some("start"));
            }
        }
        // No secret can come back under another key, also not when it has ended.
        let issued = keys.issue(billing()).await.unwrap();
        keys.revoke(issued.key().record.id).await.unwrap();
        let digest = KeyDigest::sha256(issued.secret().expose());
        let refused = kind(keys.import(billing(), digest, "").await);
        assert_eq!(refused, KeyErrorKind::Duplicate);
    })
    .await;
}

#[tokio::test]
async fn a_change_runs_to_its_end_without_whoever_asked_for_it() {
    let bench = Bench::new();
    let issued = bench.issue().await;
    let (id, text) = (issued.key().record.id, issued.secret().expose());
    bench.verify(text).await.unwrap();
    bench.store.hold_writes(true);
    let revocation = {
        let keys = bench.keys.clone();
        tokio::spawn(async move { keys.revoke(id).await })
    };
    bench.store.written(2).await;
    revocation.abort();
    assert!(revocation.await.unwrap_err().is_cancelled());
    bench.store.hold_writes(false);
    settle().await;
    assert_eq!(refusal(bench.verify(text).await), DenialReason::Revoked);

    // The same for an import of what was missing.
    let bench = Bench::built(|builder| builder.accept_imported(true));
    let text = unknown_key();
    let outcome = bench.verify(text.expose()).await;
    assert_eq!(refusal(outcome), DenialReason::Unknown);
    bench.store.hold_writes(true);
    let import = {
        let (keys, digest) = (bench.keys.clone(), KeyDigest::sha256(text.expose()));
        tokio::spawn(async move { keys.import(billing(), digest, "").await })
    };
    bench.store.written(1).await;
    import.abort();
    assert!(import.await.unwrap_err().is_cancelled());
    bench.store.hold_writes(false);
    settle().await;
    bench.verify(text.expose()).await.unwrap();
}

#[tokio::test]
async fn a_write_that_fails_after_it_was_stored_is_seen() {
    let bench = Bench::built(|builder| builder.accept_imported(true));
    let issued = bench.issue().await;
    let (id, text) = (issued.key().record.id, issued.secret().expose());
    let imported = unknown_key();
    bench.verify(text).await.unwrap();
    let outcome = bench.verify(imported.expose()).await;
    assert_eq!(refusal(outcome), DenialReason::Unknown);
    bench.store.hold_writes(true);
    let revocation = {
        let keys = bench.keys.clone();
        tokio::spawn(async move { keys.revoke(id).await })
    };
    let import = {
        let (keys, digest) = (bench.keys.clone(), KeyDigest::sha256(imported.expose()));
        tokio::spawn(async move { keys.import(billing(), digest, "").await })
    };
    bench.store.written(3).await;
    bench.store.fail(true);
    bench.store.hold_writes(false);
    assert_eq!(kind(revocation.await.unwrap()), KeyErrorKind::Store);
    assert_eq!(kind(import.await.unwrap()), KeyErrorKind::Store);
    bench.store.fail(false);
    assert_eq!(refusal(bench.verify(text).await), DenialReason::Revoked);
    bench.verify(imported.expose()).await.unwrap();
}

#[tokio::test]
async fn records_survive_serde() {
    fn assert_round_trip<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(value: &T) {
        let json = serde_json::to_string(value).unwrap();
        assert_eq!(serde_json::from_str::<T>(&json).unwrap(), *value, "{json}");
    }
    over_each_store(async |keys, clock| {
        let new = billing()
            .owner("acme \"quoted\" 🔑")
            .limit(RateLimit::per_minute(5))
            .expires_at(Timestamp::MAX)
            .metadata("a", "two\nlines")
            .allowed_addresses(["0.0.0.0/0".parse().unwrap(), "::1/128".parse().unwrap()]);
        let issued = keys.issue(new).await.unwrap();
        let id = issued.key().record.id;
        let attempt = Attempt::new(issued.secret().expose());
        let attempt = attempt.from_address(IpAddr::from([10, 0, 0, 1]));
        let needs = Requirements::new();
        keys.verifier().verify(attempt, &needs).await.unwrap();
        keys.flush().await.unwrap();
        keys.rotate(id, DAY).await.unwrap();
        clock.advance(SECOND);
        let key = keys.revoke(id).await.unwrap();
        assert_round_trip(&key);
        assert_round_trip(&key.record);
        assert_round_trip(&key.record.limits);
        assert_round_trip(&key.record.scopes);
        assert_round_trip(&key.record.status(keys.now()));
        for credential in &key.credentials {
            assert_round_trip(credential);
            assert_round_trip(&credential.digest);
            assert_round_trip(&UsageDelta {
                key: id,
                credential: credential.digest,
                hour: key.record.created_at,
                allowed: u64::MAX,
                denied: 0,
                last_used_at: credential.last_used_at,
            });
        }
        for event in keys.events(id, 100).await.unwrap() {
            assert_round_trip(&event);
        }
        let usage = keys.usage(id, Timestamp::MIN, Timestamp::MAX).await;
        assert_round_trip(&usage.unwrap());
    })
    .await;
}

#[tokio::test]
async fn a_principal_tells_what_the_key_is() {
    over_each_store(async |keys, _| {
        let new = billing()
            .owner("acme")
            .expires_at(keys.now() + DAY)
            .metadata("plan", "gold");
        let old = keys.issue(new).await.unwrap();
        let id = old.key().record.id;
        let new = keys.rotate(id, MINUTE).await.unwrap();
        for (issued, end) in [(&old, MINUTE), (&new, DAY)] {
            let attempt = Attempt::new(issued.secret().expose());
            let verified = keys.verifier().verify(attempt, &Requirements::new()).await;
            let (principal, _) = verified.unwrap().into_parts();
            assert_eq!(principal.key_id(), id);
            assert_eq!(principal.name(), "billing");
            assert_eq!(principal.owner(), Some("acme"));
            assert_eq!(
                (principal.prefix(), principal.environment()),
                ("sk", "live")
            );
            assert_eq!(principal.metadata()["plan"], "gold");
            assert_eq!(principal.credential_start(), issued.secret().start());
            assert_eq!(principal.expires_at(), Some(keys.now() + end));
            assert!(principal.require("orders:read").is_ok());
            for refused in ["orders:write", "orders:*", "*", "no scope"] {
                let denial = principal.require(refused).unwrap_err();
                assert_eq!(denial.reason(), DenialReason::Scope);
            }
        }
    })
    .await;
}
