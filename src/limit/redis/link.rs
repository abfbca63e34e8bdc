use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use std::{fmt, io};

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::{Client, Cmd, ConnectionAddr, ErrorKind, RedisError, ServerErrorKind, Value};
use tokio::time::{sleep, timeout};

use super::gate::Gate;
use super::wire::{Question, Reply};
use crate::redis_url::without_detail;

/// The way to Redis: one connection that all calls share, or one to each node of a cluster.
pub(super) struct Link {
    target: Target,
    /// None before the first one has come about.
    connection: RwLock<Option<Connection>>,
    /// True while a task is making another one.
    renewing: AtomicBool,
}

enum Target {
    Cluster(Box<Cluster<ClusterClient>>),
    Single(Box<Client>),
}

#[derive(Clone)]
enum Connection {
    Cluster(Cluster<ClusterConnection>),
    Single(ConnectionManager),
}

/// One for calls, which are sent again where a slot has moved or a connection was lost, and may
/// then charge twice but never too little. And one for refunds and calls that give units back,
/// which are sent once: twice would give back units of others.
#[derive(Clone)]
struct Cluster<T> {
    calls: T,
    refunds: T,
}

/// Time limit of an attempt to connect. Calls do not wait for it.
const CONNECT: Duration = Duration::from_secs(2);

/// The pauses between attempts to connect. They double from one to the next.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LAST_PAUSE: Duration = Duration::from_secs(1);

impl Link {
    /// A way to the server of this URL, not connected yet.
    pub(super) fn to_server(url: &str) -> Result<Self, RedisError> {
        let client = Client::open(url).map_err(without_detail)?;
        Ok(Self::to(Target::Single(client.into())))
    }

    /// A way to the cluster of these nodes, not connected yet.
    pub(super) fn to_cluster(urls: &[String]) -> Result<Self, RedisError> {
        let client = |retries| {
            ClusterClient::builder(urls.iter().map(String::as_str))
                .retries(retries)
                .min_retry_wait(1)
                .max_retry_wait(20)
                .connection_timeout(CONNECT)
                .build()
                .map_err(without_detail)
        };
        let clients = Cluster {
            calls: client(3)?,
            refunds: client(0)?,
        };
        Ok(Self::to(Target::Cluster(clients.into())))
    }

    fn to(target: Target) -> Self {
        Self {
            target,
            connection: RwLock::new(None),
            renewing: AtomicBool::new(false),
        }
    }

    /// Connects, or goes on trying in the background while Redis cannot be reached. Returns whether
    /// it is connected.
    ///
    /// # Errors
    ///
    /// [`RedisError`] when Redis can be reached and refuses, so that trying again would not help.
    pub(super) async fn connect(self: &Arc<Self>) -> Result<bool, RedisError> {
        match timeout(CONNECT, self.target.connect()).await {
            Ok(Ok(connection)) => {
                self.replace(connection);
                return Ok(true);
            }
            Ok(Err(error)) if !is_outage(&error) => return Err(error),
            _ if self.target.answers_in_clear_text().await => {
                let what = "the server does not speak the TLS that the URL asks for";
                return Err((ErrorKind::InvalidClientConfig, what).into());
            }
            Ok(Err(error)) => tracing::error!(%error, "{UNREACHED}"),
            Err(_) => tracing::error!("{UNREACHED}"),
        }
        self.renew();
        Ok(false)
    }

    /// Runs the script of `question`, and loads it where it is not known.
    pub(super) async fn ask(
        &self,
        question: &Question,
        tag: &str,
        time_us: u64,
    ) -> Result<Reply, RedisError> {
        if self.is_cluster() && question.gives_back() {
            // Sent again, it would give back units of others. So what is left of a lease is given
            // back only where the first attempt succeeds.
            if let Ok(reply) = self.ask_as(question, tag, time_us, true).await {
                return Ok(reply);
            }
            let question = question.without_returns();
            return self.ask_as(&question, tag, time_us, false).await;
        }
        self.ask_as(question, tag, time_us, false).await
    }

    async fn ask_as(
        &self,
        question: &Question,
        tag: &str,
        time_us: u64,
        once: bool,
    ) -> Result<Reply, RedisError> {
        let script = question.script();
        let call = |name, which: &str| {
            let mut command = redis::cmd(name);
            command.arg(which);
            question.write(&mut command, tag, time_us);
            command
        };
        // With the text and not by SCRIPT LOAD: this goes where the key is.
        let with_text = || call("EVAL", script.text);
        let value = if let Question::Refund(_) = question {
            // A second attempt would be overtaken by what this instance asks next.
            self.send(&with_text(), true).await
        } else {
            match self.send(&call("EVALSHA", &script.hash), once).await {
                Err(error) if is_unknown_script(&error) => self.send(&with_text(), once).await,
                value => value,
            }
        };
        Reply::read(value?).ok_or_else(|| {
            let kind = ErrorKind::UnexpectedReturnType;
            (kind, "the script returned something else").into()
        })
    }

