//! Making, showing, changing and ending keys.

use std::sync::Arc;

use axum::body::Body;
use http::Request;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;
use tower_api_key::{
    ApiKeys, Attempt, KeyFormat, KeyRepository, KeyStore, Requirements, UsageBatch, UsageDelta,
    admin,
};

use super::{Said, Shell};
use crate::core_support::SHUTDOWN;
use crate::postgres::Database;

#[test]
fn the_secret_is_the_one_line_on_standard_output() {
    let shell = Shell::new();
    let said = shell.run(&["issue", "billing", "--owner", "acme"]);
    said.is(0);
    let secret = said.stdout.strip_suffix('\n').unwrap();
    assert!(KeyFormat::new("sk").parse(secret).is_ok(), "{secret}");
    assert!(said.stderr.contains("(billing)"), "{}", said.stderr);
    assert!(!said.stderr.contains(secret));
    // And never again.
    for arguments in [&["list"][..], &["list", "--json"]] {
        let listed = shell.run(arguments);
        assert!(listed.is(0).stdout.contains("billing"));
        assert!(!listed.stdout.contains(secret));
    }
}

#[test]
fn a_key_has_all_that_it_was_issued_with() {
    let shell = Shell::new();
    let issued = shell.json(&[
        "issue",
        "web",
        "--owner",
        "acme",
        "--prefix",
        "pk",
        "--environment",
        "test",
        "--scope",
        "orders:read",
        "--scope",
        "catalog:*",
        "--limit",
        "burst=100/60s",
        "--limit",
        "day=5/1d",
        "--credits",
        "500",
        "--refill",
        "1000/month",
        "--expires",
        "2999-01-31",
        "--metadata",
        "plan=pro=x",
        "--allow",
        "10.0.0.0/8",
        "--allow",
        "192.0.2.1",
    ]);
    let key = &issued["key"];
    assert!(issued["secret"].as_str().unwrap().starts_with("pk_test_"));
    let chosen = json!({
        "name": key["name"], "owner": key["owner"], "prefix": key["prefix"],
        "environment": key["environment"], "status": key["status"], "scopes": key["scopes"],
        "limits": key["limits"], "credits": key["credits"], "expires_at": key["expires_at"], "metadata": key["metadata"],
        "allowed_addresses": key["allowed_addresses"],
    });
    let expected = json!({
        "name": "web", "owner": "acme", "prefix": "pk", "environment": "test", "status": "active",
        "scopes": ["catalog:*", "orders:read"],
        "limits": [
            {"name": "burst", "quota": 100, "window_seconds": 60},
            {"name": "day", "quota": 5, "window_seconds": 86_400},
        ],
        "credits": {"remaining": 500, "refill": {"amount": 1_000, "every": "month"}},
        "expires_at": "2999-01-31T00:00:00Z", "metadata": {"plan": "pro=x"},
        "allowed_addresses": ["10.0.0.0/8", "192.0.2.1/32"],
    });
    assert_eq!(chosen, expected);
}

#[tokio::test]
async fn the_json_is_that_of_the_admin_router() {
    let shell = Shell::new();
    let (_, id) = shell.issue(&[
        "billing", "--owner", "acme", "--scope", "a:*", "--limit", "l=5/1s",
    ]);
    shell.issue(&[
        "other",
        "--expires",
        "90d",
        "--metadata",
        "a=b",
        "--allow",
        "10.0.0.0/8",
    ]);
    let (_, budget) = shell.issue(&["budget", "--credits", "7"]);
    let (_, refilled) = shell.issue(&["refilled", "--refill", "9/day"]);
    shell.run(&["rotate", &id]).is(0);
    shell.run(&["disable", &id]).is(0);
    let keys = ApiKeys::builder(shell.store().await).build();
    let (admin, _) = shell.issue(&["admin", "--scope", "*"]);
    let router = admin::router(&keys);
    let get = async |path: String| -> Value {
        let request = Request::get(path)
            .header("authorization", format!("Bearer {admin}"))
            .body(Body::empty())
            .unwrap();
        let answer = router.clone().oneshot(request).await.unwrap();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        serde_json::from_slice(&body).unwrap()
    };
    for (path, arguments) in [
        (format!("/keys/{id}"), &["show", &id][..]),
        ("/keys".to_owned(), &["list"]),
        ("/keys?limit=1".to_owned(), &["list", "--limit", "1"]),
        (
            "/keys?status=disabled".to_owned(),
            &["list", "--status", "disabled"],
        ),
        (format!("/keys/{budget}"), &["show", &budget]),
        (format!("/keys/{refilled}"), &["credits", &refilled]),
        (format!("/keys/{id}/events"), &["events", &id]),
    ] {
        let expected = get(path.clone()).await;
        assert_eq!(shell.json(arguments), expected, "{path}");
        assert!(!expected.to_string().contains("\"code\""), "{expected}");
    }
}

