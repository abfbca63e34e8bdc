use std::time::Duration;

/// How long keys are remembered, and what the store is spared.
///
/// ```
/// use std::time::Duration;
/// use tower_api_key::CacheConfig;
///
/// let config = CacheConfig::default()
///     .ttl(Duration::from_secs(30))
///     .stale_if_error(Duration::from_secs(3_600));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct CacheConfig {
    pub(super) capacity: u64,
    pub(super) ttl: Duration,
    pub(super) stale_if_error: Duration,
    pub(super) miss_capacity: u64,
    pub(super) miss_ttl: Duration,
    pub(super) max_lookups: usize,
    pub(super) max_waiting_lookups: usize,
    pub(super) lookup_deadline: Duration,
    pub(super) max_bus_silence: Duration,
    pub(super) replica_lag: Duration,
}

impl CacheConfig {
    pub(crate) fn store_deadline(&self) -> Duration {
        self.lookup_deadline
    }

    /// The most keys to remember, two to three kilobytes each with the counter of a limit, and
    /// half a megabyte to four for a table of the hottest. The newest versions of as many keys are
    /// remembered too, at some 40 bytes each. Default: 100,000.
    pub fn capacity(mut self, keys: u64) -> Self {
        self.capacity = keys;
        self
    }

    /// How long a key is used without asking the store again. Changes made through this process
    /// hold at once, whatever the TTL; it bounds how long a change made elsewhere goes unnoticed.
    /// Default: 60 seconds.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// The time for which a known key keeps working while the store fails: past its TTL, and, where
    /// there is a bus, past [`max_bus_silence`](Self::max_bus_silence) after the last proof that
    /// the key was up to date. Whichever ends first counts. Default: 10 minutes.
    ///
    /// A store is taken to fail once a lookup has run and failed. A lookup that waits for its turn
    /// in vain is no proof of that: then a known key is used only while the bus vouches for it.
    pub fn stale_if_error(mut self, time: Duration) -> Self {
        self.stale_if_error = time;
        self
    }

    /// The most unknown digests to remember. Default: 10,000.
    pub fn miss_capacity(mut self, digests: u64) -> Self {
        self.miss_capacity = digests;
        self
    }

    /// How long an unknown digest is refused without asking the store again. Issuing a key
    /// through this process makes it known at once. Default: 5 seconds.
    pub fn miss_ttl(mut self, ttl: Duration) -> Self {
        self.miss_ttl = ttl;
        self
    }

    /// The most lookups that the store works on at one time. Default: 64.
    ///
    /// # Panics
    ///
    /// When `lookups` is 0.
    pub fn max_lookups(mut self, lookups: usize) -> Self {
        assert!(
            lookups > 0,
            "a cache that may not ask the store finds no key"
        );
        self.max_lookups = lookups;
        self
    }

    /// The most lookups that are under way or waiting for their turn; beyond it a key that the
    /// cache does not know is answered with an outage at once. As many lookups of keys that were
    /// known before may wait too, and have their turn first. Default: 4,096.
    ///
    /// # Panics
    ///
    /// When `lookups` is 0.
    pub fn max_waiting_lookups(mut self, lookups: usize) -> Self {
        assert!(
            lookups > 0,
            "a cache that may not ask the store finds no key"
        );
        self.max_waiting_lookups = lookups;
        self
    }

    /// The longest time that a lookup may take once its turn has come. Past it the lookup counts as
    /// an outage. A request waits at most an eighth longer, its wait for a turn included; its
    /// lookup goes on for the requests that come next. Default: 2 seconds.
    pub fn lookup_deadline(mut self, deadline: Duration) -> Self {
        self.lookup_deadline = deadline;
        self
    }

    /// The time for which the last proof of the [bus](crate::InvalidationBus) is trusted. After it
    /// every key that was read longer ago has to be read again: what other instances change holds
    /// here after that time at the latest. Without a bus only the TTL bounds it. Default: 5
    /// seconds.
    ///
    /// # Panics
    ///
    /// When `silence` is less than 100 milliseconds.
    pub fn max_bus_silence(mut self, silence: Duration) -> Self {
        assert!(
            silence >= Duration::from_millis(100),
            "a bus cannot prove every {silence:?} that it is there"
        );
        self.max_bus_silence = silence;
        self
    }

    /// The longest time by which replicas of a store lag behind: for so long after a change a key
    /// is read from the primary. A replica that lags further brings no older version of a key back
    /// than this process has seen. Default: 60 seconds.
    pub fn replica_lag(mut self, lag: Duration) -> Self {
        self.replica_lag = lag;
        self
    }

    pub(super) fn max_bus_silence_nanos(&self) -> u64 {
        nanos(self.max_bus_silence)
    }

    pub(super) fn replica_lag_nanos(&self) -> u64 {
        nanos(self.replica_lag)
    }

    pub(super) fn ttl_nanos(&self) -> u64 {
        nanos(self.ttl)
    }

    pub(super) fn usable_nanos(&self) -> u64 {
        nanos(self.ttl.saturating_add(self.stale_if_error))
    }

    /// The longest time since the last proof for which a key is used while the store fails.
    pub(super) fn unproved_nanos(&self) -> u64 {
        nanos(self.max_bus_silence.saturating_add(self.stale_if_error))
    }

    pub(super) fn miss_ttl_nanos(&self) -> u64 {
        nanos(self.miss_ttl)
    }
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self {
            capacity: 100_000,
            ttl: Duration::from_mins(1),
            stale_if_error: Duration::from_mins(10),
            miss_capacity: 10_000,
            miss_ttl: Duration::from_secs(5),
            max_lookups: 64,
            max_waiting_lookups: 4_096,
            lookup_deadline: Duration::from_secs(2),
            max_bus_silence: Duration::from_secs(5),
            replica_lag: Duration::from_mins(1),
        }
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
