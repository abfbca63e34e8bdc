//! What nobody is shown.

use std::fmt;
use std::time::Duration;

use tower_api_key::{
    ApiKeys, Attempt, DenialKind, DenialReason, KeyDigest, KeyFilter, KeyFormat, KeyHasher,
    KeyStore, NewKey, RateLimit, Requirements,
};

use super::{ask, pepper};
use crate::core_support::{Bench, SECOND, unknown_key};

#[tokio::test]
async fn every_bad_credential_gets_one_identical_answer() {
    let format = KeyFormat::new("sk").prefix("pk");
    let bench = Bench::built(|builder| builder.format(format));
    let limited = || NewKey::named("billing").limit(RateLimit::per_minute(1));
    let issue = async |new| bench.keys.issue(new).await.unwrap();
    let (revoked, disabled) = (issue(limited()).await, issue(limited()).await);
    let expired = issue(limited().expires_at(bench.keys.now() + SECOND)).await;
    let rotated = issue(limited()).await;
    let public = issue(limited().prefix("pk")).await;
    let test = issue(limited().environment("test")).await;
    bench.keys.revoke(revoked.key().record.id).await.unwrap();
    bench.keys.disable(disabled.key().record.id).await.unwrap();
    let id = rotated.key().record.id;
    bench.keys.rotate(id, Duration::ZERO).await.unwrap();
    bench.clock.advance(SECOND);
    let imported = unknown_key();
    let digest = KeyDigest::sha256(imported.expose());
    bench.keys.import(limited(), digest, "").await.unwrap();

    let needs = Requirements::new()
        .environments(["live"])
        .scopes(["orders:read"])
        .default_limits([RateLimit::per_minute(1)]);
    for (text, reason) in [
        ("no key", DenialReason::Malformed),
        (unknown_key().expose(), DenialReason::Unknown),
        (revoked.secret().expose(), DenialReason::Revoked),
        (disabled.secret().expose(), DenialReason::Disabled),
        (expired.secret().expose(), DenialReason::Expired),
        (rotated.secret().expose(), DenialReason::Expired),
        (public.secret().expose(), DenialReason::Prefix),
        (test.secret().expose(), DenialReason::Environment),
        (imported.expose(), DenialReason::Imported),
    ] {
        let denial = ask(&bench.keys, text, &needs).await.unwrap_err();
        assert_eq!(denial.reason(), reason);
        assert_eq!(denial.kind(), DenialKind::InvalidKey);
        assert_eq!(denial.to_string(), "the API key is not valid");
        assert!(denial.required_scopes().is_empty(), "{reason:?}");
        assert!(denial.limits().is_empty(), "{reason:?}");
        assert_eq!(denial.retry_after(), None);
        assert!(std::error::Error::source(&denial).is_none());
    }
}

#[tokio::test]
async fn no_debug_shows_a_secret_or_a_digest() {
    let hasher = KeyHasher::peppered(pepper("2025", 0xa7)).accept_unpeppered();
    let bench = Bench::built(|builder| builder.hasher(hasher.clone()));
    let new = NewKey::named("billing").limit(RateLimit::per_minute(1));
    let issued = bench.keys.issue(new.clone()).await.unwrap();
    let id = issued.key().record.id;
    let text = issued.secret().expose().to_owned();
    let attempt = Attempt::new(&text);
    let needs = Requirements::new();
    let verifier = bench.keys.verifier();
    let passed = verifier.verify(attempt, &needs).await.unwrap();
    let limited = verifier.verify(attempt, &needs).await.unwrap_err();
    bench.keys.flush().await.unwrap();
    bench.keys.disable(id).await.unwrap();
    let disabled = verifier.verify(attempt, &needs).await.unwrap_err();
    let credential = issued.key().credentials[0].clone();
    let digest = credential.digest;
    let taken = bench
        .keys
        .import(new.clone(), digest, "")
        .await
        .unwrap_err();
    let imported = KeyDigest::sha256(&text);
    let import = bench.keys.import(new.clone(), imported, "imported").await;
    let stored = bench.memory.find(&digest).await.unwrap();
    let format = KeyFormat::new("sk");
    let builder = ApiKeys::builder(bench.store.clone()).hasher(hasher.clone());
    let layer = tower_api_key::ApiKeyLayer::new(&bench.keys);
    bench.store.fail(true);
    bench.keys.verifier().invalidate_all();
    let outage = verifier.verify(attempt, &needs).await.unwrap_err();
    bench.store.fail(false);

    let everything: &[&dyn fmt::Debug] = &[
        issued.secret(),
        &issued,
        issued.key(),
        &credential,
        &digest,
        &hasher,
        &format.parse(&text).unwrap(),
        &format,
        &new,
        &verifier,
        &bench.keys,
        &bench.keys.acting_as("somebody"),
        &builder,
        &layer,
        &attempt,
        &needs,
        &passed,
        passed.principal(),
        &limited,
        &disabled,
        &outage,
        &taken,
        &import.unwrap(),
        &stored,
        &bench.keys.events(id, None, 10).await.unwrap(),
        &bench.keys.list(&KeyFilter::default()).await.unwrap(),
        &bench.store,
    ];
    let hidden = &text[issued.secret().start().len()..];
    let mut forbidden = vec![hidden[..6].to_owned(), "167, 167".into(), "a7a7".into()];
    for digest in [digest, imported] {
        let hex = serde_json::to_string(&digest).unwrap();
        forbidden.push(hex[1..9].to_owned());
        forbidden.push(hex[1..9].to_uppercase());
        let bytes = digest.as_bytes();
        forbidden.push(format!("{}, {}, {}", bytes[0], bytes[1], bytes[2]));
    }
    for value in everything {
        for shown in [format!("{value:?}"), format!("{value:#?}")] {
            for secret in &forbidden {
                assert!(!shown.contains(secret), "{secret} is in {shown}");
            }
        }
    }
    // Nor does any message.
    let messages = [
        limited.to_string(),
        disabled.to_string(),
        outage.to_string(),
        taken.to_string(),
    ];
    for message in messages {
        assert!(forbidden.iter().all(|secret| !message.contains(secret)));
    }
}
