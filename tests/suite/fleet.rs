//! Several servers on one PostgreSQL and one Redis, and what may happen to these and to them.
//!
//! Whatever it is: no answer but those that the contract has, no pass for a key that was revoked,
//! no more admitted than the docs of the limiter say. Each test prints what it has counted.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::postgres::Database;
use crate::redis_server::{RedisServer, shared_url};
use crate::server::{DEADLINE, Server, command};

const QUOTA: u64 = 2_000;

/// Servers that know each other, the first of them with the admin's key.
struct Fleet {
    servers: Vec<Server>,
    admin: String,
}

/// A key, as it was issued.
struct Issued {
    id: String,
    secret: String,
}

impl Fleet {
    fn start(size: usize, database: &str, redis: Option<&str>) -> Self {
        let start = |_| {
            let mut command = command(Path::new(database));
            // Refusals are asked for again and again.
            command.env("FAILED_ATTEMPTS_PER_MINUTE", "1000000");
            Server::spawn(command.envs(redis.map(|url| ("REDIS_URL", url))))
        };
        // The first one makes the tables and the admin's key.
        let mut servers = vec![start(0)];
        let admin = servers[0].admin_key();
        servers.extend((1..size).map(start));
        Self { servers, admin }
    }

    fn issue(&self, limits: &Value) -> Issued {
        let new = json!({"name": "fleet", "scopes": ["orders:read"], "limits": limits});
        let (status, issued) = self.admin("POST", "/admin/keys", Some(new));
        assert_eq!(status, 201, "{issued}");
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        Issued {
            id: text(&issued["key"]["id"]),
            secret: text(&issued["secret"]),
        }
    }

    /// Makes all servers know the key.
    fn know(&self, key: &Issued) {
        let accepts = |server: &Server| server.status(&key.secret) == 200;
        assert!(self.servers.iter().all(accepts));
    }

    fn revoke(&self, key: &Issued) {
        let path = format!("/admin/keys/{}", key.id);
        assert_eq!(self.admin("DELETE", &path, None).0, 200);
    }

    fn admin(&self, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        self.servers[0].call(method, path, Some(&self.admin), body)
    }

    /// Waits until each server refuses the key.
    fn refuse_soon(&self, key: &Issued) {
        for server in &self.servers {
            eventually("the key is refused", || server.status(&key.secret) == 401);
        }
    }

    /// Uses the key on all servers at once, all the time, until `meanwhile` returns, which is told
    /// how often it was let through. How often each status was the answer.
    fn load(&self, key: &Issued, meanwhile: impl FnOnce(&AtomicU64)) -> BTreeMap<u16, u64> {
        let (over, admitted) = (AtomicBool::new(false), AtomicU64::new(0));
        thread::scope(|scope| {
            let ask = |server: &Server| {
                let mut counts = BTreeMap::new();
                while !over.load(Ordering::Relaxed) {
                    let status = server.status(&key.secret);
                    *counts.entry(status).or_insert(0) += 1;
                    admitted.fetch_add(u64::from(status == 200), Ordering::Relaxed);
                }
                counts
            };
            let clients: Vec<_> = self
                .servers
                .iter()
                .map(|server| scope.spawn(move || ask(server)))
                .collect();
            meanwhile(&admitted);
            over.store(true, Ordering::Relaxed);
            let mut sum = BTreeMap::new();
            for client in clients {
                for (status, count) in client.join().unwrap() {
                    *sum.entry(status).or_insert(0) += count;
                }
            }
            sum
        })
    }

    /// The requests of a key that were written as allowed.
    fn allowed(&self, key: &Issued) -> Option<u64> {
        let path = format!("/admin/keys/{}/usage?bucket=day", key.id);
        let (status, usage) = self.admin("GET", &path, None);
        // A server whose store was away a moment ago may find that out with this request.
        let days = (status == 200).then(|| usage["buckets"].as_array().unwrap())?;
        Some(days.iter().filter_map(|day| day["allowed"].as_u64()).sum())
    }
}

impl Server {
    fn status(&self, secret: &str) -> u16 {
        self.call("GET", "/v1/orders", Some(secret), None).0
    }
}

fn limits(quota: u64) -> Value {
    json!([{"name": "hour", "quota": quota, "window_seconds": 3_600}])
}

#[track_caller]
fn eventually(what: &str, condition: impl Fn() -> bool) {
    let until = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < until, "never: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn database(name: &str) -> Database {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(Database::separate(name, "tower_api_key"))
}

#[test]
fn servers_share_what_a_key_may_use_and_its_end() {
    let database = database("tower_api_key_of_a_fleet");
    let fleet = Fleet::start(3, database.url(), Some(&shared_url()));
    let key = fleet.issue(&limits(60));
    let mut admitted = 0;
    for turn in 0..90 {
        match fleet.servers[turn % 3].status(&key.secret) {
            200 => admitted += 1,
            status => assert_eq!(status, 429),
        }
    }
    println!("three servers admitted {admitted} of a quota of 60");
    assert!((54..=60).contains(&admitted), "{admitted}");
    fleet.revoke(&key);
    fleet.refuse_soon(&key);
    for server in fleet.servers {
        server.stop("TERM");
    }
}

