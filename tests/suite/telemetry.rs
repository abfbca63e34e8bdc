//! What logs and metrics are told.

use std::collections::BTreeSet;
use std::path::Path;

use axum::Router;
use axum::routing::get as on_get;
use metrics_exporter_prometheus::PrometheusBuilder;
use serde_json::json;
use tower_api_key::{ApiKeyLayer, Attempt, Credits, Issued, KeyDigest, NewKey, Requirements};

use crate::core_support::unknown_key;
use crate::log::Log;
use crate::server::{Server, command};
use crate::support::{Bench, SECOND, bearing, send};

fn app(layer: &ApiKeyLayer) -> Router {
    let handler = async || tracing::info!("the handler runs");
    Router::new().route("/", on_get(handler).layer(layer.clone()))
}

#[tokio::test]
async fn a_request_runs_in_a_span_that_tells_whose_it_is() {
    let bench = Bench::new();
    let issued = bench.issue(NewKey::named("x").owner("acme")).await;
    let secret = issued.secret().expose();
    let app = app(&bench.layer());
    let (log, _guard) = Log::capture();
    // Once from the store, and once from the cache.
    for _ in 0..2 {
        send(&app, bearing(secret)).await;
        let told = log.take();
        let line = told.lines().find(|line| line.contains("the handler runs"));
        let line = line.expect("it is logged");
        for field in [
            &format!("api_key{{key.id={}", issued.key().record.id),
            "key.environment=\"live\"",
            "key.owner=\"acme\"",
            "outcome=\"allowed\"",
        ] {
            assert!(line.contains(field), "{field}: {line}");
        }
        assert_eq!(line.matches("api_key{").count(), 1);
        assert!(!told.contains(&secret[16..]), "{told}");
    }
}

#[tokio::test]
async fn the_span_alone_can_be_switched_off() {
    let bench = Bench::new();
    let secret = bench.secret(NewKey::named("x")).await;
    let app = app(&bench.layer());
    let (log, _guard) = Log::capture_of("info,tower_api_key::span=off");
    send(&app, bearing(&secret)).await;
    send(&app, bearing("no key")).await;
    let told = log.take();
    assert!(told.contains("the handler runs"), "{told}");
    assert!(told.contains("a request was refused"), "{told}");
    assert!(!told.contains("api_key{"), "{told}");
}

#[tokio::test]
async fn a_refusal_tells_the_same_and_why() {
    let bench = Bench::new();
    let issued = bench.issue(NewKey::named("x").owner("acme")).await;
    let (id, secret) = (issued.key().record.id, issued.secret().expose());
    bench.keys.revoke(id).await.unwrap();
    let app = app(&bench.layer());
    let (log, _guard) = Log::capture();
    send(&app, bearing(secret)).await;
    let whole = log.take();
    for field in [
        &format!("key.id={id}"),
        "key.environment=\"live\"",
        "key.owner=\"acme\"",
        "outcome=\"denied\"",
        "reason=\"revoked\"",
    ] {
        assert!(whole.contains(field), "{field}: {whole}");
    }
    assert!(!whole.contains("the handler runs"));
    // Elsewhere than over HTTP as well.
    let attempt = Attempt::new(secret);
    _ = bench
        .keys
        .verifier()
        .verify(attempt, &Requirements::new())
        .await;
    let other = log.take();
    assert!(other.contains("reason=\"revoked\""), "{other}");
    for told in [whole, other] {
        assert!(!told.contains(&secret[16..]), "{told}");
        let digest = serde_json::to_string(&KeyDigest::sha256(secret)).unwrap();
        assert!(!told.contains(&digest[1..9]), "{told}");
    }
}

#[tokio::test]
async fn a_flood_of_bad_keys_does_not_flood_the_log() {
    let bench = Bench::new();
    let issued = bench.issue(NewKey::named("x")).await;
    let (app, lacking) = (app(&bench.layer()), app(&bench.layer().scopes(["a"])));
    let (log, _guard) = Log::capture();
    let refused = |log: &Log| log.take().matches("a request was refused").count();
    for _ in 0..500 {
        send(&app, bearing(unknown_key().expose())).await;
    }
    assert_eq!(refused(&log), 20);
    // What is told of a key that is known is not lost in it.
    send(&lacking, bearing(issued.secret().expose())).await;
    assert_eq!(refused(&log), 1);
    bench.clock.advance(SECOND);
    send(&app, bearing("nonsense")).await;
    let told = log.take();
    assert!(told.contains("untold=480"), "{told}");
}

