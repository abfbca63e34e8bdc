//! The example server, as its users start it: its own process, a file, a socket and signals.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::postgres::Database;

/// How long anything may take before a test gives up on it.
const DEADLINE: Duration = Duration::from_mins(1);

#[test]
fn a_key_lives_through_a_restart_and_its_use_is_written() {
    let directory = tempfile::tempdir().unwrap();
    lives_through_a_restart(&directory.path().join("keys.db"));
}

#[test]
fn a_key_lives_through_a_restart_in_postgres() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let name = "tower_api_key_of_the_keyserver";
    let database = runtime.block_on(Database::separate(name, "tower_api_key"));
    lives_through_a_restart(Path::new(database.url()));
}

fn lives_through_a_restart(database: &Path) {
    let first = Server::start(database);
    let admin = first.admin_key();
    assert!(admin.starts_with("sk_live_"));

    let new = json!({"name": "shop", "owner": "acme", "scopes": ["orders:read", "orders:write"]});
    let (status, issued) = first.call("POST", "/admin/keys", Some(&admin), Some(new));
    let key = issued["secret"].as_str().unwrap().to_owned();
    let id = issued["key"]["id"].as_str().unwrap().to_owned();
    assert_eq!(status, 201);
    let get = |path, key: Option<&str>| first.call("GET", path, key, None);
    assert_eq!(get("/healthz", None), (200, json!("ok")));
    assert_eq!(
        get("/v1/whoami", Some(&key)),
        (
            200,
            json!({
                "key_id": id, "name": "shop", "owner": "acme", "environment": "live",
                "scopes": ["orders:read", "orders:write"],
            })
        )
    );
    assert_eq!(get("/v1/public", None), (200, json!({"key_id": null})));
    assert_eq!(get("/v1/public", Some(&key)), (200, json!({"key_id": id})));
    assert_eq!(get("/v1/orders", Some(&key)).0, 200);
    assert_eq!(first.call("POST", "/v1/orders", Some(&key), None).0, 201);
    assert_eq!(get("/v1/catalog", Some(&key)).0, 403);
    assert_eq!(get("/v1/orders", None).0, 401);
    assert_eq!(get("/admin/keys", None).0, 401);
    let (status, page) = get("/admin", None);
    assert_eq!(status, 200);
    assert!(page.as_str().unwrap().starts_with("<!doctype html>"));
    first.stop("TERM");

    let second = Server::start(database);
    let usage = format!("/admin/keys/{id}/usage?bucket=day");
    let (status, usage) = second.call("GET", &usage, Some(&admin), None);
    assert_eq!(status, 200);
    let sum = |member: &str| {
        let buckets = usage["buckets"].as_array().unwrap();
        buckets
            .iter()
            .filter_map(|day| day[member].as_u64())
            .sum::<u64>()
    };
    assert_eq!((sum("allowed"), sum("denied")), (4, 1));

    let path = format!("/admin/keys/{id}");
    assert_eq!(second.call("DELETE", &path, Some(&admin), None).0, 200);
    assert_eq!(second.call("GET", "/v1/whoami", Some(&key), None).0, 401);
    second.stop("INT");
}

#[test]
fn a_publishable_key_opens_what_is_meant_for_it() {
    let server = Server::start(Path::new("sqlite::memory:"));
    let admin = server.admin_key();
    let new = json!({"name": "web", "prefix": "pk", "scopes": ["catalog:read", "orders:read"]});
    let (_, issued) = server.call("POST", "/admin/keys", Some(&admin), Some(new));
    let key = issued["secret"].as_str().unwrap();
    assert!(key.starts_with("pk_live_"));
    for (path, status) in [
        ("/v1/catalog", 200),
        ("/v1/whoami", 200),
        ("/v1/orders", 401),
    ] {
        assert_eq!(
            server.call("GET", path, Some(key), None).0,
            status,
            "{path}"
        );
    }
    server.stop("TERM");
}

#[test]
fn an_order_costs_five() {
    let server = Server::start(Path::new("sqlite::memory:"));
    let admin = server.admin_key();
    let limits = json!([{"name": "l", "quota": 12, "window_seconds": 3600}]);
    let new = json!({"name": "shop", "scopes": ["orders:*"], "limits": limits});
    let (_, issued) = server.call("POST", "/admin/keys", Some(&admin), Some(new));
    let key = issued["secret"].as_str();
    let statuses = ["POST", "POST", "POST", "GET", "GET", "GET"]
        .map(|method| server.call(method, "/v1/orders", key, None).0);
    assert_eq!(statuses, [201, 201, 429, 200, 200, 429]);
    server.stop("TERM");
}

#[test]
fn too_many_bad_keys_from_one_address_are_turned_away() {
    let mut command = command(Path::new("sqlite::memory:"));
    let server = Server::spawn(command.env("FAILED_ATTEMPTS_PER_MINUTE", "2"));
    let statuses = [(); 3].map(|()| server.call("GET", "/v1/whoami", Some("bad"), None).0);
    assert_eq!(statuses, [401, 401, 429]);
    server.admin_key();
    server.stop("TERM");
}

