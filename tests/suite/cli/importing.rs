//! Digests by the file.

use std::fmt::Write;
use std::ops::Range;
use std::process::Stdio;

use serde_json::{Value, json};
use tower_api_key::{
    ApiKeys, Attempt, KeyDigest, KeyFilter, KeyRepository, KeyStore, Requirements,
};

use super::{Said, Shell};
use crate::postgres::Database;

fn digest(text: &str) -> String {
    serde_json::to_value(KeyDigest::sha256(text))
        .unwrap()
        .as_str()
        .unwrap()
        .to_owned()
}

/// Lines of CSV, each with a digest and the name `key` and its number.
pub(super) fn rows(numbers: Range<usize>) -> String {
    let mut rows = String::new();
    for n in numbers {
        writeln!(rows, "{n:064x},key {n}").unwrap();
    }
    rows
}

#[track_caller]
fn summary(said: &Said) -> Value {
    serde_json::from_str(&said.stdout).unwrap_or_else(|_| panic!("{}{}", said.stdout, said.stderr))
}

#[tokio::test]
async fn csv_and_json_lines_carry_all_of_a_key() {
    let shell = Shell::new();
    let csv = format!(
        "\u{feff}name,digest,owner,prefix,environment,scopes,limits,expires_at,metadata,start,\
         allowed_addresses,credits,refill\r\n\
         \"Legacy, \"\"one\"\"\",{},acme,pk,test,orders:read catalog:*,burst=100/60s day=5/1d,\
         2999-01-31T00:00:00Z,\"{{\"\"plan\"\":\"\"pro\"\"}}\",leg,10.0.0.0/8 192.0.2.1,500,1000/month\r\n\
         \r\n\
         plain,{},,,,,,,,,,,",
        digest("one").to_uppercase(),
        digest("two"),
    );
    let complete = json!({
        "digest": digest("three"), "name": "Legacy, \"one\"", "owner": "acme", "prefix": "pk",
        "environment": "test", "scopes": ["orders:read", "catalog:*"],
        "limits": [
            {"name": "burst", "quota": 100, "window_seconds": 60},
            {"name": "day", "quota": 5, "window_seconds": 86_400},
        ],
        "expires_at": "2999-01-31T00:00:00Z", "metadata": {"plan": "pro"}, "start": "leg",
        "allowed_addresses": ["10.0.0.0/8", "192.0.2.1/32"],
        "credits": {"remaining": 500, "refill": {"amount": 1_000, "every": "month"}},
    });
    let lines = format!(
        "{complete}\n{}\n",
        json!({"name": "plain", "digest": digest("four"), "owner": null, "scopes": null})
    );
    let file = shell.file("keys.csv", csv);
    let said = shell.run(&["import", &file, "--actor", "migration"]);
    assert_eq!(
        said.is(0).stdout,
        "2 imported, 0 stored already, 0 not valid\n"
    );
    shell.feed(&["import", "-"], &lines).is(0);

    let store = shell.store().await;
    let find = async |text: &str| store.find(&KeyDigest::sha256(text)).await.unwrap().unwrap();
    for (csv, json) in [("one", "three"), ("two", "four")] {
        let (csv, json) = (find(csv).await, find(json).await);
        let mut alike = csv.record.clone();
        (alike.id, alike.created_at) = (json.record.id, json.record.created_at);
        assert_eq!(alike, json.record);
        assert!(csv.credential.imported);
        assert_eq!(csv.credential.start, json.credential.start);
    }
    let one = find("one").await;
    assert_eq!((one.record.scopes.len(), one.record.limits.len()), (2, 2));
    assert_eq!(one.record.allowed_addresses.len(), 2);
    assert_eq!(one.record.credits.map(|plan| plan.granted), Some(500));
    assert_eq!(one.credential.start, "leg");
    let events = store.events(one.record.id, None, 10).await.unwrap().events;
    assert_eq!((events.len(), events[0].action.as_str()), (1, "imported"));
    assert_eq!(events[0].actor.as_deref(), Some("migration"));
    // A server that accepts them lets them in.
    let keys = ApiKeys::builder(store).accept_imported(true).build();
    let verified = keys
        .verifier()
        .verify(Attempt::new("two"), &Requirements::new())
        .await;
    assert_eq!(verified.unwrap().principal().name(), "plain");
}

