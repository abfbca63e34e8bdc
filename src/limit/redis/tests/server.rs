//! Redis servers: the shared one, and others that a test may stop.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use redis::Client;

/// The server that all tests share.
pub(super) fn url() -> String {
    std::env::var("REDIS_URL")
        .expect("REDIS_URL must name a Redis server for the tests of the feature `redis`")
}

/// A server of its own, which ends with this value.
pub(super) struct Server {
    process: Option<Child>,
    port: u16,
    options: Vec<String>,
    dir: tempfile::TempDir,
}

impl Server {
    pub(super) fn start() -> Self {
        Self::with(&[])
    }

    pub(super) fn with(options: &[&str]) -> Self {
        let mut server = Self {
            process: None,
            port: 0,
            options: options.iter().map(|option| (*option).to_owned()).collect(),
            dir: tempfile::tempdir().unwrap(),
        };
        for _ in 0..20 {
            server.port = free_port();
            if server.try_resume() {
                return server;
            }
        }
        panic!("redis-server does not start on any of 20 free ports");
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// Ends the server as a crash would.
    pub(super) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Starts it again, on the same port.
    pub(super) fn resume(&mut self) {
        assert!(self.try_resume(), "redis-server does not start again");
    }

    fn try_resume(&mut self) -> bool {
        let mut command = Command::new(program());
        command
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .args(["--port", &self.port.to_string()])
            .arg("--dir")
            .arg(self.dir.path())
            .args(&self.options)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let process = command.spawn();
        self.process = Some(process.expect("redis-server or valkey-server must be installed"));
        let until = Instant::now() + Duration::from_secs(10);
        while Instant::now() < until {
            let ended = self.process.as_mut().unwrap().try_wait().unwrap();
            if ended.is_some() {
                return false;
            }
            if self.try_tell(&["PING"]).is_ok() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    }

    /// Sends a command on a connection of its own.
    pub(super) fn tell(&self, words: &[&str]) -> redis::Value {
        self.try_tell(words).unwrap()
    }

    fn try_tell(&self, words: &[&str]) -> redis::RedisResult<redis::Value> {
        let client = Client::open(self.url())?;
        let mut connection = client.get_connection_with_timeout(Duration::from_secs(1))?;
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]).query(&mut connection)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

fn program() -> &'static str {
    let runs = |name: &&&str| {
        let mut command = Command::new(name);
        let silent = command.arg("--version").stdout(Stdio::null()).status();
        silent.is_ok_and(|status| status.success())
    };
    ["redis-server", "valkey-server"]
        .iter()
        .find(runs)
        .expect("redis-server or valkey-server must be installed for the tests of `redis`")
}

/// Below the ports that a cluster adds 10,000 to.
fn free_port() -> u16 {
    use rand::RngExt as _;
    let mut random = rand::rng();
    loop {
        let port = random.random_range(20_000..30_000);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
