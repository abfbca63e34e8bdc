//! The example server as a process of its own.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use serde_json::Value;

/// How long anything may take before a test gives up on it.
pub(crate) const DEADLINE: Duration = Duration::from_mins(1);

/// A running server. It is killed when a test fails before it is stopped.
pub(crate) struct Server {
    process: Child,
    address: String,
    stdout: Mutex<mpsc::Receiver<String>>,
}

impl Server {
    pub(crate) fn start(database: &Path) -> Self {
        Self::spawn(&mut command(database))
    }

    pub(crate) fn spawn(command: &mut Command) -> Self {
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
            stdout: stdout.into(),
        };
        let line = server.line();
        let address = line.strip_prefix("listening on http://").expect(&line);
        server.address = address.to_owned();
        server
    }

    /// The key that a server tells which had none before.
    pub(crate) fn admin_key(&self) -> String {
        let line = self.line();
        line.strip_prefix("admin key: ").expect(&line).to_owned()
    }

    /// A connection, for what [`call`](Self::call) does not do.
    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream
    }

    fn line(&self) -> String {
        let stdout = self.stdout.lock().unwrap();
        stdout.recv_timeout(DEADLINE).expect("a further line")
    }

    /// One request on a connection of its own: the status, and the body as JSON or as text.
    pub(crate) fn call(
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
        let mut stream = self.connect();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").expect("a whole answer");
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let body = serde_json::from_str(body).unwrap_or_else(|_| body.into());
        (status, body)
    }

    /// Sends a signal and waits for the end, which is a success and has nothing more to say.
    pub(crate) fn stop(mut self, signal: &str) {
        let id = self.process.id().to_string();
        assert!(kill(&format!("-{signal}"), &id).success());
        let further = self.stdout.lock().unwrap().recv_timeout(DEADLINE);
        assert_eq!(further, Err(RecvTimeoutError::Disconnected));
        assert_eq!(self.process.wait().unwrap().code(), Some(0));
    }
}

impl Server {
    /// As a crash does.
    pub(crate) fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
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
pub(crate) fn command(database: &Path) -> Command {
    let mut command = Command::new(executable());
    command
        .env("DATABASE_URL", database)
        .env("LISTEN", "127.0.0.1:0")
        .env_remove("DRAIN_SECONDS")
        .env_remove("FAILED_ATTEMPTS_PER_MINUTE")
        .env_remove("REDIS_URL")
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    command
}

/// Sends a signal. The shell's own `kill`, for a small system has no other.
pub(crate) fn kill(signal: &str, process: &str) -> ExitStatus {
    let mut shell = Command::new("sh");
    shell.args(["-c", "kill \"$@\"", "sh", signal, process]);
    shell.status().unwrap()
}

/// What a server that ends by itself has said.
pub(crate) fn output(command: &mut Command) -> Output {
    let child = command
        .stderr(Stdio::piped())
        .spawn()
        .expect("`cargo build --examples` makes it");
    let id = child.id().to_string();
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(child.wait_with_output()));
    receiver.recv_timeout(DEADLINE).map_or_else(
        |_| {
            kill("-TERM", &id);
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
