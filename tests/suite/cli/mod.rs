//! The program `tower-api-key`, as its users start it: its own process, over a file of SQLite or
//! PostgreSQL.

mod importing;
mod keys;
mod listing;
mod output;
mod scanning;
mod updating;
mod verifying;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;
use tower_api_key::SqliteStore;

/// A database, and what a shell would do with it.
struct Shell {
    directory: TempDir,
    url: String,
}

/// What a command that has ended has said.
struct Said {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Shell {
    /// Over a file of SQLite that is not there yet.
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", directory.path().join("keys.db").display());
        Self { directory, url }
    }

    fn over(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            ..Self::new()
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a file, and tells its path.
    fn file(&self, name: &str, text: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    async fn store(&self) -> SqliteStore {
        SqliteStore::open(&self.url).await.unwrap()
    }

    /// The command, and nothing else of the tests' own environment.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tower-api-key"));
        command
            .args(arguments)
            .current_dir(self.directory.path())
            .env("DATABASE_URL", &self.url)
            .env_remove("TOWER_API_KEY_PREFIXES")
            .env_remove("TOWER_API_KEY_ENVIRONMENTS")
            .env("RUST_BACKTRACE", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn run(&self, arguments: &[&str]) -> Said {
        said(self.command(arguments))
    }

    /// With this on standard input.
    fn feed(&self, arguments: &[&str], input: &str) -> Said {
        let mut command = self.command(arguments);
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        // It may end without having read.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        Said::of(child.wait_with_output().unwrap())
    }

    /// What a command that has to succeed says as JSON.
    #[track_caller]
    fn json(&self, arguments: &[&str]) -> Value {
        let said = self.run(&[arguments, &["--json"]].concat());
        assert_eq!(said.code, Some(0), "{arguments:?}: {}", said.stderr);
        serde_json::from_str(&said.stdout).unwrap()
    }

    /// The secret and the id of a new key.
    #[track_caller]
    fn issue(&self, arguments: &[&str]) -> (String, String) {
        let issued = self.json(&[&["issue"], arguments].concat());
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        (text(&issued["secret"]), text(&issued["key"]["id"]))
    }
}

impl Said {
    fn of(output: std::process::Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    #[track_caller]
    fn is(&self, code: i32) -> &Self {
        assert_eq!(self.code, Some(code), "{}{}", self.stdout, self.stderr);
        self
    }
}

fn said(mut command: Command) -> Said {
    Said::of(command.output().unwrap())
}

fn shown(path: &Path) -> &str {
    path.to_str().unwrap()
}
