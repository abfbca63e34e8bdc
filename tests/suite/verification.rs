//! Which keys are good for what, in which order it is asked, and what it costs.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use tower_api_key::{
    ApiKey, ApiKeys, Attempt, Denial, DenialKind, DenialReason, KeyDigest, KeyFilter, KeyFormat,
    KeyHasher, KeyStore, KeyUpdate, LimitBy, NewKey, Pepper, RateLimit, Requirements, Verdict,
    Verified, Verifier,
};

use crate::core_support::{Bench, NANOSECOND, SECOND, almost, refusal, unknown_key};

async fn ask(keys: &ApiKeys, text: &str, needs: &Requirements) -> Result<Verified, Denial> {
    keys.verifier().verify(Attempt::new(text), needs).await
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[tokio::test]
async fn the_policy_is_asked_in_order() {
    let format = KeyFormat::new("sk").prefix("pk");
    let bench = Bench::built(|builder| builder.format(format));
    let new = NewKey::named("billing")
        .prefix("pk")
        .environment("test")
        .allowed_addresses(["10.0.0.0/8".parse().unwrap()])
        .limit(RateLimit::per_minute(1));
    let issued = bench.keys.issue(new).await.unwrap();
    let (id, text) = (issued.key().record.id, issued.secret().expose());
    let refused = async |attempt, needs: &Requirements| {
        refusal(bench.keys.verifier().verify(attempt, needs).await)
    };

    // Everything is wrong at first, and is put right one by one.
    bench.keys.disable(id).await.unwrap();
    let nowhere = Attempt::new(text);
    let needs = Requirements::new().scopes(["orders:read"]).cost(2);
    let needs = needs.environments(["live"]);
    let reason = refused(Attempt::new(&text[1..]), &needs).await;
    assert_eq!(reason, DenialReason::Malformed);
    let unknown = unknown_key();
    let reason = refused(Attempt::new(unknown.expose()), &needs).await;
    assert_eq!(reason, DenialReason::Unknown);
    assert_eq!(refused(nowhere, &needs).await, DenialReason::Disabled);
    bench.keys.enable(id).await.unwrap();
    assert_eq!(refused(nowhere, &needs).await, DenialReason::Prefix);
    let needs = needs.accept_prefixes(["pk"]);
    assert_eq!(refused(nowhere, &needs).await, DenialReason::Environment);
    let needs = needs.environments(["test"]);
    assert_eq!(refused(nowhere, &needs).await, DenialReason::Address);
    let elsewhere = nowhere.from_address(address("11.0.0.1"));
    assert_eq!(refused(elsewhere, &needs).await, DenialReason::Address);
    let there = nowhere.from_address(address("10.1.2.3"));
    assert_eq!(refused(there, &needs).await, DenialReason::Scope);
    let update = KeyUpdate::new().scopes(["orders:*"]);
    bench.keys.update(id, update).await.unwrap();
    assert_eq!(refused(there, &needs).await, DenialReason::Cost);
    let needs = needs.cost(1);
    let verified = bench.keys.verifier().verify(there, &needs).await.unwrap();
    assert_eq!(verified.principal().key_id(), id);
    assert_eq!(verified.principal().environment(), "test");
    assert_eq!(refused(there, &needs).await, DenialReason::Quota);
}

#[tokio::test]
async fn the_most_final_status_is_the_reason() {
    let bench = Bench::new();
    let end = bench.keys.now() + SECOND;
    let issued = bench.keys.issue(NewKey::named("billing").expires_at(end));
    let issued = issued.await.unwrap();
    let id = issued.key().record.id;
    let reason = async || refusal(bench.verify(issued.secret().expose()).await);
    bench.keys.disable(id).await.unwrap();
    assert_eq!(reason().await, DenialReason::Disabled);
    bench.clock.advance(SECOND);
    assert_eq!(reason().await, DenialReason::Expired);
    bench.keys.revoke(id).await.unwrap();
    assert_eq!(reason().await, DenialReason::Revoked);
}

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
async fn refused_requests_take_nothing_of_the_quota() {
    let bench = Bench::new();
    let new = NewKey::named("billing")
        .scopes(["orders:read"])
        .allowed_addresses(["10.0.0.0/8".parse().unwrap()])
        .limit(RateLimit::per_hour(5));
    let issued = bench.keys.issue(new).await.unwrap();
    let (id, text) = (issued.key().record.id, issued.secret().expose());
    let verifier = bench.keys.verifier();
    let route = [RateLimit::per_hour(5).named("route")];
    let reads = Requirements::new()
        .scopes(["orders:read"])
        .route_limits(route);
    let writes = reads.clone().scopes(["orders:write"]);
    let attempt = Attempt::new(text).from_address(address("10.0.0.1"));
    for _ in 0..20 {
        for (attempt, needs, kind) in [
            (attempt, &writes, DenialKind::InsufficientScope),
            (Attempt::new(text), &reads, DenialKind::AddressNotAllowed),
        ] {
            let denial = verifier.verify(attempt, needs).await.unwrap_err();
            assert_eq!(denial.kind(), kind);
            let left: Vec<_> = denial.limits().iter().map(|limit| limit.1).collect();
            assert_eq!(left.len(), 2, "a verified key is told its limits");
            assert!(left.iter().all(|status| status.remaining() == 5));
        }
    }
    bench.keys.disable(id).await.unwrap();
    for _ in 0..20 {
        let outcome = verifier.verify(attempt, &reads).await;
        assert_eq!(refusal(outcome), DenialReason::Disabled);
    }
    bench.keys.enable(id).await.unwrap();
    for left in (0..5).rev() {
        let passed = verifier.verify(attempt, &reads).await.unwrap();
        for (_, status) in passed.limits().iter() {
            assert_eq!(status.remaining(), left);
        }
    }
    let outcome = verifier.verify(attempt, &reads).await;
    assert_eq!(refusal(outcome), DenialReason::Quota);
}

fn pepper(id: &str, byte: u8) -> Pepper {
    Pepper::new(id, &[byte; 32]).unwrap()
}

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

#[tokio::test]
async fn a_kind_that_was_not_asked_for_opens_nothing() {
    let format = KeyFormat::new("sk")
        .prefix("pk")
        .prefix("rk")
        .environments(["live", "test", "sandbox"]);
    let bench = Bench::built(|builder| builder.format(format));
    let issue = async |prefix, environment| {
        let new = NewKey::named("billing");
        let new = new.prefix(prefix).environment(environment);
        let issued = bench.keys.issue(new).await.unwrap();
        let begins = format!("{prefix}_{environment}_");
        assert!(issued.secret().expose().starts_with(&begins));
        issued.into_parts().0
    };
    let secret = issue("sk", "live").await;
    let public = issue("pk", "live").await;
    let restricted = issue("rk", "sandbox").await;
    let good = async |needs: &Requirements| {
        let mut good = Vec::new();
        for key in [&secret, &public, &restricted] {
            good.push(ask(&bench.keys, key.expose(), needs).await.is_ok());
        }
        good
    };
    let any = Requirements::new();
    assert_eq!(good(&any).await, [true, false, false]);
    let public = any.clone().accept_prefixes(["pk"]);
    assert_eq!(good(&public).await, [true, true, false]);
    let all = public.accept_prefixes(["rk"]);
    assert_eq!(good(&all).await, [true, true, true]);
    let live = all.clone().environments(["live"]);
    assert_eq!(good(&live).await, [true, true, false]);
    let either = live.environments(["sandbox"]);
    assert_eq!(good(&either).await, [true, true, true]);
    assert_eq!(good(&all.environments(["test"])).await, [false; 3]);
}

#[tokio::test]
async fn a_list_of_addresses_binds() {
    let bench = Bench::new();
    let networks = ["10.0.0.0/8", "192.0.2.7/32", "2001:db8::/32"];
    let new = NewKey::named("billing");
    let new = new.allowed_addresses(networks.map(|network| network.parse().unwrap()));
    let issued = bench.keys.issue(new).await.unwrap();
    let attempt = Attempt::new(issued.secret().expose());
    let needs = Requirements::new();
    for (from, good) in [
        (None, false),
        (Some("10.255.0.1"), true),
        (Some("192.0.2.7"), true),
        (Some("192.0.2.8"), false),
        (Some("2001:db8:1::1"), true),
        (Some("2001:db9::1"), false),
        // As a socket for both families tells an IPv4 address.
        (Some("::ffff:10.0.0.1"), true),
        (Some("::ffff:11.0.0.1"), false),
    ] {
        let attempt = attempt.from_address(from.map(address));
        let outcome = bench.keys.verifier().verify(attempt, &needs).await;
        assert_eq!(outcome.is_ok(), good, "{from:?}");
    }
}

#[tokio::test]
async fn keys_of_one_owner_can_share_their_limits() {
    let bench = Bench::new();
    let issue = async |owner: Option<&str>| {
        let new = NewKey::named("billing").limit(RateLimit::per_hour(2));
        let new = match owner {
            Some(owner) => new.owner(owner),
            None => new,
        };
        let (secret, _) = bench.keys.issue(new).await.unwrap().into_parts();
        secret
    };
    let [first, second] = [issue(Some("acme")).await, issue(Some("acme")).await];
    let other = issue(Some("other")).await;
    let [none, nobody] = [issue(None).await, issue(None).await];
    let by_key = Requirements::new();
    let by_owner = Requirements::new().limit_by(LimitBy::Owner);
    let left = async |key: &ApiKey, needs| {
        let verified = ask(&bench.keys, key.expose(), needs).await.ok()?;
        let (_, status) = verified.limits().iter().next().unwrap();
        Some(status.remaining())
    };
    assert_eq!(left(&first, &by_owner).await, Some(1));
    assert_eq!(left(&second, &by_owner).await, Some(0));
    assert_eq!(left(&first, &by_owner).await, None);
    assert_eq!(left(&other, &by_owner).await, Some(1), "another owner");
    // Keys that belong to nobody do not belong together.
    assert_eq!(left(&none, &by_owner).await, Some(1));
    assert_eq!(left(&nobody, &by_owner).await, Some(1));
    // What the owner used up is not the key's own.
    assert_eq!(left(&first, &by_key).await, Some(1));
    assert_eq!(left(&second, &by_key).await, Some(1));
}

fn standing(verified: &Verified) -> Vec<(String, u64)> {
    let limits = verified.limits().iter();
    limits
        .map(|(limit, status)| (limit.name().to_owned(), status.remaining()))
        .collect()
}

#[tokio::test]
async fn default_limits_are_for_keys_without_their_own() {
    let bench = Bench::new();
    let with = NewKey::named("with").limit(RateLimit::per_minute(9));
    let with = bench.keys.issue(with).await.unwrap();
    let without = bench.keys.issue(NewKey::named("without")).await.unwrap();
    let needs = Requirements::new()
        .default_limits([RateLimit::per_hour(5), RateLimit::per_day(7)])
        .route_limits([RateLimit::per_second(3)]);
    let verified = ask(&bench.keys, with.secret().expose(), &needs).await;
    let expected = [("minute".into(), 8), ("second".into(), 2)];
    assert_eq!(standing(&verified.unwrap()), expected);
    let verified = ask(&bench.keys, without.secret().expose(), &needs).await;
    let expected = [("hour".into(), 4), ("day".into(), 6), ("second".into(), 2)];
    assert_eq!(standing(&verified.unwrap()), expected);
    let free = Requirements::new();
    let verified = ask(&bench.keys, without.secret().expose(), &free).await;
    assert!(verified.unwrap().limits().is_empty());
}

#[tokio::test]
async fn routes_share_limits_by_name_but_not_with_the_key() {
    let bench = Bench::new();
    let new = NewKey::named("billing").limit(RateLimit::per_hour(10));
    let issued = bench.keys.issue(new).await.unwrap();
    let text = issued.secret().expose();
    let left = async |needs: &Requirements| {
        let verified = ask(&bench.keys, text, needs).await.unwrap();
        let standing = standing(&verified);
        standing.iter().map(|(_, left)| *left).collect::<Vec<_>>()
    };
    let route = |limit: RateLimit| Requirements::new().route_limits([limit]);
    // The same name and window as the key's own, yet counted apart.
    let (search, export) = (route(RateLimit::per_hour(5)), route(RateLimit::per_hour(5)));
    assert_eq!(left(&search).await, [9, 4]);
    assert_eq!(left(&search).await, [8, 3]);
    assert_eq!(left(&export).await, [7, 2]);
    let named = route(RateLimit::per_hour(5).named("reports"));
    assert_eq!(left(&named).await, [6, 4]);
    assert_eq!(left(&export).await, [5, 1]);
}

#[tokio::test]
async fn limits_are_charged_all_or_none() {
    let bench = Bench::new();
    let new = NewKey::named("billing").limit(RateLimit::per_hour(10));
    let issued = bench.keys.issue(new).await.unwrap();
    let text = issued.secret().expose();
    let route = [RateLimit::per_hour(3).named("route")];
    let needs = Requirements::new().route_limits(route);
    for _ in 0..3 {
        ask(&bench.keys, text, &needs).await.unwrap();
    }
    for _ in 0..5 {
        let denial = ask(&bench.keys, text, &needs).await.unwrap_err();
        assert_eq!(denial.reason(), DenialReason::Quota);
        let violated: Vec<_> = denial.limits().violated().map(RateLimit::name).collect();
        assert_eq!(violated, ["route"]);
    }
    let verified = ask(&bench.keys, text, &Requirements::new()).await;
    assert_eq!(standing(&verified.unwrap()), [("hour".into(), 6)]);
}

#[tokio::test]
async fn a_request_takes_its_cost_and_may_come_again_when_it_is_told() {
    let bench = Bench::new();
    let new = NewKey::named("billing").limit(RateLimit::per_minute(10));
    let issued = bench.keys.issue(new).await.unwrap();
    let text = issued.secret().expose();
    let cost = |units| Requirements::new().cost(units);
    let left = async |units| {
        let verified = ask(&bench.keys, text, &cost(units)).await?;
        Ok::<_, Denial>(standing(&verified)[0].1)
    };
    assert_eq!(left(4).await.unwrap(), 6);
    assert_eq!(left(0).await.unwrap(), 6, "free, but told");
    bench.clock.advance(10 * SECOND);
    assert_eq!(left(6).await.unwrap(), 0);
    assert_eq!(left(0).await.unwrap(), 0, "free, also when nothing is left");
    let denial = left(4).await.unwrap_err();
    assert_eq!(denial.reason(), DenialReason::Quota);
    let wait = denial.retry_after().unwrap();
    bench.clock.advance(almost(wait));
    assert_eq!(left(4).await.unwrap_err().reason(), DenialReason::Quota);
    bench.clock.advance(NANOSECOND);
    assert_eq!(left(4).await.unwrap(), 0);

    let denial = left(11).await.unwrap_err();
    assert_eq!(denial.reason(), DenialReason::Cost);
    assert_eq!(denial.retry_after(), None, "to wait does not help");
    let (_, status) = denial.limits().iter().next().unwrap();
    assert_eq!(status.verdict(), Verdict::Impossible);
}

#[tokio::test]
async fn a_wall_clock_that_is_set_gives_no_quota() {
    let bench = Bench::new();
    let new = NewKey::named("billing").limit(RateLimit::per_minute(1));
    let issued = bench.keys.issue(new).await.unwrap();
    let text = issued.secret().expose();
    ask(&bench.keys, text, &Requirements::new()).await.unwrap();
    for wall in ["2020-01-01T00:00:00Z", "2030-01-01T00:00:00Z"] {
        bench.clock.set_wall(wall.parse().unwrap());
        let outcome = ask(&bench.keys, text, &Requirements::new()).await;
        assert_eq!(refusal(outcome), DenialReason::Quota);
    }
}

#[tokio::test]
async fn another_quota_of_a_limit_applies_to_what_was_counted() {
    let bench = Bench::new();
    let new = NewKey::named("billing").limit(RateLimit::per_hour(5));
    let issued = bench.keys.issue(new).await.unwrap();
    let (id, text) = (issued.key().record.id, issued.secret().expose());
    for _ in 0..5 {
        ask(&bench.keys, text, &Requirements::new()).await.unwrap();
    }
    for (quota, left) in [(7, Some(1)), (4, None), (9, Some(2))] {
        let update = KeyUpdate::new().limits([RateLimit::per_hour(quota)]);
        bench.keys.update(id, update).await.unwrap();
        let verified = ask(&bench.keys, text, &Requirements::new()).await;
        assert_eq!(verified.ok().map(|good| standing(&good)[0].1), left);
    }
}

#[tokio::test]
async fn too_many_bad_keys_from_one_address_spare_the_store() {
    let bench = Bench::built(|builder| builder.failed_attempts(RateLimit::per_minute(3)));
    let (known, cold) = (bench.issue().await, bench.issue().await);
    let needs = Requirements::new();
    let verify = async |key: &ApiKey, from: &str| {
        let attempt = Attempt::new(key.expose()).from_address(address(from));
        bench.keys.verifier().verify(attempt, &needs).await
    };
    let (bad, good) = ("2001:db8::1", "2001:db8:0:1::1");
    verify(known.secret(), bad).await.unwrap();
    for _ in 0..3 {
        let outcome = verify(&unknown_key(), bad).await;
        assert_eq!(refusal(outcome), DenialReason::Unknown);
    }
    let lookups = bench.store.lookups();
    // The whole network of one customer, and nobody else.
    for from in [bad, "2001:db8::ffff"] {
        for key in [&unknown_key(), cold.secret()] {
            let denial = verify(key, from).await.unwrap_err();
            assert_eq!(denial.kind(), DenialKind::TooManyFailures);
            assert!(denial.retry_after().is_some());
        }
        verify(known.secret(), from).await.unwrap();
    }
    assert_eq!(bench.store.lookups(), lookups);
    let outcome = verify(&unknown_key(), good).await;
    assert_eq!(refusal(outcome), DenialReason::Unknown);
    verify(cold.secret(), good).await.unwrap();
    verify(cold.secret(), bad).await.unwrap();

    let denial = verify(&unknown_key(), bad).await.unwrap_err();
    bench.clock.advance(almost(denial.retry_after().unwrap()));
    let outcome = verify(&unknown_key(), bad).await;
    assert_eq!(refusal(outcome), DenialReason::Failures);
    bench.clock.advance(NANOSECOND);
    let outcome = verify(&unknown_key(), bad).await;
    assert_eq!(refusal(outcome), DenialReason::Unknown);
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
        &bench.keys.events(id, 10).await.unwrap(),
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