#[test]
fn bad_lines_are_told_by_number_and_the_others_are_imported() {
    let shell = Shell::new();
    let mut csv = "digest,name,expires_at,scopes,limits\n".to_owned();
    for line in [
        format!("{},good,,,", digest("a")),
        "sk_live_secret,plaintext,,,".to_owned(),
        format!("{},,,,", digest("b")),
        format!("{},x,2020-01-01T00:00:00Z,,", digest("c")),
        format!("{},x,,a::b,", digest("d")),
        format!("{},x,,,100", digest("e")),
        format!("{},\"x,,,", digest("f")),
        format!("{},x", digest("g")),
        format!("{},x{}", digest("h"), ",".repeat(30)),
        "x".repeat(2_000_000),
        format!("{},good,,,", digest("i")),
    ] {
        writeln!(csv, "{line}").unwrap();
    }
    let file = shell.file("keys.csv", &csv);
    let said = shell.run(&["import", &file, "--json"]);
    let told: Vec<_> = said.is(1).stderr.lines().collect();
    let expected = [
        "line 3: digest: ",
        "line 4: name: ",
        "line 5: expires_at: ",
        "line 6: scopes: ",
        "line 7: limits: ",
        "line 8: a quote is not closed",
        "line 9: it has 2 fields, and not 5",
        "line 10: it has too many fields",
        "line 11: it is longer than a mebibyte",
    ];
    assert_eq!(told.len(), expected.len(), "{told:?}");
    for expected in expected {
        assert!(
            told.iter().any(|told| told.starts_with(expected)),
            "{expected}: {told:?}"
        );
    }
    assert!(!said.stderr.contains("sk_live_secret"), "{}", said.stderr);
    let summary = summary(&said);
    assert_eq!(
        (&summary["imported"], &summary["invalid"]),
        (&json!(2), &json!(9))
    );
    assert_eq!(summary["errors"].as_array().unwrap().len(), 9);
    assert_eq!(shell.json(&["list"])["keys"].as_array().unwrap().len(), 2);
}

#[test]
fn bad_lines_of_json_are_told_too() {
    let shell = Shell::new();
    let good = json!({"digest": digest("a"), "name": "good"});
    let lines = [
        good.to_string(),
        "{\"digest\": ".to_owned(),
        json!({"digest": digest("b")}).to_string(),
        json!({"digest": digest("b"), "name": "x", "secret": "hunter2"}).to_string(),
        json!({"digest": digest("b"), "name": "x", "limits": [{"name": "l", "quota": 0, "window_seconds": 1}]})
            .to_string(),
        json!({"digest": digest("b"), "name": "x", "credits": {"remaining": 5, "refill": {"amount": 5, "every": "year"}}})
            .to_string(),
    ];
    let said = shell.feed(&["import", "-"], &lines.join("\n"));
    let told: Vec<_> = said.is(1).stderr.lines().collect();
    for expected in [
        "line 2: EOF",
        "line 3: missing field `name`",
        "line 4: unknown field `secret`",
        "line 5: limits: ",
        "line 6: credits: write an object as in `{\"remaining\": 500, \"refill\": {\"amount\": 1000, \"every\": \"month\"}}`",
    ] {
        assert!(
            told.iter().any(|told| told.starts_with(expected)),
            "{expected}: {told:?}"
        );
    }
    assert!(!said.stderr.contains("hunter2"));
    assert!(said.stdout.starts_with("1 imported"), "{}", said.stdout);
}

#[test]
fn the_help_names_every_column() {
    let help = Shell::new().run(&["import", "--help"]);
    for column in [
        "digest",
        "name",
        "owner",
        "prefix",
        "environment",
        "start",
        "scopes",
        "allowed_addresses",
        "limits",
        "credits",
        "refill",
        "expires_at",
        "metadata",
    ] {
        let named = format!("`{column}`");
        assert!(
            help.is(0).stdout.contains(&named),
            "{column}: {}",
            help.stdout
        );
    }
}

#[test]
fn a_plaintext_key_in_a_wrong_column_is_not_printed() {
    // Neither a key of this service nor an older one of any form.
    for secret in [
        "sk_live_Vyc7hunter2Vyc7hunter2Vyc7hunter2Vyc7hunter2V",
        "Hunter2!",
    ] {
        let shell = Shell::new();
        let mut columns = "digest,name,owner,prefix,environment,scopes,limits,credits,refill,\
                           expires_at,metadata,allowed_addresses,start"
            .split(',')
            .collect::<Vec<_>>();
        let mut csv = format!("{}\n", columns.join(","));
        let mut json = String::new();
        let long = secret.repeat(50);
        for number in 0..columns.len() {
            for cell in [
                secret,
                &long,
                &format!("{secret}=1/1s"),
                &format!("[\"\"{secret}\"\"]"),
            ] {
                let mut cells = vec![String::new(); columns.len()];
                cells[0] = digest(&format!("{number}"));
                cells[1] = "x".to_owned();
                cells[number] = format!("\"{cell}\"");
                writeln!(csv, "{}", cells.join(",")).unwrap();
            }
        }
        columns.push("metadata");
        for column in columns {
            for value in [
                json!(secret),
                json!([secret]),
                json!({secret: secret}),
                json!({"name": secret, "quota": secret}),
                json!([{"name": secret, "quota": 1, "window_seconds": 1}]),
                json!({"remaining": 1, "refill": {"amount": 1, "every": secret}}),
                json!({"plan": [secret]}),
            ] {
                let mut line = json!({"digest": digest("d"), "name": "x"});
                line[column] = value;
                writeln!(json, "{line}").unwrap();
            }
        }
        for line in [
            json!({"digest": digest("d"), "name": "x", secret: 1}).to_string(),
            format!("{{\"digest\": \"{secret}\", \"name\": \"x\"}}{secret}"),
            format!("{{\"digest\": {secret}}}"),
            secret.to_owned(),
        ] {
            writeln!(json, "{line}").unwrap();
        }
        for text in [csv, json, format!("{secret},{secret}\n")] {
            for arguments in [&["import", "-"][..], &["import", "-", "--json"]] {
                let said = shell.feed(arguments, &text);
                assert_ne!(said.code, Some(0), "{}", said.stdout);
                for told in [&said.stdout, &said.stderr] {
                    assert!(!told.contains(secret), "{secret} in {told}");
                }
            }
        }
    }
}

