//! What has been changed is not seen as it was, whatever is in flight or remembered.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Barrier;
use tower_api_key::{ApiKeys, CacheConfig, DenialReason, Issued, KeyUpdate};

use super::{IMPORTED, TTL, import, issue_many};
use crate::core_support::{Bench, SECOND, refusal, settle, unknown_key};

/// Everything after which a key's first secret must no longer read orders.
#[derive(Clone, Copy, Debug)]
enum Change {
    Disable,
    Revoke,
    Rotate,
    Update,
}

impl Change {
    const ALL: [Self; 4] = [Self::Disable, Self::Revoke, Self::Rotate, Self::Update];

    async fn apply(self, keys: &ApiKeys, issued: &Issued) {
        let id = issued.key().record.id;
        match self {
            Self::Disable => drop(keys.disable(id).await.unwrap()),
            Self::Revoke => drop(keys.revoke(id).await.unwrap()),
            Self::Rotate => drop(keys.rotate(id, Duration::ZERO).await.unwrap()),
            Self::Update => {
                let update = KeyUpdate::new().scopes(["orders:list"]);
                keys.update(id, update).await.unwrap();
            }
        }
    }

    fn reason(self) -> DenialReason {
        match self {
            Self::Disable => DenialReason::Disabled,
            Self::Revoke => DenialReason::Revoked,
            Self::Rotate => DenialReason::Expired,
            Self::Update => DenialReason::Scope,
        }
    }
}

#[tokio::test]
async fn a_change_wins_over_a_lookup_in_flight() {
    for change in Change::ALL {
        let bench = Bench::new();
        let issued = bench.issue().await;
        let text = issued.secret().expose();
        bench.store.hold_lookups(true);
        let early = bench.begin(text);
        bench.store.begun(1).await;
        change.apply(&bench.keys, &issued).await;

        let joining = bench.begin(text);
        settle().await;
        assert_eq!(bench.store.lookups(), 1, "it joined the old flight");
        bench.store.hold_lookups(false);
        assert_eq!(refusal(joining.await.unwrap()), change.reason());
        // It began before, so it may see either; it must only end.
        let _ = early.await.unwrap();
        assert_eq!(refusal(bench.verify(text).await), change.reason());
    }
}

#[tokio::test]
async fn a_change_wins_over_what_an_old_flight_leaves_behind() {
    for change in Change::ALL {
        let bench = Bench::new();
        let issued = bench.issue().await;
        let text = issued.secret().expose();
        bench.store.hold_lookups(true);
        let early = bench.begin(text);
        bench.store.begun(1).await;
        change.apply(&bench.keys, &issued).await;
        // Nobody waits for the old state any more, but it lands all the same.
        early.abort();
        bench.store.hold_lookups(false);
        settle().await;
        assert_eq!(bench.store.lookups(), 1);
        assert_eq!(refusal(bench.verify(text).await), change.reason());
        assert_eq!(bench.store.lookups(), 2);
    }
}

#[tokio::test]
async fn a_change_wins_over_a_hit() {
    for change in Change::ALL {
        let bench = Bench::new();
        let issued = bench.issue().await;
        let text = issued.secret().expose();
        for _ in 0..3 {
            bench.verify(text).await.unwrap();
        }
        assert_eq!(bench.store.lookups(), 1);
        change.apply(&bench.keys, &issued).await;
        assert_eq!(refusal(bench.verify(text).await), change.reason());
    }
}

#[tokio::test]
async fn a_change_that_was_made_already_is_seen_when_it_returns() {
    for change in [Change::Disable, Change::Revoke] {
        // The other change is stored, but has not returned.
        let bench = Bench::new();
        let issued = bench.issue().await;
        let text = issued.secret().expose();
        bench.verify(text).await.unwrap();
        bench.store.hold_writes(true);
        let (keys, key) = (bench.keys.clone(), issued.clone());
        let first = tokio::spawn(async move { change.apply(&keys, &key).await });
        bench.store.written(2).await;
        change.apply(&bench.keys, &issued).await;
        assert_eq!(refusal(bench.verify(text).await), change.reason());
        bench.store.hold_writes(false);
        first.await.unwrap();

        // The other change was made by another instance.
        let bench = Bench::new();
        let issued = bench.issue().await;
        let text = issued.secret().expose();
        bench.verify(text).await.unwrap();
        change.apply(&bench.elsewhere(), &issued).await;
        bench.verify(text).await.unwrap();
        change.apply(&bench.keys, &issued).await;
        assert_eq!(refusal(bench.verify(text).await), change.reason());
    }
}

