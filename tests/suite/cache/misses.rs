//! What the store does not know: remembered briefly, apart, and until it is there.

use std::time::Duration;

use tower_api_key::{CacheConfig, DenialReason};

use super::{IMPORTED, import};
use crate::core_support::{Bench, NANOSECOND, SECOND, almost, refusal, settle, unknown_key};

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
