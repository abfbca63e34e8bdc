//! Under which peppers, and from where, keys are accepted.

use tower_api_key::{
    Attempt, DenialKind, DenialReason, KeyDigest, KeyHasher, KeyStore, NewKey, Requirements,
    Verifier,
};

use super::pepper;
use crate::core_support::{Bench, refusal, unknown_key};

#[tokio::test]
async fn keys_verify_under_the_peppers_that_are_accepted() {
    let bench = Bench::built(|builder| builder.hasher(KeyHasher::peppered(pepper("2025", 1))));
    let issued = bench.issue().await;
    assert_eq!(issued.key().credentials[0].pepper.as_deref(), Some("2025"));
    let plain = bench.elsewhere().issue(NewKey::named("plain")).await;
    let plain = plain.unwrap();
    assert_eq!(plain.key().credentials[0].pepper, None);
    let unpeppered = KeyDigest::sha256(issued.secret().expose());
    let stored = bench.memory.find(&unpeppered).await.unwrap();
    assert_eq!(stored, None, "no plain digest is stored");

    let outcomes = async |hasher: KeyHasher| {
        let verifier = Verifier::builder(bench.memory.clone())
            .clock(bench.clock.clone())
            .hasher(hasher)
            .build_verifier();
        let mut good = [false; 2];
        for (good, secret) in good.iter_mut().zip([issued.secret(), plain.secret()]) {
            let attempt = Attempt::new(secret.expose());
            // Cold, and from the cache.
            for _ in 0..2 {
                let outcome = verifier.verify(attempt, &Requirements::new()).await;
                *good = outcome.is_ok();
                if let Err(denial) = outcome {
                    assert_eq!(denial.reason(), DenialReason::Unknown);
                }
            }
        }
        good
    };
    let (old, new) = (|| pepper("2025", 1), || pepper("2026", 2));
    let peppered = KeyHasher::peppered;
    assert_eq!(outcomes(peppered(old())).await, [true, false]);
    let both = peppered(old()).accept_unpeppered();
    assert_eq!(outcomes(both).await, [true, true]);
    assert_eq!(outcomes(peppered(new())).await, [false, false]);
    let moved = peppered(new()).accept(old());
    assert_eq!(outcomes(moved.clone()).await, [true, false]);
    assert_eq!(outcomes(moved.accept_unpeppered()).await, [true, true]);
    assert_eq!(outcomes(KeyHasher::sha256()).await, [false, true]);
    let accepting = KeyHasher::sha256().accept(old());
    assert_eq!(outcomes(accepting).await, [true, true]);
    // The id names a pepper; its secret is what counts.
    let renamed = pepper("renamed", 1);
    assert_eq!(outcomes(peppered(renamed)).await, [true, false]);
    let impostor = pepper("2025", 9);
    assert_eq!(outcomes(peppered(impostor)).await, [false, false]);
}

#[tokio::test]
async fn imported_keys_verify_only_where_they_are_accepted() {
    let formatted = unknown_key();
    let long = "x".repeat(256);
    let texts = ["x", "a/b+c==", &long, formatted.expose()];
    for accepted in [false, true] {
        for peppered in [false, true] {
            let bench = Bench::built(|builder| {
                let builder = builder.accept_imported(accepted);
                if peppered {
                    builder.hasher(KeyHasher::peppered(pepper("2025", 1)))
                } else {
                    builder
                }
            });
            for text in texts {
                let new = NewKey::named("old").scopes(["orders:read"]);
                let digest = KeyDigest::sha256(text);
                bench.keys.import(new, digest, "").await.unwrap();
            }
            for text in texts.into_iter().chain(texts) {
                let outcome = bench.verify(text).await;
                if accepted {
                    assert_eq!(outcome.unwrap().principal().name(), "old");
                } else {
                    let denial = outcome.unwrap_err();
                    assert_eq!(denial.kind(), DenialKind::InvalidKey);
                }
            }
            // What can be no key is refused without a lookup.
            let before = bench.store.lookups();
            let longer = "x".repeat(257);
            for text in ["", " x", "x y", "x\n", "schlüssel", &longer] {
                let reason = refusal(bench.verify(text).await);
                assert_eq!(reason, DenialReason::Malformed, "{text}");
            }
            assert_eq!(bench.store.lookups(), before);
        }
    }
}
