use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{Stream, StreamExt};
use redis::aio::{ConnectionManager, ConnectionManagerConfig, PubSubSink};
use redis::{Client, Msg};
use tokio::time::{Instant, timeout_at};

use super::{BusError, Invalidation, InvalidationBus, Subscription, random_id};
use crate::redis_url::without_detail;

/// Carries invalidations over Redis or Valkey, by `PUBLISH` and `SUBSCRIBE`.
///
/// An instance proves that it can hear by publishing to a channel of its own. With a cluster, any
/// of its nodes will do: they pass messages on.
///
/// Redis keeps no messages and knows of no transaction of the key store. A change made by plain SQL
/// is not told, nor is one by an instance that dies between storing it and publishing it: there the
/// TTL of the cache is the bound. The stores for PostgreSQL and SQLite bring buses without that
/// gap, which stay in charge when this one is put [beside](crate::Builder::bus) them.
#[derive(Clone)]
pub struct RedisBus {
    client: Client,
    publisher: ConnectionManager,
    channel: Arc<str>,
}

impl RedisBus {
    /// The channel, unless another one is named.
    pub const DEFAULT_CHANNEL: &str = "tower-api-key:invalidations";

    /// How long one command may take.
    const PATIENCE: Duration = Duration::from_secs(1);

    /// A bus at `url`, as in `redis://127.0.0.1:6379`. Connects when it is first used.
    ///
    /// # Errors
    ///
    /// [`BusError`] when `url` is not that of a Redis server.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime.
    pub fn new(url: &str) -> Result<Self, BusError> {
        let client = Client::open(url).map_err(|error| BusError::new(without_detail(error)))?;
        let patience = Some(Self::PATIENCE);
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(patience)
            .set_response_timeout(patience)
            .set_number_of_retries(1);
        let publisher = ConnectionManager::new_lazy_with_config(client.clone(), config);
        Ok(Self {
            client,
            publisher: publisher.map_err(BusError::new)?,
            channel: Self::DEFAULT_CHANNEL.into(),
        })
    }

    /// Uses another channel, so that services which share a Redis do not hear each other.
    #[must_use]
    pub fn channel(mut self, name: &str) -> Self {
        self.channel = name.into();
        self
    }

    async fn send(&self, channel: &str, message: &str) -> Result<(), BusError> {
        let mut publish = redis::cmd("PUBLISH");
        publish.arg(channel).arg(message);
        publish
            .exec_async(&mut self.publisher.clone())
            .await
            .map_err(BusError::new)
    }
}

#[async_trait]
impl InvalidationBus for RedisBus {
    async fn subscribe(&self) -> Result<Box<dyn Subscription>, BusError> {
        let pubsub = self.client.get_async_pubsub().await;
        let (mut sink, messages) = pubsub.map_err(BusError::new)?.split();
        let own = format!("{}:{:016x}", self.channel, random_id());
        sink.subscribe(&[&*self.channel, &own])
            .await
            .map_err(BusError::new)?;
        Ok(Box::new(Listener {
            bus: self.clone(),
            own,
            proofs: 0,
            messages: Box::pin(messages),
            unread: VecDeque::new(),
            _sink: sink,
        }))
    }

    async fn publish(&self, invalidation: &Invalidation) -> Result<(), BusError> {
        self.send(&self.channel, &invalidation.to_string()).await
    }
}

struct Listener {
    bus: RedisBus,
    /// The channel that only this listener hears and speaks on.
    own: String,
    /// How often it has spoken.
    proofs: u64,
    messages: Pin<Box<dyn Stream<Item = Msg> + Send>>,
    unread: VecDeque<Invalidation>,
    /// Keeps the connection.
    _sink: PubSubSink,
}

#[async_trait]
impl Subscription for Listener {
    async fn next(&mut self, until: Instant) -> Result<Option<Invalidation>, BusError> {
        while Instant::now() < until {
            if let Some(read) = self.unread.pop_front() {
                return Ok(Some(read));
            }
            match timeout_at(until, self.messages.next()).await {
                Ok(message) => _ = self.read(message)?,
                Err(_) => break,
            }
        }
        // The server sends messages in the order in which it got them, so whatever was published
        // before comes before this.
        self.proofs += 1;
        self.bus.send(&self.own, &self.proofs.to_string()).await?;
        loop {
            let message = self.messages.next().await;
            if self.read(message)? == Some(self.proofs) {
                return Ok(None);
            }
        }
    }
}

impl Listener {
    /// Keeps an invalidation for later, and returns the number of a proof.
    fn read(&mut self, message: Option<Msg>) -> Result<Option<u64>, BusError> {
        let message = message.ok_or_else(|| BusError::new("the connection to Redis is lost"))?;
        let text = String::from_utf8_lossy(message.get_payload_bytes());
        if message.get_channel_name() == self.own {
            return Ok(text.parse().ok());
        }
        self.unread.push_back(text.parse().unwrap_or_else(|_| {
            tracing::warn!("an invalidation cannot be read, so all keys are forgotten");
            Invalidation::Everything
        }));
        Ok(None)
    }
}

impl fmt::Debug for RedisBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URL may hold a password.
        f.debug_struct("RedisBus")
            .field("channel", &self.channel)
            .finish_non_exhaustive()
    }
}
