use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use redis::{ErrorKind, RedisError};

use super::gate::Gate;
use super::ledger::Terms;
use super::link::Link;
use super::ordinal::{self, Ordinal};
use super::table::Table;
use super::{Inner, RedisLimiter};
use crate::limit::LocalLimiter;

/// What becomes of requests while Redis cannot be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OutagePolicy {
    /// Each instance admits a share of every quota by itself. What it was granted in the last
    /// window counts in its share, and what Redis was last known to have counted for all instances
    /// counts in the quota. All instances together then admit at most their number times the share,
    /// in addition to what Redis has granted before: with two instances and the default, no more
    /// than one quota.
    ///
    /// Shares are whole units that add up to the quota: with 25 %, one of four instances has the
    /// only unit of a quota of 1. For that each instance takes an ordinal in Redis when it
    /// connects, holds it for ten minutes, and renews it three times a minute. The share of an
    /// instance without an ordinal is rounded down. That is one that started in the outage, or one
    /// of more than 100 divided by the percentage. After ten minutes of outage it is each of them.
    Local {
        /// The share in percent, from 1 to 100; others are taken as the nearest of these.
        percent: u8,
    },
    /// Requests are refused as unavailable (503).
    Deny,
    /// Requests are admitted without being counted.
    Allow,
}

/// [`OutagePolicy::Local`] with half of the quota.
impl Default for OutagePolicy {
    fn default() -> Self {
        Self::Local { percent: 50 }
    }
}

/// Sets up a [`RedisLimiter`].
#[derive(Clone)]
#[must_use]
pub struct RedisLimiterBuilder {
    urls: Vec<String>,
    cluster: bool,
    leased: bool,
    key_prefix: String,
    deadline: Duration,
    on_outage: OutagePolicy,
    capacity: usize,
}

impl RedisLimiterBuilder {
    /// How long a call may take if nothing else is set.
    pub const DEFAULT_DEADLINE: Duration = Duration::from_millis(50);

    pub(super) fn new(urls: Vec<String>) -> Self {
        Self {
            cluster: urls.len() > 1,
            urls,
            leased: false,
            key_prefix: "tower-api-key".to_owned(),
            deadline: Self::DEFAULT_DEADLINE,
            on_outage: OutagePolicy::default(),
            capacity: LocalLimiter::DEFAULT_CAPACITY,
        }
    }

    /// Takes the server for a node of a cluster even though only one is named. Several always are.
    pub fn cluster(mut self) -> Self {
        self.cluster = true;
        self
    }

    /// Asks Redis about every request, unless it is known to be denied. The default.
    pub fn strict(mut self) -> Self {
        self.leased = false;
        self
    }

    /// Takes units of busy keys in batches, and spends them without asking.
    pub fn leased(mut self) -> Self {
        self.leased = true;
        self
    }

    /// What all keys in Redis begin with, within their braces; by default `tower-api-key`.
    /// Limiters with the same prefix share their counts.
    pub fn key_prefix(mut self, prefix: &str) -> Self {
        self.key_prefix = prefix.to_owned();
        self
    }

    /// How long a request waits for Redis at most; by default 50 milliseconds. Later it follows the
    /// outage policy, or is refused as unavailable where Redis answers, but not soon enough.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// What becomes of requests while Redis cannot be asked; by default each instance admits half
    /// of the quota.
    pub fn on_outage(mut self, policy: OutagePolicy) -> Self {
        self.on_outage = policy;
        self
    }

    /// How many subjects are remembered here, with their leases and with what has to be reported
    /// if Redis loses its data; by default [`LocalLimiter::DEFAULT_CAPACITY`]. One takes about half
    /// a kilobyte, and is dropped when nothing of it counts any more.
    pub fn capacity(mut self, subjects: usize) -> Self {
        self.capacity = subjects;
        self
    }

    /// Connects within two seconds, and takes an ordinal for [`OutagePolicy::Local`] within two more.
    ///
    /// While Redis cannot be reached the limiter works all the same: it follows the [outage
    /// policy](Self::on_outage), says so in the log, and connects in the background. So an instance
    /// can start in an outage of Redis.
    ///
    /// # Errors
    ///
    /// [`ConnectError`] when a URL or the prefix is no good, or when Redis refuses the client, as
    /// with a wrong password.
    pub async fn connect(self) -> Result<RedisLimiter, ConnectError> {
        if self.key_prefix.contains(['{', '}']) {
            let what = "the key prefix has a brace, which would spread a subject over a cluster";
            return Err(ConnectError((ErrorKind::InvalidClientConfig, what).into()));
        }
        let link = if self.cluster {
            Link::to_cluster(&self.urls)?
        } else {
            Link::to_server(self.urls.first().map_or("", String::as_str))?
        };
        let link = Arc::new(link);
        let reached = link.connect().await?;
        let deadline = u64::try_from(self.deadline.as_nanos()).unwrap_or(u64::MAX);
        let ordinal = Ordinal::new(self.on_outage, &self.key_prefix, Arc::clone(&link));
        if reached {
            ordinal.renew().await;
        }
        let inner = Arc::new(Inner {
            terms: Terms {
                leased: self.leased,
                deadline,
            },
            deadline: self.deadline,
            on_outage: self.on_outage,
            waits_for_room: true,
            table: Table::new(&self.key_prefix, self.capacity),
            key_prefix: self.key_prefix,
            gate: Arc::new(Gate::new(Gate::IN_FLIGHT, "keys", reached)),
            clock: std::sync::Mutex::default(),
            link,
            ordinal,
        });
        ordinal::keep(&inner);
        Ok(RedisLimiter(inner))
    }
}

impl fmt::Debug for RedisLimiterBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A URL may hold a password.
        f.debug_struct("RedisLimiterBuilder")
            .field("cluster", &self.cluster)
            .field("leased", &self.leased)
            .field("key_prefix", &self.key_prefix)
            .field("deadline", &self.deadline)
            .field("on_outage", &self.on_outage)
            .field("capacity", &self.capacity)
            .finish_non_exhaustive()
    }
}

/// Why a [`RedisLimiter`] could not be set up.
#[derive(Debug)]
pub struct ConnectError(RedisError);

impl From<RedisError> for ConnectError {
    fn from(error: RedisError) -> Self {
        Self(error)
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the limiter cannot connect to Redis: check the URL, the user and the password")
    }
}

impl Error for ConnectError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.0)
    }
}
