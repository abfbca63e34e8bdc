//! Answers while the store fails.

use std::time::Duration;

use tower_api_key::{CacheConfig, NewKey};

use super::{app, refusal};
use crate::support::{Bench, SECOND, bearing, send};

#[tokio::test]
async fn a_store_that_fails_is_an_outage_for_keys_that_are_not_known() {
    let bench = Bench::new();
    let known = bench.secret(NewKey::named("known")).await;
    let other = bench.secret(NewKey::named("other")).await;
    let app = app(&bench.layer());
    assert_eq!(send(&app, bearing(&known)).await.status, 200);

    bench.store.fail(true);
    for _ in 0..2 {
        assert_eq!(send(&app, bearing(&other)).await, refusal("unavailable"));
        assert_eq!(send(&app, bearing(&known)).await.status, 200);
        // Past its TTL, within the time that it may be used during an outage.
        bench.clock.advance(Duration::from_mins(2));
    }
    bench.store.fail(false);
    assert_eq!(send(&app, bearing(&other)).await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_is_an_outage_after_the_deadline() {
    let config = CacheConfig::default().lookup_deadline(3 * SECOND);
    let bench = Bench::with(|builder| builder.cache(config));
    let key = bench.secret(NewKey::named("x")).await;
    let app = app(&bench.layer());
    bench.store.hold_lookups(true);
    let begun = tokio::time::Instant::now();
    assert_eq!(send(&app, bearing(&key)).await, refusal("unavailable"));
    let waited = begun.elapsed();
    assert!((3 * SECOND..4 * SECOND).contains(&waited), "{waited:?}");
    bench.store.hold_lookups(false);
    assert_eq!(send(&app, bearing(&key)).await.status, 200);
}