#[test]
fn what_cannot_work_is_one_line_and_a_failure() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let directory = tempfile::tempdir().unwrap();
    let no_database = directory.path().join("garbage.db");
    std::fs::write(
        &no_database,
        "no database, whatever its name says. ".repeat(100),
    )
    .unwrap();
    let postgres = "postgres://user:hunter2@127.0.0.1:1/keys";
    for (name, value) in [
        ("LISTEN", taken.as_str()),
        ("LISTEN", "nonsense"),
        ("LISTEN", "127.0.0.1:99999"),
        ("DATABASE_URL", directory.path().to_str().unwrap()),
        (
            "DATABASE_URL",
            directory.path().join("no/keys.db").to_str().unwrap(),
        ),
        ("DATABASE_URL", no_database.to_str().unwrap()),
        ("DATABASE_URL", postgres),
        ("DATABASE_URL", "mysql://user:hunter2@localhost/keys"),
        ("REDIS_URL", "redis://user:hunter2@localhost"),
        ("FAILED_ATTEMPTS_PER_MINUTE", "0"),
        ("FAILED_ATTEMPTS_PER_MINUTE", "-1"),
        ("FAILED_ATTEMPTS_PER_MINUTE", "many"),
        ("FAILED_ATTEMPTS_PER_MINUTE", "1000000000000000"),
    ] {
        let mut command = command(Path::new("sqlite::memory:"));
        let Output {
            status,
            stdout,
            stderr,
        } = output(command.env(name, value));
        let (stdout, stderr) = (
            String::from_utf8(stdout).unwrap(),
            String::from_utf8(stderr).unwrap(),
        );
        assert_eq!(status.code(), Some(1), "{name}={value}: {stderr}");
        assert_eq!(stdout, "", "{name}={value}");
        assert_eq!(stderr.lines().count(), 1, "{name}={value}: {stderr}");
        assert!(
            stderr.starts_with(&format!("keyserver: {name}")),
            "{stderr}"
        );
        assert!(!stderr.contains("hunter2"), "{stderr}");
    }
}

/// A running server. It is killed when a test fails before it is stopped.
struct Server {
    process: Child,
    address: String,
    stdout: mpsc::Receiver<String>,
}

impl Server {
    fn start(database: &Path) -> Self {
        Self::spawn(&mut command(database))
    }

    fn spawn(command: &mut Command) -> Self {
        let mut process = command
            .stderr(Stdio::null())
            .spawn()
            .expect("`cargo build --examples` makes it");
        let mut lines = BufReader::new(process.stdout.take().unwrap())
            .lines()
            .map_while(Result::ok);
        let (sender, stdout) = mpsc::channel();
        thread::spawn(move || lines.try_for_each(|line| sender.send(line)));
        let mut server = Self {
            process,
            address: String::new(),
            stdout,
        };
        let line = server.line();
        let address = line.strip_prefix("listening on http://").expect(&line);
        server.address = address.to_owned();
        server
    }

    /// The key that a server tells which had none before.
    fn admin_key(&self) -> String {
        let line = self.line();
        line.strip_prefix("admin key: ").expect(&line).to_owned()
    }

    fn line(&self) -> String {
        self.stdout.recv_timeout(DEADLINE).expect("a further line")
    }

    /// One request on a connection of its own: the status, and the body as JSON or as text.
    fn call(
        &self,
        method: &str,
        path: &str,
        key: Option<&str>,
        body: Option<Value>,
    ) -> (u16, Value) {
        let body = body.map_or(String::new(), |body| body.to_string());
        let key = key.map_or(String::new(), |key| format!("X-API-Key: {key}\r\n"));
        let (address, length) = (&self.address, body.len());
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{key}\
             Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").expect("a whole answer");
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let body = serde_json::from_str(body).unwrap_or_else(|_| body.into());
        (status, body)
    }

    /// Sends a signal and waits for the end, which is a success and has nothing more to say.
    fn stop(mut self, signal: &str) {
        let id = self.process.id().to_string();
        let sent = Command::new("kill")
            .arg(format!("-{signal}"))
            .arg(&id)
            .status();
        assert!(sent.unwrap().success());
        let further = self.stdout.recv_timeout(DEADLINE);
        assert_eq!(further, Err(RecvTimeoutError::Disconnected));
        assert_eq!(self.process.wait().unwrap().code(), Some(0));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Where all is well it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The server over this database on a free port, and nothing else of the tests' own environment.
fn command(database: &Path) -> Command {
    let mut command = Command::new(executable());
    command
        .env("DATABASE_URL", database)
        .env("LISTEN", "127.0.0.1:0")
        .env_remove("FAILED_ATTEMPTS_PER_MINUTE")
        .env_remove("REDIS_URL")
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    command
}

/// What a server that ends by itself has said.
fn output(command: &mut Command) -> Output {
    let child = command
        .stderr(Stdio::piped())
        .spawn()
        .expect("`cargo build --examples` makes it");
    let id = child.id().to_string();
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(child.wait_with_output()));
    receiver.recv_timeout(DEADLINE).map_or_else(
        |_| {
            let _ = Command::new("kill").arg(&id).status();
            panic!("the server runs with {command:?}")
        },
        Result::unwrap,
    )
}

/// Cargo builds the examples for the tests, but tells only where this test is: beside them.
fn executable() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let profile = test.parent().and_then(Path::parent).unwrap();
    let name = format!("keyserver{}", std::env::consts::EXE_SUFFIX);
    profile.join("examples").join(name)
}
