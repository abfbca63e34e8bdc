//! Keys that were seen in clear text.

use std::time::Duration;

use http::HeaderName;
use tower_api_key::{
    CredentialSources, EventAction, Issued, KeyFormat, KeyStatus, NewKey, RateLimit,
};

use crate::clients::{app, from};
use crate::core_support::unknown_key;
use crate::log::Log;
use crate::support::{Bench, bearing, get, send};

/// Waits for what the layer does in the background.
pub(super) async fn until_disabled(bench: &Bench, issued: &Issued) {
    let until = tokio::time::Instant::now() + crate::support::SECOND * 10;
    while status_of(bench, issued).await == KeyStatus::Active {
        assert!(tokio::time::Instant::now() < until, "it stays active");
        tokio::task::yield_now().await;
    }
}

/// Lets all work end that was begun in the background: nothing of it waits for time to pass.
async fn until_idle() {
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
}

async fn status_of(bench: &Bench, issued: &Issued) -> KeyStatus {
    let key = bench.keys.get(issued.key().record.id).await.unwrap();
    key.record.status(bench.keys.now())
}

#[tokio::test]
async fn a_key_that_was_seen_in_clear_text_is_disabled_on_request() {
    let bench = Bench::new();
    let issued = bench.issue(NewKey::named("x")).await;
    let app = app(&bench.layer().disable_exposed(&bench.keys));
    let secret = issued.secret().expose();
    for wrong in [unknown_key().expose(), "nonsense"] {
        assert_eq!(send(&app, from("192.0.2.1", &[], wrong)).await.status, 403);
    }
    assert_eq!(send(&app, from("192.0.2.1", &[], secret)).await.status, 403);
    // In the background, so that the time of the answer shows nothing.
    until_disabled(&bench, &issued).await;
    assert_eq!(status_of(&bench, &issued).await, KeyStatus::Disabled);
    let events = bench.keys.events(issued.key().record.id, None, 9);
    let events = events.await.unwrap().events;
    let last = events.first().unwrap();
    assert_eq!(last.action, EventAction::Disabled);
    assert_eq!(last.actor.as_deref(), Some("clear_text"));
    assert_eq!(bench.used(&issued).await, (0, 0));
}

#[tokio::test]
async fn each_credential_among_several_is_exposed() {
    let bench = Bench::new();
    let sources = CredentialSources::default()
        .header(HeaderName::from_static("x-old-key"))
        .query_parameter("k");
    let layer = bench.layer().sources(sources).disable_exposed(&bench.keys);
    let app = app(&layer);
    let mut issued = Vec::new();
    for _ in 0..8 {
        issued.push(bench.issue(NewKey::named("x")).await);
    }
    let secret = |index: usize| issued[index].secret().expose();
    let (first, second) = (
        format!("Bearer {}", secret(0)),
        format!("bearer  {}", secret(1)),
    );
    let list = format!("{}, {}", secret(2), secret(3));
    let list_of_schemes = format!("Bearer {},Bearer {}", secret(4), secret(5));
    let lines: [(&str, &[u8]); 6] = [
        ("authorization", first.as_bytes()),
        ("authorization", second.as_bytes()),
        ("authorization", list_of_schemes.as_bytes()),
        ("authorization", b"Basic bm9ib2R5"),
        ("x-api-key", secret(6).as_bytes()),
        ("x-old-key", list.as_bytes()),
    ];
    let answer = send(&app, get(&format!("/?k={}", secret(7)), &lines)).await;
    assert_eq!(
        (answer.status, &*answer.code()),
        (403, "insecure_transport")
    );
    for issued in &issued {
        until_disabled(&bench, issued).await;
    }
}

#[tokio::test]
async fn only_secret_kinds_that_the_layer_accepts_are_disabled() {
    let format = KeyFormat::new("sk").prefix("pk").secret_prefix("rk");
    let bench = Bench::with(|builder| builder.format(format));
    let layer = bench.layer().disable_exposed(&bench.keys);
    let layer = layer.accept_prefixes(["pk"]).environments(["live"]);
    let (narrow, wide) = (app(&layer), app(&layer.accept_prefixes(["rk"])));
    let kind = |prefix, environment| {
        let key = NewKey::named("x").prefix(prefix).environment(environment);
        bench.issue(key)
    };
    let publishable = kind("pk", "live").await;
    let restricted = kind("rk", "live").await;
    let of_test = kind("sk", "test").await;
    let secret = kind("sk", "live").await;
    for issued in [&publishable, &restricted, &of_test, &secret] {
        let answer = send(&narrow, bearing(issued.secret().expose())).await;
        assert_eq!(answer.code(), "insecure_transport");
    }
    until_disabled(&bench, &secret).await;
    until_idle().await;
    for kept in [&publishable, &restricted, &of_test] {
        assert_eq!(status_of(&bench, kept).await, KeyStatus::Active);
        let answer = send(&wide, bearing(kept.secret().expose())).await;
        assert_eq!(answer.code(), "insecure_transport");
    }
    until_disabled(&bench, &restricted).await;
    until_idle().await;
    for kept in [&publishable, &of_test] {
        assert_eq!(status_of(&bench, kept).await, KeyStatus::Active);
    }
    // Not by an inner layer either.
    let outer = bench.layer().accept_prefixes(["pk"]);
    for inner in [&layer, &bench.layer().disable_exposed(&bench.keys)] {
        let nested = app(inner).layer(outer.clone());
        let answer = send(&nested, bearing(publishable.secret().expose())).await;
        assert_eq!(answer.code(), "insecure_transport");
    }
    let nested = app(&layer).layer(outer);
    let answer = send(&nested, bearing(of_test.secret().expose())).await;
    assert_eq!(answer.code(), "insecure_transport");
    until_idle().await;
    for kept in [&publishable, &of_test] {
        assert_eq!(status_of(&bench, kept).await, KeyStatus::Active);
    }
}

