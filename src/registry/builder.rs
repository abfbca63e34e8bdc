use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::ApiKeys;
use super::authority::Authority;
use super::flush::Flusher;
use crate::cache::{CacheConfig, KeyCache};
use crate::clock::{Clock, SystemClock};
use crate::credits::Accounts;
use crate::failures::FailureLimiter;
use crate::invalidation::{InvalidationBus, Publisher, Role, listen};
use crate::key::{KeyFormat, KeyHasher};
#[cfg(feature = "redis")]
use crate::limit::RedisLimiter;
use crate::limit::{Limiter, LocalLimiter, RateLimit};
use crate::principal::Realm;
use crate::store::{KeyRepository, KeyStore};
use crate::telemetry::LogBudgets;
use crate::usage::{FLUSH_INTERVAL, UsageRecorder};
use crate::verify::{InnerLayers, Parts, Verifier};

/// Sets up [`ApiKeys`], or a [`Verifier`] alone.
#[must_use]
pub struct Builder<S> {
    store: S,
    settings: Settings,
}

#[derive(Debug)]
struct Settings {
    format: KeyFormat,
    hasher: KeyHasher,
    accept_imported: bool,
    clock: Arc<dyn Clock>,
    cache: CacheConfig,
    buses: Vec<Arc<dyn InvalidationBus>>,
    listens: bool,
    max_limited: usize,
    #[cfg(feature = "redis")]
    limiter: Option<RedisLimiter>,
    failed_attempts: Option<RateLimit>,
    flush_interval: Duration,
}

impl Verifier {
    /// Begins to set up a verifier over `store`, for a service that only verifies; finish with
    /// [`Builder::build_verifier`].
    pub fn builder<S: KeyStore>(store: S) -> Builder<S> {
        Builder::new(store)
    }
}

impl<S> Builder<S> {
    pub(super) fn new(store: S) -> Self {
        Self {
            store,
            settings: Settings::default(),
        }
    }

    /// What the keys look like. Default: prefix `sk`, environments `live` and `test`.
    pub fn format(mut self, format: KeyFormat) -> Self {
        self.settings.format = format;
        self
    }

    /// How secrets become digests. Default: SHA-256 without a pepper.
    pub fn hasher(mut self, hasher: KeyHasher) -> Self {
        self.settings.hasher = hasher;
        self
    }

    /// Whether imported keys verify. They may have any text, so the checksum no longer keeps
    /// garbage from the cache and the store. Default: no.
    pub fn accept_imported(mut self, accept: bool) -> Self {
        self.settings.accept_imported = accept;
        self
    }

    /// Where the time comes from. Default: [`SystemClock`].
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.settings.clock = Arc::new(clock);
        self
    }

    /// How long keys are remembered. Default: [`CacheConfig::default`].
    pub fn cache(mut self, config: CacheConfig) -> Self {
        self.settings.cache = config;
        self
    }

    /// Another way for instances to tell each other what has changed, beside the one that the
    /// store brings. Default: none; [`MemoryStore`](crate::MemoryStore) brings none either.
    ///
    /// All are listened to, and every change is told on each. What is remembered is trusted as long
    /// as the first works: the store's own, where it has one, which misses no change.
    pub fn bus(mut self, bus: impl InvalidationBus) -> Self {
        self.settings.buses.push(Arc::new(bus));
        self
    }

    /// Listens to no bus, not even to the store's: for a program that ends before anybody could
    /// tell it something. What it changes is told all the same. Default: listens.
    pub fn deaf(mut self) -> Self {
        self.settings.listens = false;
        self
    }

    /// The most keys and owners that have counters of their own for their limits. Default:
    /// [`LocalLimiter::DEFAULT_CAPACITY`].
    ///
    /// Where more are active within their windows, the others share coarse counts. None of them
    /// gets more than its quota, and some may get less; see [`LocalLimiter`].
    pub fn max_limited(mut self, subjects: usize) -> Self {
        self.settings.max_limited = subjects;
        self
    }

    /// Counts limits in Redis, for all instances of the service together. Default: each instance
    /// counts for itself.
    ///
    /// ```no_run
    /// # use tower_api_key::{ApiKeys, MemoryStore, limit::RedisLimiter};
    /// # async fn build() -> Result<(), Box<dyn std::error::Error>> {
    /// let limiter = RedisLimiter::builder("redis://127.0.0.1/").leased().connect().await?;
    /// let keys = ApiKeys::builder(MemoryStore::new()).redis_limiter(limiter).build();
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "redis")]
    pub fn redis_limiter(mut self, limiter: RedisLimiter) -> Self {
        self.settings.limiter = Some(limiter);
        self
    }

    /// How many bad keys may come from one client address, an IPv6 one standing for its /64. Beyond
    /// it only keys that are in the cache already pass from there. With a limiter in Redis the
    /// instances count together. Default: any number.
    ///
    /// The address is that of the peer, or what a layer's
    /// [trusted proxies](crate::ApiKeyLayer::trust_proxies) tell.
    pub fn failed_attempts(mut self, limit: RateLimit) -> Self {
        self.settings.failed_attempts = Some(limit);
        self
    }

    /// How often gathered use is written, and for how long [credits](crate::NewKey::credits) are
    /// leased at a time. Default: every 10 seconds.
    ///
    /// # Panics
    ///
    /// When `interval` is zero.
    pub fn flush_interval(mut self, interval: Duration) -> Self {
        assert!(
            !interval.is_zero(),
            "use is gathered so that it need not be written all the time"
        );
        self.settings.flush_interval = interval;
        self
    }
}

