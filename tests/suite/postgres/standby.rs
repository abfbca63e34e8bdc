//! A real standby, which follows a primary of its own by streaming replication.

use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use sqlx::{ConnectOptions, Connection, Executor, PgPool};
use tempfile::TempDir;
use tokio::time::timeout;
use tower_api_key::{Key, KeyDigest, KeyRepository, KeyStore, PostgresStore};

use super::update;
use crate::support::insert;

/// The time that anything may take before a test gives up.
const A_WHILE: Duration = Duration::from_mins(1);

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_is_behind_is_left_until_it_has_caught_up() {
    let mut servers = Servers::start();
    let builder = PostgresStore::builder().replica(servers.standby_url());
    let store = builder.connect(&servers.primary_url()).await.unwrap();
    let mut renamed = Renamed {
        key: insert(&store).await,
        store,
    };
    let standby = PgPool::connect(&servers.standby_url()).await.unwrap();

    is_asked(&mut renamed, &standby).await;
    // It has stopped replaying, and only that: it still answers.
    stops_replaying(&standby).await;
    renamed.change().await;
    renamed.until_found_as_changed().await;
    for _ in 0..3 {
        renamed.change().await;
        assert_eq!(renamed.found().await, renamed.name());
    }

    // It has caught up.
    standby
        .execute("SELECT pg_wal_replay_resume()")
        .await
        .unwrap();
    is_asked(&mut renamed, &standby).await;

    // Nothing happens on the primary for longer than a standby may be behind.
    until(async || {
        renamed.found().await;
        let idle = "SELECT now() - pg_last_xact_replay_timestamp() > interval '7 s'";
        let is_idle: Option<bool> = sqlx::query_scalar(idle).fetch_one(&standby).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        is_idle == Some(true)
    })
    .await;
    stops_replaying(&standby).await;
    let before = renamed.name();
    renamed.change().await;
    assert_eq!(renamed.found().await, before, "the standby was in use");
    standby
        .execute("SELECT pg_wal_replay_resume()")
        .await
        .unwrap();
    is_asked(&mut renamed, &standby).await;

    // From now on it goes its own way.
    standby.execute("SELECT pg_promote()").await.unwrap();
    renamed.change().await;
    renamed.until_found_as_changed().await;
    renamed.change().await;
    assert_eq!(renamed.found().await, renamed.name());
    standby.close().await;
    renamed.store.close().await;
    servers.stop();
}

/// A key that gets another name with each change.
struct Renamed {
    store: PostgresStore,
    key: Key,
}

impl Renamed {
    fn name(&self) -> String {
        self.key.record.name.clone()
    }

    fn digest(&self) -> KeyDigest {
        self.key.credentials[0].digest
    }

    async fn change(&mut self) {
        let mut change = update(&self.key);
        change.record.name = format!("version {}", change.record.version);
        assert!(self.store.apply(&change).await.unwrap());
        self.key.record = change.record;
    }

    /// The name that a lookup finds.
    async fn found(&self) -> String {
        let found = self.store.find(&self.digest()).await.unwrap();
        found.expect("the key is there").record.name
    }

    async fn until_found_as_changed(&self) {
        until(async || self.found().await == self.name()).await;
    }
}