#[tokio::test]
async fn guesses_in_clear_text_count_as_failed_attempts() {
    let bench = Bench::with(|builder| builder.failed_attempts(RateLimit::per_minute(4)));
    let layer = bench.layer();
    let (clear, tls) = (app(&layer.disable_exposed(&bench.keys)), app(&layer));
    let known = bench.issue(NewKey::named("known")).await;
    let disabled = bench.issue(NewKey::named("disabled")).await;
    bench.keys.disable(disabled.key().record.id).await.unwrap();
    let unknown = unknown_key();
    let guesses = [unknown.expose(), "nonsense", disabled.secret().expose(), ""];
    let mut answers = Vec::new();
    for guess in guesses {
        answers.push(send(&clear, from("192.0.2.1", &[], guess)).await);
        until_idle().await;
    }
    let lookups = bench.store.lookups();
    assert_eq!(lookups, 2, "the two that could be keys");
    // From here on the address is one with too many failures, and the answer is the same.
    for _ in 0..50 {
        answers.push(send(&clear, from("192.0.2.1", &[], unknown_key().expose())).await);
        until_idle().await;
    }
    assert_eq!(bench.store.lookups(), lookups, "nothing more was looked up");
    assert!(answers.iter().all(|answer| *answer == answers[0]));
    assert_eq!(answers[0].code(), "insecure_transport");
    let over_tls = send(&tls, from("192.0.2.1", &[], unknown_key().expose())).await;
    assert_eq!(over_tls.code(), "too_many_failures");
    let elsewhere = send(&tls, from("192.0.2.2", &[], known.secret().expose())).await;
    assert_eq!(elsewhere.status, 200);
}

#[tokio::test]
async fn good_keys_in_clear_text_are_no_failed_attempts() {
    let bench = Bench::with(|builder| builder.failed_attempts(RateLimit::per_minute(1)));
    let layer = bench.layer().accept_prefixes(["pk"]);
    let (clear, tls) = (app(&layer.disable_exposed(&bench.keys)), app(&layer));
    let publishable = bench.secret(NewKey::named("x").prefix("pk")).await;
    for _ in 0..5 {
        send(&clear, from("192.0.2.1", &[], &publishable)).await;
        until_idle().await;
    }
    let other = bench.secret(NewKey::named("x")).await;
    assert_eq!(send(&tls, from("192.0.2.1", &[], &other)).await.status, 200);
}

#[tokio::test]
async fn a_flood_in_clear_text_does_not_flood_the_logs() {
    let (log, _guard) = Log::capture();
    let bench = Bench::new();
    let app = app(&bench.layer().disable_exposed(&bench.keys));
    let mut secrets = Vec::new();
    for _ in 0..30 {
        secrets.push(bench.issue(NewKey::named("x")).await);
    }
    for issued in &secrets {
        send(&app, bearing(issued.secret().expose())).await;
        until_disabled(&bench, issued).await;
    }
    until_idle().await;
    let disabled = "a key was sent in clear text and is disabled";
    assert_eq!(log.all().matches(disabled).count(), 20);
    bench.clock.advance(Duration::from_secs(1));
    let last = bench.issue(NewKey::named("x")).await;
    send(&app, bearing(last.secret().expose())).await;
    until_disabled(&bench, &last).await;
    until_idle().await;
    let line = log.all();
    let line = line.lines().rfind(|line| line.contains(disabled)).unwrap();
    assert!(line.contains("untold=10"), "{line}");

    // Nor does one of unknown keys while the store is down.
    bench.clock.advance(Duration::from_secs(1));
    bench.store.fail(true);
    for _ in 0..50 {
        send(&app, bearing(unknown_key().expose())).await;
        until_idle().await;
    }
    let failed = "a key that was sent in clear text could not be disabled";
    let count = log.all().matches(failed).count();
    assert!((1..=20).contains(&count), "{count}");
    for secret in &secrets {
        assert!(!log.all().contains(secret.secret().expose()));
    }
}