impl<S: KeyStore> Builder<S> {
    /// A verifier that reads keys and writes nothing: it counts no use, and answers 503 to keys
    /// that have [credits](crate::NewKey::credits), which it could not charge.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime, when there is a bus to listen to.
    pub fn build_verifier(self) -> Verifier {
        self.settings
            .into_verifier(Arc::new(self.store), None, None)
    }
}

impl<S: KeyRepository> Builder<S> {
    /// The keys, and a background task that writes their use.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime.
    pub fn build(self) -> ApiKeys {
        let interval = self.settings.flush_interval;
        let repository: Arc<dyn KeyRepository> = Arc::new(self.store);
        let store: Arc<dyn KeyStore> = Arc::clone(&repository) as _;
        let accounts = Arc::new(Accounts::new(
            Arc::clone(&repository),
            Arc::clone(&self.settings.clock),
            interval,
            self.settings.cache.store_deadline(),
        ));
        let usage = UsageRecorder::default();
        let verifier = self
            .settings
            .into_verifier(store, Some(usage), Some(accounts));
        let parts = Arc::downgrade(&verifier.parts);
        let flusher = Flusher::start(parts, Arc::downgrade(&repository), interval);
        ApiKeys {
            repository,
            verifier,
            flusher: Arc::new(flusher),
            actor: None,
            authority: Authority::default(),
        }
    }
}

impl Settings {
    fn into_verifier(
        self,
        store: Arc<dyn KeyStore>,
        usage: Option<UsageRecorder>,
        accounts: Option<Arc<Accounts>>,
    ) -> Verifier {
        let buses: Vec<_> = store.bus().into_iter().chain(self.buses).collect();
        let cache = KeyCache::new(store, Arc::clone(&self.clock), self.cache, accounts.clone());
        let cache = Arc::new(cache);
        let heard = if self.listens { &*buses } else { &[] };
        if !heard.is_empty() {
            cache.depend_on_bus();
        }
        for (number, bus) in heard.iter().enumerate() {
            let role = if number == 0 {
                Role::Trusted
            } else {
                Role::Beside
            };
            tokio::spawn(listen(Arc::clone(bus), Arc::downgrade(&cache), role));
        }
        let limiter = Limiter::Local(LocalLimiter::new(self.max_limited));
        #[cfg(feature = "redis")]
        let limiter = self.limiter.map_or(limiter, Limiter::Redis);
        let failures = self.failed_attempts;
        let parts = Parts {
            format: self.format,
            hasher: self.hasher,
            accept_imported: self.accept_imported,
            clock: self.clock,
            cache,
            publishers: buses.into_iter().map(Publisher::new).collect(),
            failures: failures.map(|limit| FailureLimiter::new(limit, &limiter)),
            limiter,
            usage,
            accounts,
            realm: Realm::new(),
            log_budgets: LogBudgets::default(),
            inner_layers: InnerLayers::default(),
        };
        Verifier {
            parts: Arc::new(parts),
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            format: KeyFormat::new("sk"),
            hasher: KeyHasher::sha256(),
            accept_imported: false,
            clock: Arc::new(SystemClock::new()),
            cache: CacheConfig::default(),
            buses: Vec::new(),
            listens: true,
            max_limited: LocalLimiter::DEFAULT_CAPACITY,
            #[cfg(feature = "redis")]
            limiter: None,
            failed_attempts: None,
            flush_interval: FLUSH_INTERVAL,
        }
    }
}

impl<S: fmt::Debug> fmt::Debug for Builder<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("store", &self.store)
            .field("settings", &self.settings)
            .finish()
    }
}
