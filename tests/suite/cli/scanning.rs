//! Keys where they should not be.

use serde_json::{Value, json};
use tower_api_key::KeyFormat;

use super::{Shell, shown};

fn key(prefix: &str) -> String {
    let format = KeyFormat::new(prefix);
    format.generate(prefix, "live").unwrap().expose().to_owned()
}

#[test]
fn a_place_is_told_and_the_secret_is_not() {
    let shell = Shell::new();
    let (one, other) = (key("sk"), key("pk"));
    shell.file("src/.env", format!("A=1\nÄ_TOKEN={one}\n"));
    shell.file(
        "src/binary",
        [b"\xff\x00\n\n", other.as_bytes(), b"\n"].concat(),
    );
    shell.file("src/clean.txt", "sk_live_ is how they begin\n");
    let said = shell.run(&["scan", "src"]);
    let expected = format!(
        "src/.env:2:9: {}…\nsrc/binary:3:1: {}…\n",
        &one[..12],
        &other[..12]
    );
    assert_eq!(said.is(1).stdout, expected);
    let json = shell.run(&["scan", "src", "--json"]);
    assert!(!json.stdout.contains(&one[..13]));
    let found: Value = serde_json::from_str(&json.is(1).stdout).unwrap();
    assert_eq!(
        found["findings"][0],
        json!({
            "path": "src/.env", "line": 2, "column": 9, "start": &one[..12], "prefix": "sk",
            "environment": "live",
        })
    );
    let none = shell.run(&["scan", "src/clean.txt", "--json"]);
    assert_eq!(none.is(0).stdout, "{\n  \"findings\": []\n}\n");
}

#[test]
fn look_alikes_with_a_wrong_checksum_are_passed_over() {
    let shell = Shell::new();
    let mut wrong = key("sk");
    let last = wrong.pop();
    wrong.push(if last == Some('0') { '1' } else { '0' });
    assert_eq!(shell.feed(&["scan", "-"], &wrong).is(0).stdout, "");
}

#[test]
fn what_git_ignores_is_passed_over_unless_it_is_asked_for() {
    let shell = Shell::new();
    let key = key("sk");
    shell.file("tree/.gitignore", "target/\n");
    let ignored = shell.file("tree/target/log", &key);
    shell.file("tree/.git/config", &key);
    let tree = shown(&shell.path("tree")).to_owned();
    assert_eq!(shell.run(&["scan", &tree]).is(0).stdout, "");
    let all = shell.run(&["scan", &tree, "--no-ignore"]);
    assert_eq!(all.is(1).stdout.lines().count(), 1, "{}", all.stdout);
    shell.run(&["scan", &ignored]).is(1);
}

#[test]
fn no_key_is_cut_in_two_however_long_the_text_is() {
    let shell = Shell::new();
    let key = key("sk");
    let part = 1 << 20;
    for before in [
        part - 1,
        part - key.len() + 1,
        part - key.len(),
        part,
        2 * part - 30,
    ] {
        let mut text = "-\n".repeat(before / 2) + &"-".repeat(before % 2);
        text.push_str(&key);
        let found = shell.feed(&["scan", "-"], &text);
        let place = format!("-:{}:{}: ", before / 2 + 1, before % 2 + 1);
        assert_eq!(
            found.is(1).stdout,
            format!("{place}{}…\n", &key[..12]),
            "{before}"
        );
    }
}

#[test]
fn other_prefixes_are_found_where_they_are_named() {
    let shell = Shell::new();
    let (ours, theirs) = (key("sk"), key("acme_rk"));
    let text = format!("{ours} {theirs}");
    let scan = |arguments: &[&str]| {
        shell
            .feed(&[&["scan", "-"], arguments].concat(), &text)
            .stdout
    };
    assert!(scan(&[]).starts_with("-:1:1: sk_live_"));
    let theirs_only = scan(&["--prefix", "acme_rk"]);
    assert!(
        theirs_only.starts_with("-:1:59: acme_rk_live_"),
        "{theirs_only}"
    );
    assert_eq!(theirs_only.lines().count(), 1);
    assert_eq!(scan(&["--prefixes", "sk,acme_rk"]).lines().count(), 2);
    assert_eq!(scan(&["--environments", "eu"]), "");
}

#[test]
fn a_check_tells_which_of_them_work() {
    let shell = Shell::new();
    let (active, id) = shell.issue(&["active", "--prefix", "pk", "--allow", "10.0.0.0/8"]);
    let (revoked, revoked_id) = shell.issue(&["revoked"]);
    shell.run(&["revoke", &revoked_id]).is(0);
    let text = format!("{active}\n{revoked}\n{}\n", key("sk"));
    let found = shell.feed(&["scan", "-", "--check"], &text);
    let lines: Vec<_> = found.is(1).stdout.lines().collect();
    assert!(lines[0].ends_with(&format!("… active {id}")), "{lines:?}");
    assert!(
        lines[1].ends_with(&format!("… revoked {revoked_id}")),
        "{lines:?}"
    );
    assert!(lines[2].ends_with("… unknown"), "{lines:?}");
    assert_eq!(shell.json(&["usage", &id]), json!({"buckets": []}));
}

#[test]
fn what_cannot_be_read_is_an_error() {
    let shell = Shell::new();
    let key = shell.file("key", key("sk"));
    let said = shell.run(&["scan", "no-such-file", &key]);
    assert!(
        said.is(2).stderr.contains("no-such-file"),
        "{}",
        said.stderr
    );
    assert_eq!(
        said.stdout.lines().count(),
        1,
        "the others are searched all the same"
    );
}
