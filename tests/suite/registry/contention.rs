//! Changes beside other changes, and beside callers and stores that go away.

use std::collections::BTreeMap;

use tower_api_key::{
    DenialReason, EventAction, KeyDigest, KeyErrorKind, KeyUpdate, RateLimit, Scope,
};

use super::{DAY, actions, billing, kind, over_each_store};
use crate::core_support::{Bench, refusal, settle, unknown_key, verify};

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
