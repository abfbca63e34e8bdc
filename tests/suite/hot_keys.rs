//! What is asked for again and again is decided on in a shorter way, and must not be decided on in
//! another one.

use std::time::Duration;

use tower_api_key::{
    ApiKeys, Attempt, CacheConfig, DenialReason, Issued, KeyDigest, KeyFormat, KeyHasher,
    KeyUpdate, NewKey, Pepper, RateLimit, Requirements,
};

use crate::core_support::{Bench, SECOND, almost, refusal, verify};

const TTL: Duration = Duration::from_mins(1);
/// Often enough for anything to be remembered.
const OFTEN: usize = 4;

#[tokio::test]
async fn a_text_that_differs_from_a_hot_one_in_one_byte_is_unknown() {
    // Imported ones, for no checksum stands before the cache there.
    let bench = Bench::built(|builder| builder.accept_imported(true));
    let needs = Requirements::new();
    for length in [1, 55, 61, 62, 63, 124, 125, 255] {
        let text = "k".repeat(length);
        let digest = KeyDigest::sha256(&text);
        let new = NewKey::named("old");
        let imported = bench.keys.import(new, digest, "").await.unwrap();
        let verify = async |text: &str| {
            let verifier = bench.keys.verifier();
            verifier.verify(Attempt::new(text), &needs).await
        };
        for _ in 0..OFTEN {
            let verified = verify(&text).await.unwrap();
            assert_eq!(verified.principal().key_id(), imported.record.id);
        }
        let changed = (0..length).map(|place| {
            let mut changed = text.clone();
            changed.replace_range(place..=place, "j");
            changed
        });
        let others = changed.chain([format!("{text}k")]);
        for other in others {
            for _ in 0..2 {
                let reason = refusal(verify(&other).await);
                assert_eq!(reason, DenialReason::Unknown, "{other}");
            }
        }
        verify(&text).await.unwrap();
    }
}

#[tokio::test]
async fn more_keys_than_there_are_places_are_each_taken_for_themselves() {
    // 32,768 places in pairs: for about every tenth key there is none in its pair.
    let bench = Bench::cached(CacheConfig::default().capacity(24_000));
    let needs = Requirements::new();
    let mut issued = Vec::new();
    for _ in 0..20_000 {
        issued.push(bench.issue().await);
    }
    for _ in 0..3 {
        for one in &issued {
            let attempt = Attempt::new(one.secret().expose());
            let verified = bench.keys.verifier().verify(attempt, &needs).await.unwrap();
            assert_eq!(verified.principal().key_id(), one.key().record.id);
        }
        // Which of them has to give way depends on the time.
        bench.clock.advance(Duration::from_nanos(64));
    }
    assert_eq!(bench.store.lookups(), issued.len());
}

#[tokio::test]
async fn each_route_asks_for_its_own_also_of_a_hot_key() {
    let format = KeyFormat::new("sk").prefix("pk");
    let bench = Bench::built(|builder| builder.format(format));
    let new = NewKey::named("page").prefix("pk").scopes(["a", "b"]);
    let issued = bench.keys.issue(new).await.unwrap();
    let page = || Requirements::new().accept_prefixes(["pk"]);
    let fits = page().scopes(["a"]);
    let routes = [
        (page(), None),
        (fits.clone(), None),
        (fits.clone().scopes(["b"]), None),
        (fits.clone().environments(["live"]), None),
        (fits.clone().scopes(["c"]), Some(DenialReason::Scope)),
        (
            fits.clone().environments(["test"]),
            Some(DenialReason::Environment),
        ),
        (
            Requirements::new().scopes(["a"]),
            Some(DenialReason::Prefix),
        ),
        (Requirements::new(), Some(DenialReason::Prefix)),
    ];
    let verify = async |needs| {
        let attempt = Attempt::new(issued.secret().expose());
        let outcome = bench.keys.verifier().verify(attempt, needs).await;
        outcome.err().map(|denial| denial.reason())
    };
    for (before, _) in &routes {
        for (needs, expected) in &routes {
            verify(before).await;
            for _ in 0..2 {
                assert_eq!(verify(needs).await, *expected);
            }
        }
    }
}

