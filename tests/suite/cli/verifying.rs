//! Whether a key works, and if not, why.

use jiff::Timestamp;
use serde_json::{Value, json};
use tower_api_key::testing::ManualClock;
use tower_api_key::{ApiKeys, KeyDigest, KeyFormat, NewKey};

use super::{Said, Shell};

impl Shell {
    fn verify(&self, secret: &str, arguments: &[&str]) -> Said {
        self.feed(&[&["verify"], arguments].concat(), secret)
    }

    /// The reason in the JSON, after a look at the exit status.
    #[track_caller]
    fn reason(&self, secret: &str, arguments: &[&str]) -> Option<String> {
        let said = self.verify(secret, &[arguments, &["--json"]].concat());
        let verdict: Value = serde_json::from_str(&said.stdout).unwrap();
        assert_eq!(
            said.code,
            Some(i32::from(verdict["valid"] == false)),
            "{verdict}"
        );
        verdict["reason"].as_str().map(str::to_owned)
    }
}

#[tokio::test]
async fn the_true_reason_is_told() {
    let shell = Shell::new();
    let (good, _) = shell.issue(&["good", "--scope", "orders:*"]);
    let (publishable, _) = shell.issue(&["web", "--prefix", "pk"]);
    let (near, _) = shell.issue(&["near", "--allow", "10.0.0.0/8", "--scope", "orders:read"]);
    let expired = expired(&shell).await;
    let unknown = KeyFormat::new("sk").generate("sk", "live").unwrap();
    let mistyped = format!("{}x", &good[..good.len() - 1]);
    for (secret, arguments, reason) in [
        (good.as_str(), &[][..], None),
        (
            &good,
            &["--scope", "orders:read", "--scope", "orders:write:own"],
            None,
        ),
        (&good, &["--scope", "users:read"], Some("scope")),
        (&good, &["--environment", "test"], Some("environment")),
        (
            &good,
            &["--environment", "test", "--environment", "live"],
            None,
        ),
        (&good, &["--address", "203.0.113.9"], None),
        (&format!("{good}\r\n"), &[], None),
        (&publishable, &[], Some("prefix")),
        (&publishable, &["--accept-prefix", "pk"], None),
        (&near, &["--address", "10.1.2.3"], None),
        (&near, &["--address", "203.0.113.9"], Some("address")),
        (&near, &[], None),
        (&near, &["--scope", "orders:write"], Some("scope")),
        (&expired, &[], Some("expired")),
        (unknown.expose(), &[], Some("unknown")),
        (&mistyped, &[], Some("malformed")),
        ("nonsense", &[], Some("malformed")),
    ] {
        assert_eq!(
            shell.reason(secret, arguments).as_deref(),
            reason,
            "{arguments:?}"
        );
    }
    assert!(
        shell
            .verify(&near, &[])
            .stdout
            .contains("only from 10.0.0.0/8")
    );
}

/// A key that ended long ago.
async fn expired(shell: &Shell) -> String {
    let clock = ManualClock::new("2020-01-01T00:00:00Z".parse::<Timestamp>().unwrap());
    let keys = ApiKeys::builder(shell.store().await).clock(clock).build();
    let end = "2021-01-01T00:00:00Z".parse().unwrap();
    let issued = keys
        .issue(NewKey::named("old").expires_at(end))
        .await
        .unwrap();
    issued.secret().expose().to_owned()
}

#[test]
fn a_key_without_credits_is_told_when_it_has_more() {
    let shell = Shell::new();
    let (secret, id) = shell.issue(&["trial", "--credits", "3"]);
    for (cost, reason) in [("0", None), ("3", None), ("4", Some("credits"))] {
        assert_eq!(shell.reason(&secret, &["--cost", cost]).as_deref(), reason);
    }
    // To ask takes none.
    assert_eq!(shell.json(&["show", &id])["credits"]["remaining"], 3);
    let set = ["credits", &id, "--set", "0", "--refill", "5/day"];
    shell.run(&set).is(0);
    let said = shell.verify(&secret, &[]);
    let why =
        "not valid: credits: it has too few credits: 0 left, refilled to 5 each day, next at ";
    assert!(said.is(1).stdout.starts_with(why), "{}", said.stdout);
    // To whoever finds it it is worth something all the same.
    let file = shell.file("found/key.txt", &secret);
    let found = shell.run(&["scan", &file, "--check"]);
    assert!(found.is(1).stdout.contains(" active "), "{}", found.stdout);
}

#[tokio::test]
async fn imported_keys_are_found_and_told() {
    let shell = Shell::new();
    let keys = ApiKeys::builder(shell.store().await).build();
    let digest = KeyDigest::sha256("legacy-4711");
    keys.import(NewKey::named("legacy"), digest, "leg")
        .await
        .unwrap();
    let said = shell.verify("legacy-4711", &[]);
    assert!(said.is(0).stdout.contains("imported"), "{}", said.stdout);
    let (issued, _) = shell.issue(&["billing"]);
    assert!(!shell.verify(&issued, &[]).stdout.contains("imported"));
}

#[tokio::test]
async fn to_ask_is_no_use_and_charges_no_limit() {
    let shell = Shell::new();
    let (secret, id) = shell.issue(&["billing", "--limit", "day=1/1d"]);
    for _ in 0..3 {
        assert_eq!(shell.reason(&secret, &[]), None);
    }
    assert_eq!(shell.json(&["usage", &id]), json!({"buckets": []}));
    assert_eq!(shell.json(&["show", &id])["last_used_at"], Value::Null);
}

#[test]
fn the_secret_comes_from_a_file_and_is_never_repeated() {
    let shell = Shell::new();
    let (secret, _) = shell.issue(&["billing"]);
    let file = shell.file("secret.txt", format!("{secret}\n"));
    let said = shell.run(&["verify", "--secret-file", &file]);
    assert!(said.is(0).stdout.starts_with("valid\nkey: key_"));
    for (input, complaint) in [
        (String::new(), "no secret"),
        ("\n\n".to_owned(), "no secret"),
        (format!("{secret}\n{secret}\n"), "one secret"),
        ("x".repeat(5_000), "one secret"),
    ] {
        let said = shell.verify(&input, &[]);
        assert!(said.is(2).stderr.contains(complaint), "{}", said.stderr);
    }
    let mut wrong = secret.clone();
    wrong.push('x');
    for said in [
        shell.verify(&secret, &["--json"]),
        shell.verify(&wrong, &[]),
        shell.run(&["verify", &secret]),
    ] {
        let hidden = &secret[16..];
        let told_by_clap = said.code == Some(2);
        assert!(told_by_clap || !(said.stdout + &said.stderr).contains(hidden));
    }
}
