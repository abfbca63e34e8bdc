//! A Redis for tests: the one that `REDIS_URL` names, or one of their own to be mistreated.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

/// The server that all tests share: each keeps to names of its own.
pub(crate) fn shared_url() -> String {
    std::env::var("REDIS_URL").expect(
        "REDIS_URL must name a Redis server for this test; ./scripts/test starts one by itself",
    )
}

/// A server that one test may stop, kill and start again. It listens on a socket in a directory
/// that goes with it.
pub(crate) struct RedisServer {
    directory: TempDir,
    process: Child,
}

impl RedisServer {
    pub(crate) async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let process = spawn(directory.path());
        let server = Self { directory, process };
        server.is_ready().await;
        server
    }

    pub(crate) fn url(&self) -> String {
        format!("redis+unix://{}", socket(self.directory.path()))
    }

    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    pub(crate) async fn restart(&mut self) {
        self.process = spawn(self.directory.path());
        self.is_ready().await;
    }

    /// Makes it hang: it is there and does not answer.
    pub(crate) fn hang(&self, hang: bool) {
        let signal = if hang { "-STOP" } else { "-CONT" };
        let process = self.process.id().to_string();
        let sent = crate::server::kill(signal, &process);
        assert!(sent.success());
    }

    pub(crate) async fn tell(&self, command: &[&str]) {
        let client = redis::Client::open(self.url()).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let mut told = redis::cmd(command[0]);
        told.arg(&command[1..]);
        told.exec_async(&mut connection).await.unwrap();
    }

    async fn is_ready(&self) {
        let client = redis::Client::open(self.url()).unwrap();
        for _ in 0..1_000 {
            if let Ok(mut connection) = client.get_multiplexed_async_connection().await
                && redis::cmd("PING").exec_async(&mut connection).await.is_ok()
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("the Redis server does not answer");
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        // It may be dead already.
        _ = self.process.kill();
        _ = self.process.wait();
    }
}

fn spawn(directory: &Path) -> Child {
    ["redis-server", "valkey-server"]
        .into_iter()
        .find_map(|program| {
            Command::new(program)
                .args(["--port", "0", "--save", "", "--appendonly", "no"])
                .args(["--unixsocket", &socket(directory)])
                .arg("--dir")
                .arg(directory)
                .stdout(Stdio::null())
                .spawn()
                .ok()
        })
        .expect("this test needs the program redis-server or valkey-server: install either")
}

fn socket(directory: &Path) -> String {
    directory.join("redis.sock").display().to_string()
}
