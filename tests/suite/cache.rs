//! What is remembered of the store, and for how long it is trusted.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Barrier;
use tokio::time::Instant;
use tower_api_key::testing::{ManualClock, ScriptedStore};
use tower_api_key::{
    ApiKeys, CacheConfig, DenialReason, Issued, KeyDigest, KeyHasher, KeyStore, KeyUpdate,
    MemoryStore, NewKey, OutageKind, Pepper, StoreError, StoredKey, Verifier,
};

use crate::core_support::{
    Bench, NANOSECOND, SECOND, almost, outage, refusal, settle, unknown_key, verify,
};

const TTL: Duration = Duration::from_mins(1);
const STALE: Duration = Duration::from_mins(10);

#[tokio::test]
async fn a_thousand_cold_verifications_are_one_lookup() {
    let bench = Bench::new();
    let issued = bench.issue().await;
    bench.store.hold_lookups(true);
    let waiting: Vec<_> = (0..1_000)
        .map(|_| bench.begin(issued.secret().expose()))
        .collect();
    bench.store.begun(1).await;
    settle().await;
    bench.store.hold_lookups(false);
    for verification in waiting {
        verification.await.unwrap().unwrap();
    }
    assert_eq!(bench.store.lookups(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_thousand_cold_verifications_on_many_threads_are_one_lookup() {
    let bench = Bench::new();
    let issued = bench.issue().await;
    let together = Arc::new(Barrier::new(1_000));
    let waiting: Vec<_> = (0..1_000)
        .map(|_| {
            let (bench, text) = (bench.clone(), issued.secret().clone());
            let together = Arc::clone(&together);
            tokio::spawn(async move {
                together.wait().await;
                bench.verify(text.expose()).await
            })
        })
        .collect();
    for verification in waiting {
        verification.await.unwrap().unwrap();
    }
    assert_eq!(bench.store.lookups(), 1);
}

#[tokio::test]
async fn a_lookup_outlives_the_request_that_started_it() {
    let bench = Bench::new();
    let issued = bench.issue().await;
    bench.store.hold_lookups(true);
    let first = bench.begin(issued.secret().expose());
    bench.store.begun(1).await;
    let others: Vec<_> = (0..10)
        .map(|_| bench.begin(issued.secret().expose()))
        .collect();
    settle().await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    bench.store.hold_lookups(false);
    for verification in others {
        verification.await.unwrap().unwrap();
    }
    assert_eq!(bench.store.lookups(), 1);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_left_of_requests_that_all_went_away() {
    // One lookup at a time and none that waits: what leaked would stand in the way of the next.
    let config = CacheConfig::default().max_lookups(1).max_waiting_lookups(1);
    let memory = Arc::new(MemoryStore::new());
    let store = ScriptedStore::new(Arc::clone(&memory));
    let issued = ApiKeys::builder(Arc::clone(&memory))
        .build()
        .issue(NewKey::named("billing").scopes(["orders:read"]))
        .await
        .unwrap();
    let verifier = Verifier::builder(store.clone())
        .cache(config)
        .build_verifier();
    let begin = |text: &str| {
        let (verifier, text) = (verifier.clone(), text.to_owned());
        tokio::spawn(async move { verify(&verifier, &text).await })
    };

    store.hold_lookups(true);
    let text = issued.secret().expose();
    let gone: Vec<_> = (0..10).map(|_| begin(text)).collect();
    store.begun(1).await;
    settle().await;
    for verification in gone {
        verification.abort();
        assert!(verification.await.unwrap_err().is_cancelled());
    }
    store.hold_lookups(false);
    settle().await;
    verify(&verifier, text).await.unwrap();
    assert_eq!(store.lookups(), 1, "what was found for nobody is kept");

    // The same for a lookup that no answer ever comes to.
    store.hold_lookups(true);
    let gone = begin(unknown_key().expose());
    store.begun(2).await;
    gone.abort();
    tokio::time::sleep(2 * SECOND + Duration::from_millis(1)).await;
    store.hold_lookups(false);
    let unknown = unknown_key();
    assert_eq!(
        refusal(verify(&verifier, unknown.expose()).await),
        DenialReason::Unknown
    );

    drop((verifier, store));
    // The task that writes use ends, and with it the last hold on the store.
    tokio::time::sleep(11 * SECOND).await;
    assert_eq!(Arc::strong_count(&memory), 1);
}

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
async fn random_keys_push_out_no_real_one() {
    let config = CacheConfig::default().capacity(10).miss_capacity(10);
    let bench = Bench::cached(config);
    let issued = bench.issue().await;
    bench.verify(issued.secret().expose()).await.unwrap();
    for _ in 0..3_000 {
        let reason = refusal(bench.verify(unknown_key().expose()).await);
        assert_eq!(reason, DenialReason::Unknown);
    }
    let before = bench.store.lookups();
    bench.verify(issued.secret().expose()).await.unwrap();
    assert_eq!(bench.store.lookups(), before);
}

#[tokio::test]
async fn garbage_never_reaches_the_store() {
    let bench = Bench::new();
    let issued = bench.issue().await;
    let text = issued.secret().expose();
    let other = if text.ends_with('x') { "y" } else { "x" };
    let typo = format!("{}{other}", &text[..text.len() - 1]);
    for text in ["", "x", typo.as_str(), &text[1..], &text.repeat(5)] {
        let reason = refusal(bench.verify(text).await);
        assert_eq!(reason, DenialReason::Malformed, "{text}");
    }
    assert_eq!(bench.store.lookups(), 0);
}

#[tokio::test]
async fn misses_are_remembered_for_their_ttl() {
    let bench = Bench::cached(CacheConfig::default().miss_ttl(5 * SECOND));
    let text = unknown_key();
    for (advance, lookups) in [
        (Duration::ZERO, 1),
        (almost(5 * SECOND), 1),
        (NANOSECOND, 2),
        (SECOND, 2),
    ] {
        bench.clock.advance(advance);
        let reason = refusal(bench.verify(text.expose()).await);
        assert_eq!(reason, DenialReason::Unknown);
        assert_eq!(bench.store.lookups(), lookups);
    }
}

#[tokio::test]
async fn misses_are_bounded() {
    let bench = Bench::cached(CacheConfig::default().miss_capacity(10));
    let texts: Vec<_> = (0..3_000).map(|_| unknown_key()).collect();
    for text in texts.iter().chain(&texts) {
        assert_eq!(
            refusal(bench.verify(text.expose()).await),
            DenialReason::Unknown
        );
    }
    // The cache may lag behind its bound by as many as it writes down at one time.
    assert!(
        bench.store.lookups() > 5_000,
        "{} lookups",
        bench.store.lookups()
    );
}

const IMPORTED: &str = "an-old-key-of-another-make";

async fn import(keys: &ApiKeys) {
    let new = NewKey::named("old").scopes(["orders:read"]);
    let digest = KeyDigest::sha256(IMPORTED);
    keys.import(new, digest, "an-old").await.unwrap();
}

#[tokio::test]
async fn a_key_that_was_missing_works_once_it_is_there() {
    let bench = Bench::built(|builder| builder.accept_imported(true));
    assert_eq!(refusal(bench.verify(IMPORTED).await), DenialReason::Unknown);
    import(&bench.keys).await;
    bench.verify(IMPORTED).await.unwrap();
    assert_eq!(bench.store.lookups(), 2);
}

#[tokio::test]
async fn a_key_works_although_a_lookup_was_about_to_miss_it() {
    let bench = Bench::built(|builder| builder.accept_imported(true));
    bench.store.hold_lookups(true);
    let early = bench.begin(IMPORTED);
    bench.store.begun(1).await;
    import(&bench.keys).await;
    let joining = bench.begin(IMPORTED);
    settle().await;
    assert_eq!(bench.store.lookups(), 1, "it joined the old flight");
    bench.store.hold_lookups(false);
    joining.await.unwrap().unwrap();
    let _ = early.await.unwrap();
    bench.verify(IMPORTED).await.unwrap();
}

#[tokio::test]
async fn a_key_works_although_a_lookup_for_nobody_missed_it() {
    let bench = Bench::built(|builder| builder.accept_imported(true));
    bench.store.hold_lookups(true);
    let early = bench.begin(IMPORTED);
    bench.store.begun(1).await;
    import(&bench.keys).await;
    early.abort();
    bench.store.hold_lookups(false);
    settle().await;
    bench.verify(IMPORTED).await.unwrap();
}

async fn issue_many(bench: &Bench, keys: usize) -> Vec<Issued> {
    let mut issued = Vec::new();
    for _ in 0..keys {
        issued.push(bench.issue().await);
    }
    issued
}

#[tokio::test]
async fn lookups_in_flight_are_capped_and_the_others_wait_their_turn() {
    let bench = Bench::cached(CacheConfig::default().max_lookups(4));
    let issued = issue_many(&bench, 20).await;
    bench.store.hold_lookups(true);
    let waiting: Vec<_> = issued
        .iter()
        .map(|key| bench.begin(key.secret().expose()))
        .collect();
    bench.store.begun(4).await;
    settle().await;
    assert_eq!(bench.store.lookups(), 4);
    bench.store.hold_lookups(false);
    for verification in waiting {
        verification.await.unwrap().unwrap();
    }
    assert_eq!(bench.store.lookups(), 20);
}

#[tokio::test(start_paused = true)]
async fn a_lookup_ends_at_its_deadline_also_while_it_waits_for_its_turn() {
    let config = CacheConfig::default()
        .max_lookups(4)
        .lookup_deadline(3 * SECOND);
    let bench = Bench::cached(config);
    let issued = issue_many(&bench, 6).await;
    bench.store.hold_lookups(true);
    let began = Instant::now();
    let waiting: Vec<_> = issued
        .iter()
        .map(|key| bench.begin(key.secret().expose()))
        .collect();
    for verification in waiting {
        assert_eq!(outage(verification.await.unwrap()), OutageKind::Deadline);
    }
    let waited = began.elapsed();
    assert!(waited >= 3 * SECOND && waited < 4 * SECOND, "{waited:?}");
    // Whoever waited for a turn may get one in the instant in which all of them end.
    bench.store.hold_lookups(false);
    for key in &issued {
        bench.verify(key.secret().expose()).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn too_many_waiting_lookups_are_an_outage_at_once() {
    let config = CacheConfig::default().max_lookups(1).max_waiting_lookups(2);
    let bench = Bench::cached(config);
    let issued = issue_many(&bench, 3).await;
    let text = |key: usize| issued[key].secret().expose();
    bench.store.hold_lookups(true);
    // Those who wait for the same key are one lookup.
    let waiting: Vec<_> = [0, 0, 0, 1, 1, 1]
        .map(|key| bench.begin(text(key)))
        .into_iter()
        .collect();
    bench.store.begun(1).await;
    settle().await;
    let began = Instant::now();
    assert_eq!(outage(bench.verify(text(2)).await), OutageKind::Overloaded);
    assert_eq!(began.elapsed(), Duration::ZERO);
    bench.store.hold_lookups(false);
    for verification in waiting {
        verification.await.unwrap().unwrap();
    }
    bench.verify(text(2)).await.unwrap();
}

#[tokio::test]
async fn a_store_that_fails_is_an_outage_and_no_denial() {
    let bench = Bench::new();
    let issued = bench.issue().await;
    bench.store.fail(true);
    for text in [issued.secret(), &unknown_key()] {
        let outcome = bench.verify(text.expose()).await;
        assert_eq!(outage(outcome), OutageKind::Store);
    }
    bench.store.fail(false);
    bench.verify(issued.secret().expose()).await.unwrap();
}

#[tokio::test]
async fn a_known_key_survives_an_outage_for_the_stated_time() {
    let config = CacheConfig::default().ttl(TTL).stale_if_error(STALE);
    let bench = Bench::cached(config);
    let issued = bench.issue().await;
    let text = issued.secret().expose();
    bench.verify(text).await.unwrap();
    bench.store.fail(true);
    for advance in [TTL, SECOND, almost(STALE.saturating_sub(SECOND))] {
        bench.clock.advance(advance);
        for _ in 0..3 {
            bench.verify(text).await.unwrap();
        }
    }
    bench.clock.advance(NANOSECOND);
    assert_eq!(outage(bench.verify(text).await), OutageKind::Store);
    bench.store.fail(false);
    bench.verify(text).await.unwrap();
}

#[tokio::test]
async fn an_expired_key_does_not_survive_in_an_outage() {
    let bench = Bench::cached(CacheConfig::default().ttl(TTL).stale_if_error(STALE));
    let end = bench.keys.now() + 2 * TTL;
    let new = NewKey::named("billing").scopes(["orders:read"]);
    let issued = bench.keys.issue(new.expires_at(end)).await.unwrap();
    let text = issued.secret().expose();
    bench.verify(text).await.unwrap();
    bench.store.fail(true);
    bench.clock.advance(almost(2 * TTL));
    bench.verify(text).await.unwrap();
    bench.clock.advance(NANOSECOND);
    assert_eq!(refusal(bench.verify(text).await), DenialReason::Expired);
}

#[tokio::test(start_paused = true)]
async fn known_keys_do_not_wait_for_a_store_that_hangs() {
    let config = CacheConfig::default().ttl(TTL).stale_if_error(STALE);
    let bench = Bench::cached(config.lookup_deadline(2 * SECOND));
    let issued = issue_many(&bench, 2).await;
    let [text, other] = [0, 1].map(|key| issued[key].secret().expose());
    bench.verify(text).await.unwrap();
    bench.verify(other).await.unwrap();
    bench.store.hold_lookups(true);
    bench.clock.advance(TTL);
    let began = Instant::now();
    bench.verify(text).await.unwrap();
    assert!(began.elapsed() >= 2 * SECOND, "the first one finds it out");
    assert_eq!(bench.store.lookups(), 3);

    for round in 1..=3 {
        // Until a second has passed, nobody asks.
        let began = Instant::now();
        for _ in 0..100 {
            bench.verify(text).await.unwrap();
            bench.verify(other).await.unwrap();
        }
        assert_eq!(began.elapsed(), Duration::ZERO);
        assert_eq!(bench.store.lookups(), 2 + round);

        // Then one does, and the others still do not wait.
        bench.clock.advance(SECOND);
        let waiting: Vec<_> = (0..10)
            .flat_map(|_| [bench.begin(text), bench.begin(other)])
            .collect();
        settle().await;
        assert_eq!(bench.store.lookups(), 3 + round);
        let waits = waiting.iter().filter(|task| !task.is_finished()).count();
        assert_eq!(waits, 1);
        for verification in waiting {
            verification.await.unwrap().unwrap();
        }
    }

    // It recovers by itself.
    bench.store.hold_lookups(false);
    bench.clock.advance(SECOND);
    bench.verify(text).await.unwrap();
    let lookups = bench.store.lookups();
    for _ in 0..10 {
        bench.verify(text).await.unwrap();
        bench.verify(other).await.unwrap();
    }
    assert_eq!(
        bench.store.lookups(),
        lookups + 1,
        "the other one is read anew at once, and both are fresh then"
    );
}

#[tokio::test]
async fn an_invalidated_key_is_not_served_in_an_outage() {
    let bench = Bench::new();
    let issued = issue_many(&bench, 2).await;
    let texts = [0, 1].map(|key| issued[key].secret().expose());
    for text in texts {
        bench.verify(text).await.unwrap();
    }
    bench.keys.revoke(issued[0].key().record.id).await.unwrap();
    let verifier = bench.keys.verifier();
    verifier.invalidate(issued[1].key().record.id);
    bench.store.fail(true);
    for _ in 0..3 {
        for text in texts {
            assert_eq!(outage(bench.verify(text).await), OutageKind::Store);
        }
        bench.clock.advance(SECOND);
    }
    bench.store.fail(false);
    assert_eq!(refusal(bench.verify(texts[0]).await), DenialReason::Revoked);
    bench.verify(texts[1]).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_key_of_an_older_pepper_survives_an_outage_too() {
    let pepper = |id| Pepper::new(id, &[id.len().try_into().unwrap(); 32]).unwrap();
    let bench = Bench::built(|builder| {
        let hasher = KeyHasher::peppered(pepper("older"));
        builder.hasher(hasher)
    });
    let issued = bench.issue().await;
    let store = ScriptedStore::new(bench.memory.clone());
    let verifier = Verifier::builder(store.clone())
        .clock(bench.clock.clone())
        .hasher(KeyHasher::peppered(pepper("new")).accept(pepper("older")))
        .build_verifier();
    let text = issued.secret().expose();
    verify(&verifier, text).await.unwrap();
    assert_eq!(store.lookups(), 2, "one for each pepper");

    // Longer than a miss is remembered.
    bench.clock.advance(30 * SECOND);
    store.hold_lookups(true);
    let began = Instant::now();
    verify(&verifier, text).await.unwrap();
    assert_eq!(store.lookups(), 2, "a hit is a hit under any pepper");
    assert_eq!(began.elapsed(), Duration::ZERO);

    bench.clock.advance(TTL);
    verify(&verifier, text).await.unwrap();
    let began = Instant::now();
    for _ in 0..10 {
        verify(&verifier, text).await.unwrap();
    }
    assert_eq!(
        began.elapsed(),
        Duration::ZERO,
        "the store is known to hang"
    );
    bench.clock.advance(SECOND);
    verify(&verifier, text).await.unwrap();
}

#[tokio::test]
async fn the_hottest_keys_survive_an_outage_also_in_a_full_cache() {
    // Hits in the table in front are not seen by the cache behind it, which drops the entry.
    let bench = Bench::cached(CacheConfig::default().capacity(0));
    let issued = bench.issue().await;
    let text = issued.secret().expose();
    bench.verify(text).await.unwrap();
    for _ in 0..1_000 {
        refusal(bench.verify(unknown_key().expose()).await);
        bench.verify(text).await.unwrap();
    }
    bench.store.fail(true);
    bench.clock.advance(TTL);
    bench.verify(text).await.unwrap();
}

#[tokio::test]
async fn a_row_that_cannot_be_read_is_an_outage_of_that_key_only() {
    let bench = Bench::new();
    let issued = issue_many(&bench, 2).await;
    let store = Faulty::new(&bench.memory);
    let verifier = store.verifier(&bench.clock);
    let [broken, sound] = [0, 1].map(|key| issued[key].secret().expose());
    store.set(broken, Fault::Corrupt);
    verify(&verifier, sound).await.unwrap();
    for _ in 0..3 {
        let outcome = verify(&verifier, broken).await;
        assert_eq!(outage(outcome), OutageKind::Store);
    }
    // The store is not taken to be down: a known key is read anew at its TTL.
    let before = store.lookups();
    bench.clock.advance(TTL);
    verify(&verifier, sound).await.unwrap();
    assert_eq!(store.lookups(), before + 1);
    store.heal();
    verify(&verifier, broken).await.unwrap();
}

#[tokio::test]
async fn a_store_that_panics_is_an_outage_and_the_cache_recovers() {
    let bench = Bench::new();
    let issued = bench.issue().await;
    let text = issued.secret().expose();
    let store = Faulty::new(&bench.memory);
    let verifier = store.verifier(&bench.clock);
    store.set(text, Fault::Panic);
    for _ in 0..100 {
        let outcome = verify(&verifier, text).await;
        assert_eq!(outage(outcome), OutageKind::Store);
    }
    store.heal();
    verify(&verifier, text).await.unwrap();
    // And for a known key it is like any other failure.
    store.set(text, Fault::Panic);
    bench.clock.advance(TTL);
    verify(&verifier, text).await.unwrap();
}

#[tokio::test]
async fn a_key_is_refused_at_the_instant_of_its_end_cached_or_not() {
    let bench = Bench::cached(CacheConfig::default().ttl(100 * TTL));
    let new = NewKey::named("billing").scopes(["orders:read"]);
    let ten = new.expires_at(bench.keys.now() + 10 * SECOND);
    let key = bench.keys.issue(ten).await.unwrap();
    let rotated = bench.issue().await;
    let id = rotated.key().record.id;
    let successor = bench.keys.rotate(id, 10 * SECOND).await.unwrap();
    let texts = [key.secret().expose(), rotated.secret().expose()];
    for text in texts {
        bench.verify(text).await.unwrap();
    }
    bench.clock.advance(almost(10 * SECOND));
    for text in texts {
        bench.verify(text).await.unwrap();
        verify(bench.elsewhere().verifier(), text).await.unwrap();
    }
    bench.clock.advance(NANOSECOND);
    for text in texts {
        assert_eq!(refusal(bench.verify(text).await), DenialReason::Expired);
        let uncached = verify(bench.elsewhere().verifier(), text).await;
        assert_eq!(refusal(uncached), DenialReason::Expired);
    }
    assert_eq!(bench.store.lookups(), 2);
    bench.verify(successor.secret().expose()).await.unwrap();
}

#[tokio::test]
async fn a_key_that_ends_while_it_is_looked_up_is_refused() {
    let bench = Bench::new();
    let new = NewKey::named("billing").scopes(["orders:read"]);
    let ten = new.expires_at(bench.keys.now() + 10 * SECOND);
    let issued = bench.keys.issue(ten).await.unwrap();
    bench.store.hold_lookups(true);
    let waiting = bench.begin(issued.secret().expose());
    bench.store.begun(1).await;
    bench.clock.advance(10 * SECOND);
    bench.store.hold_lookups(false);
    assert_eq!(refusal(waiting.await.unwrap()), DenialReason::Expired);
}

#[tokio::test]
async fn a_wall_clock_that_is_set_moves_ends_but_not_the_cache() {
    let bench = Bench::cached(CacheConfig::default().ttl(TTL));
    let began = bench.keys.now();
    let new = NewKey::named("billing").scopes(["orders:read"]);
    let issued = bench.keys.issue(new.expires_at(began + TTL)).await.unwrap();
    let text = issued.secret().expose();
    bench.verify(text).await.unwrap();
    bench.clock.set_wall(began + TTL);
    assert_eq!(refusal(bench.verify(text).await), DenialReason::Expired);
    bench.clock.set_wall(began - 100 * TTL);
    bench.clock.advance(almost(TTL));
    bench.verify(text).await.unwrap();
    assert_eq!(bench.store.lookups(), 1);
    bench.clock.advance(NANOSECOND);
    bench.verify(text).await.unwrap();
    assert_eq!(bench.store.lookups(), 2);
}

#[tokio::test]
async fn a_key_is_remembered_for_its_ttl_exactly() {
    let bench = Bench::cached(CacheConfig::default().ttl(TTL));
    let issued = bench.issue().await;
    for (advance, lookups) in [
        (Duration::ZERO, 1),
        (almost(TTL), 1),
        (NANOSECOND, 2),
        (almost(TTL), 2),
        (TTL, 3),
    ] {
        bench.clock.advance(advance);
        bench.verify(issued.secret().expose()).await.unwrap();
        assert_eq!(bench.store.lookups(), lookups);
    }
}

#[tokio::test]
async fn the_ttl_counts_from_when_the_store_was_asked() {
    // What is answered late was read early: a change elsewhere in the meantime is not in it.
    let bench = Bench::cached(CacheConfig::default().ttl(TTL));
    let issued = bench.issue().await;
    let text = issued.secret().expose();
    bench.store.hold_lookups(true);
    let early = bench.begin(text);
    bench.store.begun(1).await;
    bench
        .elsewhere()
        .revoke(issued.key().record.id)
        .await
        .unwrap();
    bench.clock.advance(TTL / 2);
    bench.store.hold_lookups(false);
    early.await.unwrap().unwrap();
    bench.clock.advance(almost(TTL / 2));
    bench.verify(text).await.unwrap();
    bench.clock.advance(NANOSECOND);
    assert_eq!(refusal(bench.verify(text).await), DenialReason::Revoked);
}

#[tokio::test]
async fn without_a_ttl_every_verification_asks() {
    let config = CacheConfig::default()
        .ttl(Duration::ZERO)
        .miss_ttl(Duration::ZERO);
    let bench = Bench::cached(config);
    let issued = bench.issue().await;
    let unknown = unknown_key();
    for round in 1..=3 {
        bench.verify(issued.secret().expose()).await.unwrap();
        assert_eq!(bench.store.lookups(), 2 * round - 1);
        refusal(bench.verify(unknown.expose()).await);
        assert_eq!(bench.store.lookups(), 2 * round);
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

#[tokio::test]
async fn a_row_that_is_gone_is_gone_also_in_an_outage() {
    let bench = Bench::new();
    let issued = bench.issue().await;
    let text = issued.secret().expose();
    let store = Faulty::new(&bench.memory);
    let verifier = store.verifier(&bench.clock);
    verify(&verifier, text).await.unwrap();
    store.set(text, Fault::Gone);
    bench.clock.advance(TTL);
    assert_eq!(
        refusal(verify(&verifier, text).await),
        DenialReason::Unknown
    );
    store.set(text, Fault::Unavailable);
    bench.clock.advance(TTL);
    assert_eq!(outage(verify(&verifier, text).await), OutageKind::Store);
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    Corrupt,
    Gone,
    Panic,
    Unavailable,
}

/// A store with one digest that something is the matter with.
#[derive(Clone, Debug)]
struct Faulty {
    memory: MemoryStore,
    fault: Arc<Mutex<Option<(KeyDigest, Fault)>>>,
    lookups: Arc<AtomicUsize>,
}

impl Faulty {
    fn new(memory: &MemoryStore) -> Self {
        Self {
            memory: memory.clone(),
            fault: Arc::default(),
            lookups: Arc::default(),
        }
    }

    fn verifier(&self, clock: &ManualClock) -> Verifier {
        Verifier::builder(self.clone())
            .clock(clock.clone())
            .build_verifier()
    }

    fn set(&self, text: &str, fault: Fault) {
        *self.fault.lock().unwrap() = Some((KeyDigest::sha256(text), fault));
    }

    fn heal(&self) {
        *self.fault.lock().unwrap() = None;
    }

    fn lookups(&self) -> usize {
        self.lookups.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl KeyStore for Faulty {
    async fn find(&self, digest: &KeyDigest) -> Result<Option<StoredKey>, StoreError> {
        self.lookups.fetch_add(1, Ordering::SeqCst);
        let fault = *self.fault.lock().unwrap();
        match fault.filter(|(faulty, _)| faulty == digest) {
            None => self.memory.find(digest).await,
            Some((_, Fault::Corrupt)) => Err(StoreError::corrupt("key_1", "half a row")),
            Some((_, Fault::Gone)) => Ok(None),
            Some((_, Fault::Panic)) => panic!("the test says so"),
            Some((_, Fault::Unavailable)) => Err(StoreError::unavailable("the test says so")),
        }
    }
}