#[tokio::test]
async fn credits_are_shown_and_set() {
    let shell = Shell::new();
    let (secret, id) = shell.issue(&["trial", "--credits", "10"]);
    let keys = ApiKeys::builder(shell.store().await).build();
    let needs = Requirements::new().cost(4);
    let attempt = Attempt::new(&secret);
    keys.verifier().verify(attempt, &needs).await.unwrap();
    keys.shutdown(SHUTDOWN).await.unwrap();
    let says = |arguments: &[&str], text: &str| {
        let said = shell.run(&[&["credits", &id], arguments].concat());
        let line = said.is(0).stdout.trim_end().to_owned();
        let told = line.strip_prefix(&format!("{id} (trial): ")).unwrap();
        assert!(told.starts_with(text), "{arguments:?}: {told}");
        // The same everywhere, and what was not asked for did not change.
        let shown = shell.run(&["show", &id]).is(0).stdout.clone();
        let expected = if told.contains(" left") { told } else { "-" };
        let row = shown.lines().find(|line| line.starts_with("credits "));
        assert!(row.unwrap().ends_with(expected), "{shown}");
    };
    says(&[], "6 left");
    says(&["--set", "20"], "20 left");
    says(
        &["--refill", "100/day"],
        "100 left, refilled to 100 each day, next at ",
    );
    says(&["--set", "0"], "0 left, refilled to 100 each day");
    says(
        &["--set", "5", "--refill", "9/month"],
        "5 left, refilled to 9 each month",
    );
    let rotated = shell.json(&["rotate", &id]);
    let credits = json!({"remaining": 5, "refill": {"amount": 9, "every": "month"}});
    assert_eq!(rotated["key"]["credits"], credits);
    assert_eq!(shell.json(&["disable", &id])["credits"], credits);
    says(&["--set", "1", "--refill", "none"], "1 left");
    says(&["--unlimited"], "needs no credits");
    says(&[], "needs no credits");
    for (arguments, complaint) in [
        (&["--refill", "none"][..], "--set AMOUNT"),
        (&["--refill", "5/week"], "100/day or 1000/month"),
        (&["--refill", "0/day"], "credits.refill.amount"),
        (&["--set", "1000000000000001"], "credits.remaining"),
        (&["--set", "1", "--unlimited"], "--unlimited"),
    ] {
        let said = shell.run(&[&["credits", &id], arguments].concat());
        assert!(said.is(2).stderr.contains(complaint), "{}", said.stderr);
    }
    let actions = shell.json(&["events", &id])["events"].clone();
    assert_eq!(
        actions.as_array().unwrap().len(),
        1 + 5 + 2 + 1,
        "{actions}"
    );
}

#[test]
fn a_key_goes_through_its_life() {
    goes_through_its_life(&Shell::new());
}

#[test]
fn a_key_goes_through_its_life_in_postgres() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let name = "tower_api_key_of_the_cli";
    let database = runtime.block_on(Database::separate(name, "tower_api_key"));
    goes_through_its_life(&Shell::over(database.url()));
}

fn goes_through_its_life(shell: &Shell) {
    let (first, id) = shell.issue(&["billing", "--actor", "alice"]);
    let verify = |secret: &str| shell.feed(&["verify"], secret);
    verify(&first).is(0);

    let rotated = shell.run(&["rotate", &id, "--grace", "1h"]);
    let second = rotated.is(0).stdout.trim_end().to_owned();
    assert!(rotated.stderr.contains("end by"), "{}", rotated.stderr);
    verify(&first).is(0);
    verify(&second).is(0);
    let third = shell.json(&["rotate", &id, "--grace", "0"]);
    let third = third["secret"].as_str().unwrap();
    for (ended, secret) in [("first", &first), ("second", &second)] {
        let said = verify(secret);
        assert!(
            said.is(1).stdout.starts_with("not valid: expired"),
            "{ended}: {}",
            said.stdout
        );
    }

    assert_eq!(shell.json(&["disable", &id])["status"], "disabled");
    assert!(
        verify(third)
            .is(1)
            .stdout
            .starts_with("not valid: disabled")
    );
    assert_eq!(shell.json(&["enable", &id])["status"], "active");
    verify(third).is(0);
    assert_eq!(shell.json(&["revoke", &id])["status"], "revoked");
    assert_eq!(shell.json(&["revoke", &id])["status"], "revoked");
    assert!(verify(third).is(1).stdout.starts_with("not valid: revoked"));
    for refused in ["enable", "rotate"] {
        let said = shell.run(&[refused, &id]);
        assert!(
            said.is(2).stderr.contains("issue a new one"),
            "{}",
            said.stderr
        );
        assert_eq!(said.stdout, "");
    }

    let events = shell.json(&["events", &id]);
    let events: Vec<_> = events["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| {
            let text = |name: &str| event[name].as_str().unwrap();
            format!("{} {}", text("actor"), text("action"))
        })
        .collect();
    let expected = [
        "cli revoked",
        "cli enabled",
        "cli disabled",
        "cli rotated",
        "cli rotated",
        "alice issued",
    ];
    assert_eq!(events, expected);
    let newest = shell.json(&["events", &id, "--limit", "4"]);
    let next = newest["next_cursor"].as_str().unwrap();
    let older = shell.json(&["events", &id, "--before", next]);
    assert_eq!(older["events"].as_array().unwrap().len(), 2);
    assert_eq!(older["next_cursor"], Value::Null);
    let table = shell.run(&["events", &id, "--limit", "4"]);
    assert!(
        table.is(0).stderr.contains(&format!("--before {next}")),
        "{}",
        table.stderr
    );
    let table = shell.run(&["show", &id]);
    assert!(table.is(0).stdout.contains("revoked"), "{}", table.stdout);
}

