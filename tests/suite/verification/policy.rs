//! What is asked of a key, and in which order.

use tower_api_key::{
    ApiKey, Attempt, DenialKind, DenialReason, KeyFormat, KeyUpdate, NewKey, RateLimit,
    Requirements,
};

use super::{address, ask};
use crate::core_support::{Bench, NANOSECOND, SECOND, almost, refusal, unknown_key};

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