/// The value of a metric, by its name and labels as they are written.
fn value(metrics: &str, name: &str) -> Option<f64> {
    let mut lines = metrics.lines();
    lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

#[test]
fn the_dashboard_shows_what_is_told() {
    let told = include_str!("../../src/telemetry/mod.rs");
    let dashboard = include_str!("../../docs/grafana.json");
    let names = regex::Regex::new("api_key_[a-z_]+").unwrap();
    let shown: BTreeSet<_> = names
        .find_iter(dashboard)
        .map(|name| name.as_str().trim_end_matches("_bucket"))
        .collect();
    let documented: BTreeSet<_> = names.find_iter(told).map(|name| name.as_str()).collect();
    assert_eq!(shown, documented);
}

#[tokio::test]
async fn it_is_told_what_becomes_of_credits() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let bench = crate::core_support::Bench::new();
    let issue = async |credits| {
        let new = NewKey::named("x").credits(Credits::new(credits));
        bench.keys.issue(new).await.unwrap()
    };
    let (rich, poor) = (issue(1_000).await, issue(1).await);
    let spend = async |key: &Issued| {
        let attempt = Attempt::new(key.secret().expose());
        let needs = Requirements::new();
        bench.keys.verifier().verify(attempt, &needs).await.is_ok()
    };
    // One credit by itself, and nine with the second request.
    assert!(spend(&rich).await && spend(&rich).await);
    assert!(spend(&poor).await && !spend(&poor).await);
    // For everybody who asks within a second there is one answer.
    assert!(!spend(&poor).await);
    bench.keys.flush().await.unwrap();
    bench.keys.flush().await.unwrap();
    // And 73, of which two are spent.
    assert!(spend(&rich).await && spend(&rich).await);
    bench.keys.flush().await.unwrap();
    bench.store.fail(true);
    assert!(bench.keys.flush().await.is_err());
    assert!(!spend(&rich).await);
    let told = handle.render();
    for (name, wanted) in [
        (r#"api_key_credit_leases_total{outcome="granted"}"#, 4.0),
        (r#"api_key_credit_leases_total{outcome="short"}"#, 1.0),
        (r#"api_key_credit_leases_total{outcome="failed"}"#, 1.0),
        (r#"api_key_credit_returns_total{outcome="written"}"#, 1.0),
        (r#"api_key_credit_returns_total{outcome="failed"}"#, 1.0),
        (
            r#"api_key_credits_total{flow="leased"}"#,
            1.0 + 9.0 + 1.0 + 73.0,
        ),
        (r#"api_key_credits_total{flow="returned"}"#, 8.0),
        (r#"api_key_credits_total{flow="lost"}"#, 71.0),
    ] {
        assert_eq!(value(&told, name), Some(wanted), "{name}: {told}");
    }
}

#[tokio::test]
async fn the_gauge_shows_how_many_keys_are_in_the_cache() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let bench = crate::core_support::Bench::new();
    let entries = |kind: &str| {
        let name = format!("api_key_cache_entries{{kind=\"{kind}\"}}");
        value(&handle.render(), &name)
    };
    for number in 1..=3_u8 {
        let issued = bench.issue().await;
        bench.verify(issued.secret().expose()).await.unwrap();
        assert_eq!(entries("keys"), Some(number.into()));
        bench.verify(unknown_key().expose()).await.unwrap_err();
        assert_eq!(entries("unknown"), Some(number.into()));
        // What is loaded again takes the place of what was there.
        bench.keys.verifier().invalidate_all();
        bench.verify(issued.secret().expose()).await.unwrap();
        assert_eq!(entries("keys"), Some(number.into()));
    }
}

#[test]
fn the_example_tells_prometheus_what_happens() {
    let mut command = command(Path::new("sqlite::memory:"));
    let server = Server::spawn(command.env("FAILED_ATTEMPTS_PER_MINUTE", "1000"));
    let admin = server.admin_key();
    let new = json!({"name": "x", "scopes": ["orders:read"]});
    let (_, issued) = server.call("POST", "/admin/keys", Some(&admin), Some(new));
    let key = issued["secret"].as_str().unwrap();
    for _ in 0..200 {
        assert_eq!(server.call("GET", "/v1/orders", Some(key), None).0, 200);
    }
    for bad in ["nonsense", unknown_key().expose(), unknown_key().expose()] {
        assert_eq!(server.call("GET", "/v1/orders", Some(bad), None).0, 401);
    }
    let (status, metrics) = server.call("GET", "/metrics", None, None);
    let metrics = metrics.as_str().unwrap();
    assert_eq!(status, 200);
    for (name, wanted) in [
        (r#"api_key_verifications_total{outcome="allowed"}"#, 201.0),
        (
            r#"api_key_verifications_total{outcome="denied",reason="malformed"}"#,
            1.0,
        ),
        (
            r#"api_key_verifications_total{outcome="denied",reason="unknown"}"#,
            2.0,
        ),
        (r#"api_key_cache_lookups_total{result="miss"}"#, 4.0),
        (r#"api_key_cache_lookups_total{result="hit"}"#, 199.0),
        (r#"api_key_store_lookups_total{outcome="found"}"#, 2.0),
        (r#"api_key_store_lookups_total{outcome="unknown"}"#, 2.0),
        (
            r#"api_key_verification_duration_seconds_count{path="store"}"#,
            4.0,
        ),
        ("api_key_store_lookup_duration_seconds_count", 4.0),
    ] {
        assert_eq!(value(metrics, name), Some(wanted), "{name}: {metrics}");
    }
    for line in metrics.lines().filter(|line| !line.starts_with('#')) {
        assert!(!line.contains("key_0"), "no label is an id: {line}");
    }
    assert!(metrics.contains("# TYPE api_key_verification_duration_seconds histogram"));
    assert!(metrics.contains("# HELP api_key_cache_lookups_total "));
    server.stop("TERM");
}