#[test]
fn a_secret_in_the_place_of_another_value_is_not_printed() {
    let shell = Shell::new();
    let (secret, id) = shell.issue(&["x"]);
    let named = shell.file(&format!("{secret}/.env"), &secret);
    for arguments in [
        &["verify", "--secret-file", &secret][..],
        &["verify", &secret],
        &["scan", &secret],
        &["scan", "."],
        &["scan", ".", "--json"],
        &["scan", &named],
        &["show", &secret],
        &["revoke", &id, &secret],
        &["rotate", &id, "--grace", &secret],
        &["import", &secret],
        &["list", "--pepper", &format!("a={secret}")],
        &["list", "--pepper", &format!("{secret}=a")],
        &["issue", "x", "--scope", &format!("{secret}*")],
    ] {
        let said = shell.run(arguments);
        assert_ne!(said.code, Some(0), "{arguments:?}");
        for told in [&said.stdout, &said.stderr] {
            assert!(!told.contains(&secret), "{arguments:?}: {told}");
        }
    }
}

#[test]
fn what_names_no_columns_is_refused_before_anything_is_done() {
    let shell = Shell::new();
    for (text, complaint) in [
        ("", "empty"),
        ("a,b\n1,2\n", "its field 1 names no column"),
        ("digest,owner\n", "`digest` and `name` are needed"),
        ("digest,name,name\n", "twice"),
    ] {
        let said = shell.feed(&["import", "-"], text);
        assert!(said.is(2).stderr.contains(complaint), "{}", said.stderr);
    }
    assert!(!shell.path("keys.db").exists());
    assert!(
        shell
            .run(&["import", "missing.csv"])
            .is(2)
            .stderr
            .contains("missing.csv")
    );
}

#[test]
fn to_import_again_skips_what_is_stored() {
    let shell = Shell::new();
    let first = rows(0..6_000);
    let more = rows(5_000..7_000);
    let file = shell.file("keys.csv", format!("digest,name\n{first}"));
    shell.run(&["import", &file]).is(0);
    let again = shell.run(&["import", &file]);
    assert_eq!(
        again.is(0).stdout,
        "0 imported, 6000 stored already, 0 not valid\n"
    );
    let more = shell.feed(&["import", "-"], &format!("digest,name\n{more}{more}"));
    assert_eq!(
        more.is(0).stdout,
        "1000 imported, 3000 stored already, 0 not valid\n"
    );
}

#[tokio::test]
async fn an_import_that_is_killed_goes_on_where_it_was() {
    let shell = Shell::new();
    let store = shell.store().await;
    goes_on_where_it_was(&shell, &store).await;
}

#[tokio::test]
async fn an_import_that_is_killed_goes_on_where_it_was_in_postgres() {
    let name = "tower_api_key_of_the_import";
    let database = Database::separate(name, "tower_api_key").await;
    let store = database.open().await;
    goes_on_where_it_was(&Shell::over(database.url()), &store).await;
    store.close().await;
}

async fn goes_on_where_it_was(shell: &Shell, store: &dyn KeyRepository) {
    const COUNT: usize = 30_000;
    let rows = rows(0..COUNT);
    let file = shell.file("keys.csv", format!("digest,name\n{rows}"));
    let mut command = shell.command(&["import", &file]);
    let mut child = command.stdout(Stdio::null()).spawn().unwrap();
    // Some of it is there; then it is killed, wherever it is by then.
    let mut any = KeyFilter::default();
    any.limit = 1;
    while store.list(&any).await.unwrap().keys.is_empty() {
        tokio::task::yield_now().await;
    }
    child.kill().unwrap();
    child.wait().unwrap();

    let said = shell.run(&["import", &file, "--json"]);
    let summary = summary(said.is(0));
    let count = |name: &str| usize::try_from(summary[name].as_u64().unwrap()).unwrap();
    assert_eq!(count("imported") + count("already_stored"), COUNT);
    assert!(count("already_stored") > 0, "{summary}");
    for n in [0, COUNT / 2, COUNT - 1] {
        let digest: KeyDigest = format!("{n:064x}").parse().unwrap();
        let found = store.find(&digest).await.unwrap().unwrap();
        assert_eq!(found.record.name, format!("key {n}"));
        let events = store.events(found.record.id, None, 10).await.unwrap();
        assert_eq!(events.events.len(), 1);
    }
}
