//! What a request is charged, and to whom.

use tower_api_key::{
    ApiKey, Attempt, Denial, DenialKind, DenialReason, KeyUpdate, LimitBy, NewKey, RateLimit,
    Requirements, Verdict, Verified,
};

use super::{address, ask};
use crate::core_support::{Bench, NANOSECOND, SECOND, almost, refusal};

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
