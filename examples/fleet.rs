//! Three key servers on one database: how long is a key still good elsewhere that one has revoked?
//!
//! ```console
//! $ ./scripts/fleet
//! ```
//!
//! builds the servers, gives them a throwaway PostgreSQL and Redis, and runs this. By hand, it takes
//! `DATABASE_URL`, a PostgreSQL database without keys, and `REDIS_URL`, either or both, and
//! `cargo build --example keyserver` before it.
//!
//! Each round issues a key, uses it on all three servers, so that all of them have it in memory,
//! revokes it on one and asks each of them again and again until it refuses. With `DATABASE_URL` the
//! others are told by PostgreSQL's `NOTIFY`; with `REDIS_URL` three servers share a SQLite file, of
//! whose changes Redis tells long before they look at it.

use std::env;
use std::error::Error;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::{Barrier, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const ROUNDS: usize = 200;
/// How often each server is asked whether it still takes the key.
const PAUSE: Duration = Duration::from_micros(100);
/// How long a server may take to say something.
const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fleet: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let (database, redis) = (env::var("DATABASE_URL"), env::var("REDIS_URL"));
    if database.is_err() && redis.is_err() {
        return Err("set DATABASE_URL, REDIS_URL or both, or run ./scripts/fleet".into());
    }
    if let Ok(database) = database {
        measure("PostgreSQL", &[("DATABASE_URL", &database)])?;
    }
    if let Ok(redis) = redis {
        let directory = tempfile::tempdir()?;
        let file = directory.path().join("keys.db").display().to_string();
        measure("Redis", &[("DATABASE_URL", &file), ("REDIS_URL", &redis)])?;
    }
    Ok(())
}

/// Starts servers with these variables and prints how long they take.
fn measure(bus: &str, variables: &[(&str, &str)]) -> Result<()> {
    let first = Server::start(variables)?;
    let admin = first.admin_key()?;
    let servers = [
        &first,
        &Server::start(variables)?,
        &Server::start(variables)?,
    ];
    let mut office = Client::connect(&first.address)?;
    let clients = servers.map(|server| Client::connect(&server.address));
    let mut clients = clients.into_iter().collect::<Result<Vec<_>>>()?;
    let rounds = (0..ROUNDS).map(|_| round(&mut office, &mut clients, &admin));
    let rounds = rounds.collect::<Result<Vec<_>>>()?;

    println!(
        "{} servers told by {bus}, {ROUNDS} keys: milliseconds until all of them refuse\n\
         {:<36}{:>9}{:>9}{:>9}{:>9}",
        servers.len(),
        "",
        "minimum",
        "median",
        "p99",
        "maximum"
    );
    let print = |title, time: fn(&Round) -> Duration| {
        let mut times: Vec<_> = rounds.iter().map(time).collect();
        times.sort_unstable();
        let last = times.len() - 1;
        let told = [0, last / 2, last * 99 / 100, last].map(|place| {
            let millis = times[place].as_secs_f64() * 1e3;
            format!("{millis:>9.3}")
        });
        println!("{title:<36}{}", told.concat());
    };
    print("from the request to revoke it", |round| round.asked);
    print("from the answer to that request", |round| round.answered);
    Ok(())
}

/// How long it took until the last server refused.
struct Round {
    asked: Duration,
    answered: Duration,
}

fn round(office: &mut Client, clients: &mut [Client], admin: &str) -> Result<Round> {
    let (status, issued) = office.send("POST", "/admin/keys", admin, &json!({"name": "fleet"}))?;
    if status != 201 {
        return Err(format!("a key could not be issued: {status} {issued}").into());
    }
    let (Some(secret), Some(id)) = (issued["secret"].as_str(), issued["key"]["id"].as_str()) else {
        return Err("the admin router answered something else".into());
    };
    for client in &mut *clients {
        if client.status_of(secret)? != 200 {
            return Err("a key that was just issued is refused".into());
        }
    }
    let ready = Barrier::new(clients.len() + 1);
    thread::scope(|scope| {
        let watches: Vec<_> = clients
            .iter_mut()
            .map(|client| {
                scope.spawn(|| {
                    ready.wait();
                    client.refuses(secret)
                })
            })
            .collect();
        ready.wait();
        let asked = Instant::now();
        let revoked = office.send("DELETE", &format!("/admin/keys/{id}"), admin, &Value::Null)?;
        let answered = Instant::now();
        if revoked.0 != 200 {
            return Err(format!("the key could not be revoked: {revoked:?}").into());
        }
        let mut last = asked;
        for watch in watches {
            last = last.max(watch.join().map_err(|_| "a watch panicked")??);
        }
        Ok(Round {
            asked: last - asked,
            answered: last.saturating_duration_since(answered),
        })
    })
}

// ---- The servers ----

struct Server {
    process: Child,
    address: String,
    lines: mpsc::Receiver<io::Result<String>>,
}

impl Server {
    fn start(variables: &[(&str, &str)]) -> Result<Self> {
        let program = env::current_exe()?.with_file_name("keyserver");
        let mut process = Command::new(&program)
            .env_remove("REDIS_URL")
            .envs(variables.iter().copied())
            .env("LISTEN", "127.0.0.1:0")
            // Each round ends with a bad key.
            .env("FAILED_ATTEMPTS_PER_MINUTE", "1000000")
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{}: {error}: build it first", program.display()))?;
        let stdout = BufReader::new(process.stdout.take().ok_or("no output")?);
        let (told, lines) = mpsc::channel();
        thread::spawn(move || stdout.lines().try_for_each(|line| told.send(line)));
        let line = lines.recv_timeout(PATIENCE)??;
        let address = line.strip_prefix("listening on http://");
        let address = address.ok_or("a server did not start")?.to_owned();
        Ok(Self {
            process,
            address,
            lines,
        })
    }

    /// The key that a server tells which had none before.
    fn admin_key(&self) -> Result<String> {
        let line = self
            .lines
            .recv_timeout(PATIENCE)
            .unwrap_or_else(|_| Ok(String::new()))?;
        let key = line.strip_prefix("admin key: ");
        Ok(key
            .ok_or("DATABASE_URL must name a database without keys")?
            .to_owned())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        _ = self.process.kill();
        _ = self.process.wait();
    }
}

/// A connection that stays open, so that nothing but the servers is measured.
struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    fn connect(address: &str) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        Ok(Self {
            stream: BufReader::new(stream),
        })
    }

    /// When it refuses the key.
    fn refuses(&mut self, secret: &str) -> Result<Instant> {
        loop {
            match self.status_of(secret)? {
                200 => thread::sleep(PAUSE),
                401 => return Ok(Instant::now()),
                status => return Err(format!("a server answered {status}").into()),
            }
        }
    }

    fn status_of(&mut self, secret: &str) -> Result<u16> {
        Ok(self.send("GET", "/v1/whoami", secret, &Value::Null)?.0)
    }

    fn send(&mut self, method: &str, path: &str, key: &str, body: &Value) -> Result<(u16, Value)> {
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: fleet\r\nAuthorization: Bearer {key}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len(),
        );
        self.stream.get_mut().write_all(request.as_bytes())?;
        let (mut status, mut length) = (0, 0);
        let mut line = String::new();
        while {
            line.clear();
            self.stream.read_line(&mut line)?
        } > 2
        {
            if let Some((name, value)) = line.split_once(':') {
                if name.eq_ignore_ascii_case("content-length") {
                    length = value.trim().parse()?;
                }
            } else {
                status = line.split(' ').nth(1).unwrap_or_default().parse()?;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        Ok((status, serde_json::from_slice(&body)?))
    }
}
