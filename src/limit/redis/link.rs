use std::fmt;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::cluster::{ClusterClient, ClusterConfig};
use redis::cluster_async::ClusterConnection;
use redis::{Client, Cmd, ErrorKind, RedisError, ServerErrorKind, Value};

use super::gate::Gate;
use super::wire::{Question, Reply};

/// The way to Redis: one connection that all calls share, or one to each node of a cluster.
pub(super) struct Link {
    target: Target,
    connection: RwLock<Connection>,
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

/// One for calls, which are sent again where a slot has moved or a connection was lost, and may then
/// charge twice but never too little. And one for refunds and calls that give units back, which are
/// sent once: twice would give back units of others.
#[derive(Clone)]
struct Cluster<T> {
    calls: T,
    refunds: T,
}

/// How long a connection may take to come about. Calls do not wait for it longer than for an
/// answer.
const CONNECT: Duration = Duration::from_secs(2);

impl Link {
    pub(super) async fn to_server(url: &str) -> Result<Self, RedisError> {
        let client = Client::open(url)?;
        let connection = ConnectionManager::new_with_config(client.clone(), config()).await?;
        Ok(Self {
            target: Target::Single(client.into()),
            connection: RwLock::new(Connection::Single(connection)),
        })
    }

    pub(super) async fn to_cluster(urls: &[String]) -> Result<Self, RedisError> {
        let client = |retries| {
            ClusterClient::builder(urls.iter().map(String::as_str))
                .retries(retries)
                .min_retry_wait(1)
                .max_retry_wait(20)
                .connection_timeout(CONNECT)
                .build()
        };
        let clients = Cluster {
            calls: client(3)?,
            refunds: client(0)?,
        };
        let connections = Cluster {
            calls: clients.calls.get_async_connection().await?,
            refunds: clients.refunds.get_async_connection().await?,
        };
        Ok(Self {
            target: Target::Cluster(clients.into()),
            connection: RwLock::new(Connection::Cluster(connections)),
        })
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

    pub(super) fn is_cluster(&self) -> bool {
        matches!(self.target, Target::Cluster(_))
    }

    async fn send(&self, command: &Cmd, once: bool) -> Result<Value, RedisError> {
        let connection = self.connection.read();
        let connection = connection.unwrap_or_else(PoisonError::into_inner).clone();
        match connection {
            Connection::Cluster(Cluster { mut refunds, .. }) if once => {
                command.query_async(&mut refunds).await
            }
            Connection::Cluster(Cluster { mut calls, .. }) => command.query_async(&mut calls).await,
            Connection::Single(mut server) => command.query_async(&mut server).await,
        }
    }

    /// Starts a new connection in the place of one that no answer came from: its other end may be
    /// gone without a word, or be a server that is not the primary any more.
    pub(super) fn renew(&self) {
        let fresh = match &self.target {
            Target::Cluster(clients) => {
                let connect = |client: &ClusterClient| {
                    client.get_pending_async_connection_with_config(ClusterConfig::new())
                };
                Connection::Cluster(Cluster {
                    calls: connect(&clients.calls),
                    refunds: connect(&clients.refunds),
                })
            }
            Target::Single(client) => {
                match ConnectionManager::new_lazy_with_config((**client).clone(), config()) {
                    Ok(connection) => Connection::Single(connection),
                    Err(_) => return,
                }
            }
        };
        let mut connection = self
            .connection
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *connection = fresh;
    }
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