/// Redis dies, is slow, and forgets its scripts, while two servers are asked without a pause.
#[test]
fn trouble_with_redis_is_no_clients_trouble() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for trouble in ["crash", "hang", "flush"] {
        let mut redis = runtime.block_on(RedisServer::start());
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("keys.db");
        let fleet = Fleet::start(2, file.to_str().unwrap(), Some(&redis.url()));
        let key = fleet.issue(&limits(QUOTA));
        let told = fleet.load(&key, |admitted| {
            let reaches = |percent| {
                eventually("so much is admitted", || {
                    admitted.load(Ordering::Relaxed) >= QUOTA * percent / 100
                });
            };
            reaches(40);
            match trouble {
                "crash" => {
                    redis.kill();
                    reaches(60);
                    runtime.block_on(redis.restart());
                }
                "hang" => {
                    redis.hang(true);
                    reaches(60);
                    redis.hang(false);
                }
                _ => runtime.block_on(redis.tell(&["SCRIPT", "FLUSH"])),
            }
            reaches(80);
            fleet.revoke(&key);
            fleet.refuse_soon(&key);
        });
        println!("{trouble}: {told:?} of a quota of {QUOTA}");
        let admitted = told.get(&200).copied().unwrap_or_default();
        assert!(told.keys().all(|status| [200, 401, 429].contains(status)));
        // Each of two servers may admit half of the quota by itself, and a Redis that comes back
        // empty grants at most one more.
        let most = match trouble {
            "crash" => 3 * QUOTA,
            "hang" => 2 * QUOTA,
            _ => QUOTA,
        };
        assert!(admitted <= most, "{trouble}: {admitted}");
    }
}

/// The keys that the servers know go on working, what could not be written is written later, and
/// what is revoked afterwards is refused by all.
#[test]
fn postgres_that_is_restarted_under_load_is_not_noticed_by_who_uses_a_known_key() {
    let mut postgres = Postgres::start();
    let mut fleet = Fleet::start(2, &postgres.url, None);
    let key = fleet.issue(&json!([]));
    fleet.know(&key);
    let told = fleet.load(&key, |_| {
        postgres.restart();
        eventually("the store is back", || {
            fleet.admin("GET", "/admin/keys", None).0 == 200
        });
    });
    println!("PostgreSQL restarted: {told:?}");
    assert_eq!(told.keys().collect::<Vec<_>>(), [&200]);
    fleet.servers.pop().unwrap().stop("TERM");
    // One use by each server before, and what was counted while nothing could be written.
    eventually("all use is written", || {
        fleet.allowed(&key) == Some(told[&200] + 2)
    });
    fleet.revoke(&key);
    fleet.refuse_soon(&key);
}

/// The listeners' connections and all others are cut while a key is revoked.
#[test]
fn a_key_that_is_revoked_while_connections_are_cut_is_refused() {
    let database = database("tower_api_key_of_a_cut");
    let fleet = Fleet::start(2, database.url(), None);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for _ in 0..5 {
        let key = fleet.issue(&json!([]));
        assert!(
            fleet
                .servers
                .iter()
                .all(|server| server.status(&key.secret) == 200)
        );
        let told = fleet.load(&key, |_| {
            runtime.block_on(database.end_connections());
            eventually("the store is back", || {
                let path = format!("/admin/keys/{}", key.id);
                fleet.admin("DELETE", &path, None).0 == 200
            });
            fleet.refuse_soon(&key);
        });
        assert!(
            told.keys().all(|status| [200, 401].contains(status)),
            "{told:?}"
        );
    }
}

#[test]
fn a_server_that_is_killed_loses_what_was_not_written_and_no_more() {
    const MORE: u64 = 25;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("keys.db");
    let file = file.to_str().unwrap();
    let mut fleet = Fleet::start(1, file, None);
    let key = fleet.issue(&json!([]));
    let used = || assert_eq!(fleet.servers[0].status(&key.secret), 200);
    (0..40).for_each(|_| used());
    // Written by itself, every ten seconds.
    eventually("the use is written", || fleet.allowed(&key) == Some(40));
    (0..MORE).for_each(|_| used());
    fleet.servers.pop().unwrap().kill();
    let server = Server::start(Path::new(file));
    fleet.servers.push(server);
    let kept = fleet.allowed(&key).unwrap();
    println!("killed: {kept} of {} requests are written", 40 + MORE);
    assert!((40..=40 + MORE).contains(&kept));

    (0..MORE).for_each(|_| assert_eq!(fleet.servers[0].status(&key.secret), 200));
    fleet.servers.pop().unwrap().stop("TERM");
    fleet.servers.push(Server::start(Path::new(file)));
    assert_eq!(
        fleet.allowed(&key),
        Some(kept + MORE),
        "stopped: none is lost"
    );
}

/// A PostgreSQL of one test's own.
struct Postgres {
    process: Child,
    answers: std::io::Lines<BufReader<std::process::ChildStdout>>,
    url: String,
}

impl Postgres {
    fn start() -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/postgres");
        let mut process = Command::new(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut answers = BufReader::new(process.stdout.take().unwrap()).lines();
        let url = answers
            .next()
            .expect("the script says what is missing")
            .unwrap();
        Self {
            process,
            answers,
            url,
        }
    }

    fn restart(&mut self) {
        writeln!(self.process.stdin.as_mut().unwrap(), "restart").unwrap();
        assert_eq!(self.answers.next().unwrap().unwrap(), "done");
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        _ = self.process.wait();
    }
}
