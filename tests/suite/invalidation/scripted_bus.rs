use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;
use tower_api_key::{BusError, Invalidation, InvalidationBus, Subscription};

use crate::core_support::settle;

/// A bus that says and proves what a test tells it to, and nothing by itself.
#[derive(Clone, Debug)]
pub(crate) struct ScriptedBus(Arc<Script>);

#[derive(Debug)]
struct Script {
    open: watch::Sender<bool>,
    subscriptions: AtomicUsize,
    /// How often a listener has asked for more.
    asked: watch::Sender<usize>,
    signals: broadcast::Sender<Signal>,
    published: Mutex<Vec<String>>,
    refuses: AtomicBool,
}

#[derive(Clone, Debug)]
enum Signal {
    Say(Invalidation),
    Prove,
    Fail,
}

impl ScriptedBus {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Script {
            open: watch::Sender::new(true),
            subscriptions: AtomicUsize::new(0),
            asked: watch::Sender::new(0),
            signals: broadcast::Sender::new(16),
            published: Mutex::default(),
            refuses: AtomicBool::new(false),
        }))
    }

    pub(crate) fn open(&self, open: bool) {
        self.0.open.send_replace(open);
    }

    pub(super) fn refuse_to_publish(&self, refuse: bool) {
        self.0.refuses.store(refuse, Ordering::SeqCst);
    }

    pub(crate) fn published(&self) -> Vec<String> {
        self.0.published.lock().unwrap().clone()
    }

    pub(crate) fn subscriptions(&self) -> usize {
        self.0.subscriptions.load(Ordering::SeqCst)
    }

    /// Ends the subscription, which begins again when the bus is open.
    pub(crate) async fn lose(&self) {
        self.0.signals.send(Signal::Fail).unwrap();
        settle().await;
    }

    /// How often a listener has asked for more.
    pub(crate) fn asked(&self) -> usize {
        *self.0.asked.borrow()
    }

    /// Waits until the listener has asked that often, and so has done what it was told before.
    pub(crate) async fn heard(&self, times: usize) {
        let mut asked = self.0.asked.subscribe();
        asked.wait_for(|asked| *asked >= times).await.unwrap();
    }

    pub(crate) async fn say(&self, invalidation: &str) {
        self.signal(Signal::Say(invalidation.parse().unwrap()))
            .await;
    }

    pub(crate) async fn prove(&self) {
        self.signal(Signal::Prove).await;
    }

    pub(crate) async fn fail(&self) {
        self.signal(Signal::Fail).await;
    }

    async fn signal(&self, signal: Signal) {
        let before = *self.0.asked.borrow();
        self.0.signals.send(signal).unwrap();
        self.heard(before + 1).await;
    }
}

#[async_trait]
impl InvalidationBus for ScriptedBus {
    async fn subscribe(&self) -> Result<Box<dyn Subscription>, BusError> {
        let mut open = self.0.open.subscribe();
        open.wait_for(|open| *open).await.unwrap();
        self.0.subscriptions.fetch_add(1, Ordering::SeqCst);
        let signals = self.0.signals.subscribe();
        Ok(Box::new(ScriptedListener(self.clone(), signals)))
    }

    async fn publish(&self, invalidation: &Invalidation) -> Result<(), BusError> {
        if self.0.refuses.load(Ordering::SeqCst) {
            return Err(BusError::new("the test says so"));
        }
        self.0
            .published
            .lock()
            .unwrap()
            .push(invalidation.to_string());
        let _ = self.0.signals.send(Signal::Say(invalidation.clone()));
        Ok(())
    }
}

struct ScriptedListener(ScriptedBus, broadcast::Receiver<Signal>);

#[async_trait]
impl Subscription for ScriptedListener {
    async fn next(&mut self, _: Instant) -> Result<Option<Invalidation>, BusError> {
        self.0.0.asked.send_modify(|asked| *asked += 1);
        match self.1.recv().await.unwrap() {
            Signal::Say(invalidation) => Ok(Some(invalidation)),
            Signal::Prove => Ok(None),
            Signal::Fail => Err(BusError::new("the test says so")),
        }
    }
}