    /// Runs a command that returns a number.
    pub(super) async fn number(&self, command: &Cmd) -> Result<i64, RedisError> {
        match self.send(command, false).await? {
            Value::Int(number) => Ok(number),
            _ => Err((ErrorKind::UnexpectedReturnType, "no number was returned").into()),
        }
    }

    /// Returns whether Redis was reached before.
    pub(super) fn is_connected(&self) -> bool {
        let connection = self.connection.read();
        let connection = connection.unwrap_or_else(PoisonError::into_inner);
        connection.is_some()
    }

    pub(super) fn is_cluster(&self) -> bool {
        matches!(self.target, Target::Cluster(_))
    }

    async fn send(&self, command: &Cmd, once: bool) -> Result<Value, RedisError> {
        let connection = self.connection.read();
        let connection = connection.unwrap_or_else(PoisonError::into_inner).clone();
        match connection {
            Some(Connection::Cluster(Cluster { mut refunds, .. })) if once => {
                command.query_async(&mut refunds).await
            }
            Some(Connection::Cluster(Cluster { mut calls, .. })) => {
                command.query_async(&mut calls).await
            }
            Some(Connection::Single(mut server)) => command.query_async(&mut server).await,
            None => Err((ErrorKind::Io, "Redis was not reached yet").into()),
        }
    }

    /// Makes a new connection in the background, to take the place of one that no answer came from.
    /// The other end of the old one may be gone without a word, or be a server that is not the
    /// primary any more.
    pub(super) fn renew(self: &Arc<Self>) {
        if self.renewing.swap(true, Ordering::SeqCst) {
            return;
        }
        let this = Arc::downgrade(self);
        tokio::spawn(async move {
            let mut pause = FIRST_PAUSE;
            while let Some(link) = this.upgrade() {
                if let Ok(Ok(connection)) = timeout(CONNECT, link.target.connect()).await {
                    link.replace(connection);
                    link.renewing.store(false, Ordering::SeqCst);
                    return;
                }
                drop(link);
                sleep(pause).await;
                pause = (pause * 2).min(LAST_PAUSE);
            }
        });
    }

    fn replace(&self, connection: Connection) {
        let mut place = self
            .connection
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *place = Some(connection);
    }
}

const UNREACHED: &str =
    "Redis cannot be reached yet: requests follow the outage policy until it can be";

impl Target {
    async fn connect(&self) -> Result<Connection, RedisError> {
        match self {
            Self::Cluster(clients) => Ok(Connection::Cluster(Cluster {
                calls: clients.calls.get_async_connection().await?,
                refunds: clients.refunds.get_async_connection().await?,
            })),
            Self::Single(client) => {
                let manager = ConnectionManager::new_with_config((**client).clone(), config());
                Ok(Connection::Single(manager.await?))
            }
        }
    }

    /// Returns whether a server that was asked for TLS answers without it. To such a server the
    /// beginning of a handshake is half a command, which it does not answer. It is sent no
    /// credentials.
    async fn answers_in_clear_text(&self) -> bool {
        let Self::Single(client) = self else {
            return false;
        };
        let ConnectionAddr::TcpTls { host, port, .. } = client.get_connection_info().addr() else {
            return false;
        };
        let ping = async {
            let clear = Client::open(ConnectionAddr::Tcp(host.clone(), *port))?;
            let mut connection = clear.get_multiplexed_async_connection().await?;
            redis::cmd("PING").exec_async(&mut connection).await
        };
        let answer = timeout(CONNECT, ping).await;
        // A server that asks for a password has answered.
        answer.is_ok_and(|answer| answer.map_or_else(|error| !error.is_io_error(), |()| true))
    }
}

/// Returns whether Redis is away or starting, rather than refusing this client.
fn is_outage(error: &RedisError) -> bool {
    use ServerErrorKind::{BusyLoading, ClusterDown, MasterDown, TryAgain};

    match error.kind() {
        ErrorKind::Io => !answers_nonsense(error),
        ErrorKind::ClusterConnectionNotFound => true,
        ErrorKind::Server(kind) => [BusyLoading, ClusterDown, MasterDown, TryAgain].contains(&kind),
        _ => false,
    }
}

/// Returns whether TLS failed: the other end does not speak it, or has another certificate.
fn answers_nonsense(error: &RedisError) -> bool {
    let source = error.source();
    let shared = source.and_then(|source| source.downcast_ref::<Arc<dyn Error + Send + Sync>>());
    let failed = shared.and_then(|source| source.downcast_ref::<io::Error>());
    failed.is_some_and(|failed| failed.kind() == io::ErrorKind::InvalidData)
}

fn is_unknown_script(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
}

/// No retries and no time limit of its own: the gate decides when to try again, and each call has
/// a deadline.
fn config() -> ConnectionManagerConfig {
    ConnectionManagerConfig::new()
        .set_number_of_retries(0)
        .set_connection_timeout(Some(CONNECT))
        .set_response_timeout(None)
        .set_pipeline_buffer_size(Gate::IN_FLIGHT)
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A URL may hold a password.
        f.write_str(match self.target {
            Target::Cluster(_) => "Link(cluster)",
            Target::Single(_) => "Link(server)",
        })
    }
}