#[tokio::test]
async fn use_is_added_up_by_the_hour_and_the_day() {
    let shell = Shell::new();
    let (secret, id) = shell.issue(&["billing"]);
    let store = shell.store().await;
    let digest = tower_api_key::KeyDigest::sha256(&secret);
    let deltas = [
        "2026-01-01T22:00:00Z",
        "2026-01-01T23:00:00Z",
        "2026-01-02T00:00:00Z",
    ];
    let deltas = deltas.map(|hour| UsageDelta {
        key: id.parse().unwrap(),
        credential: digest,
        hour: hour.parse().unwrap(),
        allowed: 10,
        denied: 1,
        last_used_at: None,
    });
    store
        .record_usage(&UsageBatch::new(deltas.into()))
        .await
        .unwrap();
    let usage = |more: &[&str]| {
        let period = [
            "usage",
            &id,
            "--from",
            "2026-01-01",
            "--to",
            "2026-01-03T00:00:00Z",
        ];
        shell.json(&[&period, more].concat())["buckets"].clone()
    };
    assert_eq!(usage(&[]).as_array().unwrap().len(), 3);
    assert_eq!(
        usage(&["--bucket", "day"]),
        json!([
            {"start": "2026-01-01T00:00:00Z", "allowed": 20, "denied": 2},
            {"start": "2026-01-02T00:00:00Z", "allowed": 10, "denied": 1},
        ])
    );
    let table = shell.run(&["usage", &id, "--from", "2026-01-01"]);
    let total = table.is(0).stdout.lines().last().unwrap().to_owned();
    assert_eq!(
        total.split_whitespace().collect::<Vec<_>>(),
        ["total", "30", "3"]
    );
    assert!(
        shell
            .run(&["usage", &id])
            .is(0)
            .stderr
            .starts_with("No use from")
    );
}

#[test]
fn a_key_is_rotated_whatever_its_prefix_is() {
    let shell = Shell::new();
    let (_, id) = shell.issue(&[
        "r",
        "--prefixes",
        "rk",
        "--environments",
        "eu",
        "--prefix",
        "rk",
        "--environment",
        "eu",
    ]);
    let Said { stdout, .. } = shell.run(&["rotate", &id]);
    assert!(stdout.starts_with("rk_eu_"), "{stdout}");
    let refused = shell.run(&["issue", "x", "--prefix", "rk"]);
    assert!(
        refused.is(2).stderr.contains("--prefixes"),
        "{}",
        refused.stderr
    );
}

#[tokio::test]
async fn a_pepper_goes_into_the_digest() {
    let shell = Shell::new();
    let pepper = shell.file("pepper", [7; 32]);
    let pepper = format!("2026={pepper}");
    let (secret, _) = shell.issue(&["billing", "--pepper", &pepper]);
    let store = shell.store().await;
    let plain = tower_api_key::KeyDigest::sha256(&secret);
    assert_eq!(store.find(&plain).await.unwrap(), None);
    let hasher =
        tower_api_key::KeyHasher::peppered(tower_api_key::Pepper::new("2026", &[7; 32]).unwrap());
    let keys = ApiKeys::builder(Arc::new(store)).hasher(hasher).build();
    let needs = Requirements::new();
    assert!(
        keys.verifier()
            .verify(Attempt::new(&secret), &needs)
            .await
            .is_ok()
    );
    shell.feed(&["verify", "--pepper", &pepper], &secret).is(0);
    assert!(
        shell
            .feed(&["verify"], &secret)
            .is(1)
            .stdout
            .contains("unknown")
    );
}