#[tokio::test]
async fn a_change_that_is_refused_because_of_another_shows_the_other() {
    let bench = Bench::new();
    let issued = bench.issue().await;
    let (id, text) = (issued.key().record.id, issued.secret().expose());
    bench.verify(text).await.unwrap();
    bench.elsewhere().revoke(id).await.unwrap();
    bench.keys.rotate(id, SECOND).await.unwrap_err();
    assert_eq!(refusal(bench.verify(text).await), DenialReason::Revoked);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_verification_that_starts_after_a_revocation_passes() {
    // Without a TTL a lookup is always in flight; with one the hits are tried.
    for ttl in [Duration::ZERO, TTL] {
        let bench = Bench::cached(CacheConfig::default().ttl(ttl));
        for _ in 0..100 {
            let issued = bench.issue().await;
            let revoked = Arc::new(AtomicBool::new(false));
            let (threads, verified) = (4, Arc::new(Barrier::new(5)));
            let verifying: Vec<_> = (0..threads)
                .map(|_| {
                    let (bench, text) = (bench.clone(), issued.secret().clone());
                    let (revoked, verified) = (Arc::clone(&revoked), Arc::clone(&verified));
                    tokio::spawn(async move {
                        bench.verify(text.expose()).await.unwrap();
                        verified.wait().await;
                        loop {
                            let was_revoked = revoked.load(Ordering::SeqCst);
                            let outcome = bench.verify(text.expose()).await;
                            if was_revoked {
                                return refusal(outcome);
                            }
                            // A hit never waits, and the revocation needs a thread as well.
                            tokio::task::yield_now().await;
                        }
                    })
                })
                .collect();
            verified.wait().await;
            bench.keys.revoke(issued.key().record.id).await.unwrap();
            revoked.store(true, Ordering::SeqCst);
            for thread in verifying {
                assert_eq!(thread.await.unwrap(), DenialReason::Revoked);
            }
        }
    }
}

#[tokio::test]
async fn to_invalidate_one_key_leaves_the_others() {
    let bench = Bench::new();
    // Floors are shared by keys that hash to one place; all of them do not.
    let issued = issue_many(&bench, 5).await;
    for key in &issued {
        bench.verify(key.secret().expose()).await.unwrap();
    }
    let verifier = bench.keys.verifier();
    verifier.invalidate(issued[0].key().record.id);
    bench.verify(issued[0].secret().expose()).await.unwrap();
    assert_eq!(bench.store.lookups(), 6);
    for key in &issued {
        bench.verify(key.secret().expose()).await.unwrap();
    }
    assert!(bench.store.lookups() < 10);
}

#[tokio::test]
async fn to_invalidate_all_forgets_keys_and_misses() {
    let bench = Bench::new();
    let issued = issue_many(&bench, 5).await;
    let unknown = unknown_key();
    for round in 1..=3 {
        for key in &issued {
            bench.verify(key.secret().expose()).await.unwrap();
        }
        refusal(bench.verify(unknown.expose()).await);
        assert_eq!(bench.store.lookups(), 6 * round);
        bench.keys.verifier().invalidate_all();
    }
}

#[tokio::test]
async fn to_invalidate_all_wins_over_lookups_in_flight() {
    let bench = Bench::built(|builder| builder.accept_imported(true));
    let issued = bench.issue().await;
    let text = issued.secret().expose();
    bench.store.hold_lookups(true);
    let early = [bench.begin(text), bench.begin(IMPORTED)];
    bench.store.begun(2).await;
    bench
        .elsewhere()
        .revoke(issued.key().record.id)
        .await
        .unwrap();
    import(&bench.elsewhere()).await;
    bench.keys.verifier().invalidate_all();
    let (revoked, imported) = (bench.begin(text), bench.begin(IMPORTED));
    settle().await;
    assert_eq!(bench.store.lookups(), 2);
    bench.store.hold_lookups(false);
    assert_eq!(refusal(revoked.await.unwrap()), DenialReason::Revoked);
    imported.await.unwrap().unwrap();
    for verification in early {
        let _ = verification.await.unwrap();
    }
}