/// Waits until a lookup is answered by the standby: with the key as it was before a change that the
/// standby is kept from replaying.
async fn is_asked(renamed: &mut Renamed, standby: &PgPool) {
    let asked = timeout(A_WHILE, async {
        loop {
            stops_replaying(standby).await;
            let before = renamed.name();
            renamed.change().await;
            let found = renamed.found().await;
            standby
                .execute("SELECT pg_wal_replay_resume()")
                .await
                .unwrap();
            if found == before {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    asked.await.expect("the standby is asked");
}

async fn stops_replaying(standby: &PgPool) {
    standby
        .execute("SELECT pg_wal_replay_pause()")
        .await
        .unwrap();
    until(async || {
        let state = "SELECT pg_get_wal_replay_pause_state() = 'paused'";
        sqlx::query_scalar(state).fetch_one(standby).await.unwrap()
    })
    .await;
}

async fn until(mut is_so: impl AsyncFnMut() -> bool) {
    let waited = timeout(A_WHILE, async {
        while !is_so().await {
            tokio::task::yield_now().await;
        }
    });
    waited.await.expect("it comes to pass");
}

/// A primary and its standby, on sockets in a directory that goes with them.
struct Servers {
    directory: TempDir,
    processes: Vec<Child>,
}

impl Servers {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
        for name in ["primary", "standby"] {
            let place = directory.path().join(name);
            std::fs::create_dir(&place).unwrap();
            if let Some((user, group)) = unprivileged() {
                chown(place, Some(user), Some(group)).unwrap();
            }
        }
        let mut servers = Self {
            directory,
            processes: Vec::new(),
        };
        let [primary, standby] = ["primary", "standby"].map(|name| servers.place(name));
        let data = |place: &Path| place.join("data").display().to_string();
        let initdb = ["-U", "postgres", "-A", "trust", "--no-sync", "-D"];
        run("initdb", initdb.iter().copied().chain([&*data(&primary)]));
        servers.spawn(&primary);
        servers.is_ready("primary");
        let socket = primary.display().to_string();
        let copy = [
            "-U",
            "postgres",
            "-c",
            "fast",
            "-R",
            "--no-sync",
            "-h",
            &socket,
            "-D",
        ];
        run("pg_basebackup", copy.into_iter().chain([&*data(&standby)]));
        servers.spawn(&standby);
        servers.is_ready("standby");
        servers
    }

    fn place(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn primary_url(&self) -> String {
        self.url("primary")
    }

    fn standby_url(&self) -> String {
        self.url("standby")
    }

    fn url(&self, name: &str) -> String {
        let socket = self.place(name).display().to_string().replace('/', "%2F");
        format!("postgres://postgres@localhost/postgres?host={socket}")
    }

    fn spawn(&mut self, place: &Path) {
        let mut server = program("postgres");
        server
            .arg("-D")
            .arg(place.join("data"))
            .arg("-k")
            .arg(place);
        for setting in ["listen_addresses=", "fsync=off", "shared_buffers=16MB"] {
            server.args(["-c", setting]);
        }
        let log = std::fs::File::create(place.with_extension("log")).unwrap();
        self.processes.push(server.stderr(log).spawn().unwrap());
    }

    fn is_ready(&self, name: &str) {
        let url = self.url(name);
        std::thread::scope(|scope| {
            let asking = scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                runtime.block_on(until(async || {
                    let options: sqlx::postgres::PgConnectOptions = url.parse().unwrap();
                    if let Ok(connection) = options.connect().await {
                        return connection.close().await.is_ok();
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    false
                }));
            });
            asking.join().unwrap();
        });
    }

    fn stop(&mut self) {
        for mut process in self.processes.drain(..).rev() {
            // Its own processes end with it at once (`SIGQUIT`, an immediate shutdown).
            crate::server::kill("-QUIT", &process.id().to_string());
            process.wait().unwrap();
        }
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.stop();
    }
}

fn run<'a>(name: &str, arguments: impl Iterator<Item = &'a str>) {
    let output = program(name).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {said}");
}

/// One of PostgreSQL's programs, which refuse to run as root.
fn program(name: &str) -> Command {
    let mut program = Command::new(directory_of_programs().join(name));
    program.stdin(Stdio::null()).stdout(Stdio::null());
    if let Some((user, group)) = unprivileged() {
        program.uid(user).gid(group).current_dir("/");
    }
    program
}

/// Debian keeps them out of the path, by version.
fn directory_of_programs() -> PathBuf {
    let in_path = std::env::var_os("PATH").unwrap_or_default();
    let in_path: Vec<_> = std::env::split_paths(&in_path).collect();
    let debian = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten();
    let mut debian: Vec<_> = debian
        .map(|version| version.unwrap().path().join("bin"))
        .collect();
    debian.sort();
    let mut all = in_path.into_iter().chain(debian.into_iter().rev());
    let programs = ["initdb", "pg_basebackup", "postgres"];
    all.find(|directory| programs.iter().all(|name| directory.join(name).exists()))
        .expect("PostgreSQL's programs are in the path, or where Debian has them")
}

/// The user to be, where this one is root.
fn unprivileged() -> Option<(u32, u32)> {
    let id = |arguments: &[&str]| {
        let output = Command::new("id").args(arguments).output().unwrap();
        String::from_utf8(output.stdout)
            .unwrap()
            .trim()
            .parse::<u32>()
            .unwrap()
    };
    (id(&["-u"]) == 0).then(|| (id(&["-u", "postgres"]), id(&["-g", "postgres"])))
}