#[tokio::test]
async fn a_hot_key_whose_scopes_change_is_held_against_the_new_ones() {
    let bench = Bench::new();
    let issued = bench.issue().await;
    let needs = Requirements::new().scopes(["orders:read"]);
    let verify = async || {
        let attempt = Attempt::new(issued.secret().expose());
        bench.keys.verifier().verify(attempt, &needs).await
    };
    let grant = async |scope: &str| {
        let update = KeyUpdate::new().scopes([scope]);
        bench
            .keys
            .update(issued.key().record.id, update)
            .await
            .unwrap();
    };
    for _ in 0..OFTEN {
        verify().await.unwrap();
    }
    grant("orders:list").await;
    for _ in 0..OFTEN {
        assert_eq!(refusal(verify().await), DenialReason::Scope);
    }
    grant("orders:*").await;
    verify().await.unwrap();
}

#[tokio::test]
async fn a_change_of_a_key_wins_although_other_keys_changed_before() {
    let bench = Bench::new();
    let issued = [
        bench.issue().await,
        bench.issue().await,
        bench.issue().await,
    ];
    let id = |one: &Issued| one.key().record.id;
    let verify = async |one: &Issued| bench.verify(one.secret().expose()).await;
    for _ in 0..OFTEN {
        for one in &issued {
            verify(one).await.unwrap();
        }
    }
    let [first, second, third] = &issued;
    bench.keys.revoke(id(first)).await.unwrap();
    for _ in 0..OFTEN {
        verify(second).await.unwrap();
    }
    bench.keys.disable(id(second)).await.unwrap();
    for _ in 0..OFTEN {
        verify(third).await.unwrap();
        assert_eq!(refusal(verify(first).await), DenialReason::Revoked);
        assert_eq!(refusal(verify(second).await), DenialReason::Disabled);
    }
    bench.keys.enable(id(second)).await.unwrap();
    verify(second).await.unwrap();
    bench.keys.revoke(id(third)).await.unwrap();
    assert_eq!(refusal(verify(third).await), DenialReason::Revoked);
}

#[tokio::test]
async fn a_hot_key_of_any_pepper_ends_when_it_is_revoked() {
    let pepper = |id| Pepper::new(id, &[id.len().try_into().unwrap(); 32]).unwrap();
    let issuing = [
        KeyHasher::sha256(),
        KeyHasher::peppered(pepper("older")),
        KeyHasher::peppered(pepper("new")),
    ];
    for hasher in issuing {
        let old = Bench::built(|builder| builder.hasher(hasher));
        let issued = old.issue().await;
        let accepting = KeyHasher::peppered(pepper("new"))
            .accept(pepper("older"))
            .accept_unpeppered();
        let keys = ApiKeys::builder(old.memory.clone())
            .clock(old.clock.clone())
            .hasher(accepting)
            .build();
        let text = issued.secret().expose();
        for _ in 0..OFTEN {
            verify(keys.verifier(), text).await.unwrap();
        }
        keys.revoke(issued.key().record.id).await.unwrap();
        let outcome = verify(keys.verifier(), text).await;
        assert_eq!(refusal(outcome), DenialReason::Revoked);
    }
}

#[tokio::test]
async fn a_change_elsewhere_is_seen_when_the_ttl_of_a_hot_key_ends() {
    let bench = Bench::built(|builder| builder.cache(CacheConfig::default().ttl(TTL)));
    let issued = bench.issue().await;
    let text = issued.secret().expose();
    bench.verify(text).await.unwrap();
    let elsewhere = bench.elsewhere();
    elsewhere.revoke(issued.key().record.id).await.unwrap();
    for _ in 0..OFTEN {
        bench.verify(text).await.unwrap();
    }
    bench.clock.advance(almost(TTL));
    bench.verify(text).await.unwrap();
    bench.clock.advance(SECOND);
    assert_eq!(refusal(bench.verify(text).await), DenialReason::Revoked);
}

#[tokio::test]
async fn keys_of_one_plan_are_counted_apart() {
    let bench = Bench::new();
    let key = |name| {
        NewKey::named(name)
            .scopes(["orders:read"])
            .limit(RateLimit::per_minute(2))
            .limit(RateLimit::per_day(100))
    };
    let [one, other] = [
        bench.keys.issue(key("one")).await.unwrap(),
        bench.keys.issue(key("other")).await.unwrap(),
    ];
    for issued in [one, other] {
        let text = issued.secret().expose();
        for left in [1, 0] {
            let verified = bench.verify(text).await.unwrap();
            let remaining = verified
                .limits()
                .iter()
                .map(|(_, status)| status.remaining());
            assert_eq!(remaining.collect::<Vec<_>>(), [left, 98 + left]);
        }
        assert_eq!(refusal(bench.verify(text).await), DenialReason::Quota);
    }
}
