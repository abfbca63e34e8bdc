//! What all commands have in common.

use std::io::Read;
use std::process::Stdio;

use super::importing::rows;
use super::{Shell, said};

const COMMANDS: [&str; 13] = [
    "completions",
    "disable",
    "enable",
    "events",
    "import",
    "issue",
    "list",
    "revoke",
    "rotate",
    "scan",
    "show",
    "usage",
    "verify",
];

#[test]
fn every_command_helps_with_an_example() {
    let shell = Shell::new();
    let help = shell.run(&["--help"]);
    assert!(help.is(0).stdout.contains("Exit status:"));
    for command in COMMANDS {
        assert!(help.stdout.contains(&format!("  {command} ")), "{command}");
        let said = shell.run(&[command, "--help"]);
        let example = format!("Example:\n  tower-api-key {command}");
        assert!(said.is(0).stdout.contains(&example), "{}", said.stdout);
        // A password may be in it.
        assert!(!said.stdout.contains(&shell.url));
    }
}

#[test]
fn completions_know_the_commands() {
    let shell = Shell::new();
    for name in ["bash", "zsh", "fish"] {
        let script = shell.run(&["completions", name]);
        assert!(
            COMMANDS
                .iter()
                .all(|command| script.is(0).stdout.contains(command)),
            "{name}"
        );
    }
}

#[test]
fn an_error_is_one_line_with_a_next_step() {
    let shell = Shell::new();
    let garbage = shell.file(
        "garbage.db",
        "no database, whatever its name says. ".repeat(100),
    );
    let id = "key_01JD8Z6V4M3T2R1Q0P9N8K7J6H";
    for (url, next_step) in [
        ("", "set DATABASE_URL"),
        ("sqlite:typo.db", "is the path right?"),
        ("typo.db", "would make it"),
        ("sqlite::memory:", "give --store"),
        ("mysql://user:hunter2@localhost/keys", "SQLite has"),
        (
            "postgres://user:hunter2@127.0.0.1:1/keys",
            "is the URL right?",
        ),
        (garbage.as_str(), "is the path right?"),
        ("postgres:user:hunter2@localhost/keys", "postgres://…"),
        ("postgresql:", "postgres://…"),
        ("hunter2://", "SQLite has"),
        ("host=localhost password=hunter2", "would make it"),
        (
            "postgres://user@localhost/keys?sslmode=hunter2",
            "parameters",
        ),
    ] {
        let mut command = shell.command(&["show", id]);
        command.env("DATABASE_URL", url);
        let said = said(command);
        let stderr = &said.is(2).stderr;
        assert!(
            stderr.starts_with("error: ") && stderr.contains(next_step),
            "{url}: {stderr}"
        );
        assert_eq!(
            (stderr.lines().count(), said.stdout.as_str()),
            (1, ""),
            "{stderr}"
        );
        assert!(!stderr.contains("hunter2"), "{stderr}");
    }
    let mut issue = shell.command(&["issue", "x"]);
    issue.env("DATABASE_URL", "postgresql:");
    assert!(said(issue).is(2).stderr.contains("postgres://…"));
    let made: Vec<_> = shell.directory.path().read_dir().unwrap().collect();
    assert_eq!(
        made.len(),
        1,
        "a slip of the pen makes no database: {made:?}"
    );
    shell.issue(&["billing"]);
    let said = shell.run(&["show", id]);
    assert!(
        said.is(2).stderr.contains("`tower-api-key list`"),
        "{}",
        said.stderr
    );
    for wrong in [
        &["show", "key_1"][..],
        &["issue", "x", "--limit", "100"],
        &["issue", "x", "--scope", "a b"],
        &["issue", "x", "--expires", "2020-01-01"],
        &["issue", ""],
        &["rotate", id, "--grace", "400d"],
        &["list", "--limit", "0"],
        &["--prefixes", "s-k", "list"],
        &["usage", id, "--from", "2026-01-02", "--to", "2026-01-01"],
    ] {
        let said = shell.run(wrong);
        assert!(
            said.is(2).stderr.starts_with("error: "),
            "{wrong:?}: {}",
            said.stderr
        );
        assert!(!said.stderr.contains("backtrace"), "{}", said.stderr);
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let shell = Shell::new();
    let rows = rows(0..2_000);
    let file = shell.file("keys.csv", format!("digest,name\n{rows}"));
    shell.run(&["import", &file]).is(0);
    for arguments in [
        &["list", "--limit", "2000"][..],
        &["list", "--limit", "2000", "--json"],
    ] {
        let mut child = shell.command(arguments).spawn().unwrap();
        let mut stdout = child.stdout.take().unwrap();
        stdout.read_exact(&mut [0; 10]).unwrap();
        drop(stdout);
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), stderr.as_str()), (Some(0), ""));
    }
}

#[test]
fn a_secret_that_nobody_could_read_is_told_to_be_lost() {
    let shell = Shell::new();
    shell.issue(&["first"]);
    let mut command = shell.command(&["issue", "second"]);
    let (reader, writer) = std::io::pipe().unwrap();
    command.stdout(Stdio::from(writer));
    drop(reader);
    let said = said(command);
    assert!(
        said.is(2).stderr.contains("tower-api-key rotate key_"),
        "{}",
        said.stderr
    );
}

#[tokio::test]
async fn nothing_that_is_stored_moves_the_cursor() {
    let shell = Shell::new();
    let (_, id) = shell.issue(&["billing", "--metadata", "a=\u{1b}[2J\u{202e}b"]);
    let table = shell.run(&["show", &id]);
    assert!(
        table.is(0).stdout.contains("a=\\u{1b}[2J\\u{202e}b"),
        "{}",
        table.stdout
    );
}
