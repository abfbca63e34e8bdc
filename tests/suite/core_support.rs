//! What the tests of the core share: keys over a store that obeys, at a time that stands still.

use std::error::Error;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::task::JoinHandle;
use tower_api_key::testing::{ManualClock, ScriptedStore};
use tower_api_key::{
    ApiKey, ApiKeys, Attempt, Builder, CacheConfig, Denial, DenialKind, DenialReason, Issued,
    KeyFormat, MemoryStore, NewKey, Outage, OutageKind, Requirements, Verified, Verifier,
};

pub(crate) const NANOSECOND: Duration = Duration::from_nanos(1);
pub(crate) const SECOND: Duration = Duration::from_secs(1);
/// The deadline of a shutdown that is to write everything.
pub(crate) const SHUTDOWN: Duration = Duration::from_mins(1);

pub(crate) type Store = ScriptedStore<MemoryStore>;

/// Keys, and everything that can be told what to do.
#[derive(Clone)]
pub(crate) struct Bench {
    pub(crate) clock: ManualClock,
    pub(crate) memory: MemoryStore,
    pub(crate) store: Store,
    pub(crate) keys: ApiKeys,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::built(|builder| builder)
    }

    pub(crate) fn cached(config: CacheConfig) -> Self {
        Self::built(|builder| builder.cache(config))
    }

    pub(crate) fn built(configure: impl FnOnce(Builder<Store>) -> Builder<Store>) -> Self {
        let clock = ManualClock::default();
        let memory = MemoryStore::new();
        let store = ScriptedStore::new(memory.clone());
        let builder = ApiKeys::builder(store.clone()).clock(clock.clone());
        Self {
            keys: configure(builder).build(),
            clock,
            memory,
            store,
        }
    }

    /// Another instance over the same stored keys: it knows nothing of this one's cache, and its
    /// lookups and writes are not counted.
    pub(crate) fn elsewhere(&self) -> ApiKeys {
        ApiKeys::builder(self.memory.clone())
            .clock(self.clock.clone())
            .build()
    }

    pub(crate) async fn issue(&self) -> Issued {
        let new = NewKey::named("billing").scopes(["orders:read"]);
        self.keys.issue(new).await.unwrap()
    }

    pub(crate) async fn verify(&self, text: impl AsRef<str>) -> Result<Verified, Denial> {
        verify(self.keys.verifier(), text.as_ref()).await
    }

    /// A verification in a task of its own.
    pub(crate) fn begin(&self, text: impl AsRef<str>) -> JoinHandle<Result<Verified, Denial>> {
        let (verifier, text) = (self.keys.verifier().clone(), text.as_ref().to_owned());
        tokio::spawn(async move { verify(&verifier, &text).await })
    }
}

impl Bench {
    /// A request of this cost, in a task of its own.
    pub(crate) fn begin_cost(&self, text: &str, cost: u64) -> JoinHandle<Result<Verified, Denial>> {
        let (verifier, text) = (self.keys.verifier().clone(), text.to_owned());
        let needs = Requirements::new().cost(cost);
        tokio::spawn(async move { verifier.verify(Attempt::new(&text), &needs).await })
    }
}

/// Whether `text` may read orders.
pub(crate) async fn verify(verifier: &Verifier, text: &str) -> Result<Verified, Denial> {
    let needs = Requirements::new().scopes(["orders:read"]);
    verifier.verify(Attempt::new(text), &needs).await
}

/// A key that nobody issued.
pub(crate) fn unknown_key() -> ApiKey {
    KeyFormat::new("sk").generate("sk", "live").unwrap()
}

/// `time` without its last nanosecond.
pub(crate) fn almost(time: Duration) -> Duration {
    time.saturating_sub(NANOSECOND)
}

/// Why a verification was refused.
#[track_caller]
pub(crate) fn refusal(outcome: Result<Verified, Denial>) -> DenialReason {
    outcome.expect_err("it was let through").reason()
}

/// Why the store could not be asked.
#[track_caller]
pub(crate) fn outage(outcome: Result<Verified, Denial>) -> OutageKind {
    let denial = outcome.expect_err("it was let through");
    assert_eq!(denial.kind(), DenialKind::Unavailable, "{denial:?}");
    assert_eq!(denial.reason(), DenialReason::Store);
    assert_eq!(denial.retry_after(), Some(SECOND));
    let outage = denial.source().expect("an outage has a cause");
    outage.downcast_ref::<Outage>().unwrap().kind()
}

/// Polls `work` once, on a thread of its own, within a runtime that has shut down, and returns its outcome.
///
/// A runtime that shuts down drops a task which is spawned in that moment at once, on the thread that
/// spawns it.
#[track_caller]
pub(crate) fn polled_in_a_shutdown<F>(runtime: tokio::runtime::Runtime, work: F) -> F::Output
where
    F: Future<Output: Send> + Send + 'static,
{
    let handle = runtime.handle().clone();
    drop(runtime);
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let _within = handle.enter();
        sender.send(work.now_or_never())
    });
    let outcome = receiver.recv_timeout(10 * SECOND);
    outcome.expect("the thread hangs").expect("it waits")
}

/// Lets every other task of a current-thread runtime come as far as it can.
pub(crate) async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}
