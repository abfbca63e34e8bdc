//! Ends, and for how long what was read is used.

use std::time::Duration;

use tower_api_key::{CacheConfig, DenialReason, NewKey};

use super::TTL;
use crate::core_support::{Bench, NANOSECOND, SECOND, almost, refusal, unknown_key, verify};

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
