//! Keys, and requests that bear them as those of a server do.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::ConnectInfo;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, HOST, USER_AGENT};
use http::{HeaderValue, Request};
use tokio::runtime::Handle;
use tower_api_key::{
    ApiKeys, Builder, CacheConfig, EventAction, KeyDigest, KeyEvent, KeyFilter, KeyRecord,
    KeyRepository, MemoryStore, NewKey, RateLimit,
};

use crate::contenders::Contender;

/// Some keys, and in which order they come.
pub(crate) struct Traffic {
    pub(crate) keys: ApiKeys,
    store: MemoryStore,
    texts: Arc<[String]>,
    /// The number of each key, once, in random order.
    order: Vec<u32>,
    next: usize,
}

impl Traffic {
    /// So many requests are made in advance: few enough that they are still in the processor's
    /// cache when their turn comes, as a request is that was just read, and enough of them that
    /// reading the clock costs nothing.
    const AT_ONCE: u64 = 8;

    /// As many keys, each with two scopes and a limit that is never reached.
    pub(crate) fn among(count: u32) -> Self {
        Self::among_keys_of(count, |builder| builder)
    }

    /// The same, where keys are made in a special way.
    pub(crate) fn among_keys_of(
        count: u32,
        special: fn(Builder<MemoryStore>) -> Builder<MemoryStore>,
    ) -> Self {
        let store = MemoryStore::new();
        let keys = special(ApiKeys::builder(store.clone()).cache(cache(count))).build();
        let issue = async |number: u32| {
            let key = NewKey::named(format!("key {number}"))
                .owner(format!("owner {}", number / 10))
                .scopes(["orders:*", "invoices:read"])
                .limit(RateLimit::per_hour(1_000_000_000).named("hourly"));
            let issued = keys.issue(key).await.expect("a key can be issued");
            issued.secret().expose().to_owned()
        };
        let texts = Handle::current().block_on(async {
            let mut texts = Vec::new();
            for number in 0..count {
                texts.push(issue(number).await);
            }
            texts
        });
        let mut order: Vec<_> = (0..count).collect();
        // Random, and the same in every run.
        order.sort_by_cached_key(|number| *KeyDigest::sha256(&number.to_string()).as_bytes());
        Self {
            keys,
            store,
            texts: texts.into(),
            order,
            next: 0,
        }
    }

    /// The same keys, each changed a bit, in a store of their own.
    pub(crate) fn changed(&self, change: impl Fn(&mut KeyRecord)) -> ApiKeys {
        let copy = MemoryStore::new();
        Handle::current().block_on(async {
            let mut filter = KeyFilter::default();
            filter.limit = 10_000;
            loop {
                let page = self.store.list(&filter).await.expect("it is in memory");
                for mut key in page.keys {
                    change(&mut key.record);
                    let event = KeyEvent {
                        key: key.record.id,
                        at: key.record.created_at,
                        action: EventAction::Issued,
                        actor: None,
                    };
                    let inserted = copy.insert(&key.record, &key.credentials[0], &event).await;
                    inserted.expect("no key is there twice");
                }
                filter.after = page.next;
                if page.next.is_none() {
                    break;
                }
            }
        });
        // Nothing is written in between, and no lease is given back.
        ApiKeys::builder(copy)
            .cache(cache(u32::try_from(self.order.len()).expect("it was one")))
            .flush_interval(Duration::from_hours(24))
            .build()
    }

    /// The time that so many requests take, each with the next key.
    pub(crate) fn send(&mut self, requests: u64, contender: &mut Contender) -> Duration {
        let mut time = Duration::ZERO;
        let mut left = requests;
        while left > 0 {
            let visits: Vec<_> = (0..left.min(Self::AT_ONCE)).map(|_| self.visit()).collect();
            left -= u64::try_from(visits.len()).expect("few of them are made at once");
            time += contender.serve(visits);
        }
        time
    }

    /// Every key once, in order.
    pub(crate) fn all(&self) -> impl Iterator<Item = Visit> {
        self.order.iter().map(|&number| self.of(number))
    }

    /// Where [`Traffic::send`] goes on, to go back to.
    pub(crate) fn position(&self) -> usize {
        self.next
    }

    pub(crate) fn go_to(&mut self, position: usize) {
        self.next = position;
    }

    fn visit(&mut self) -> Visit {
        let number = self.order[self.next];
        self.next = (self.next + 1) % self.order.len();
        self.of(number)
    }

    fn of(&self, number: u32) -> Visit {
        Visit {
            number,
            text: self.texts[usize::try_from(number).expect("fits an index")].clone(),
        }
    }
}

/// Nothing leaves the cache.
fn cache(count: u32) -> CacheConfig {
    CacheConfig::default()
        .capacity(u64::from(count) * 2)
        .ttl(Duration::from_hours(24))
}

/// The use of a key that is about to happen.
pub(crate) struct Visit {
    number: u32,
    pub(crate) text: String,
}

impl Visit {
    /// A request as a server hands it on: with the headers that nearly all have, the value of each
    /// a part of what was read, and the client's address, another one for each key.
    pub(crate) fn request(self) -> Request<Body> {
        let bearer = Bytes::from(format!("Bearer {}", self.text));
        let bearer = HeaderValue::from_maybe_shared(bearer).expect("a key is visible ASCII");
        let address = Ipv4Addr::from_bits(Ipv4Addr::new(10, 0, 0, 0).to_bits() + self.number);
        Request::get("/orders")
            .header(HOST, "api.example.com")
            .header(USER_AGENT, "example-client/1.0")
            .header(ACCEPT, "application/json")
            .header(AUTHORIZATION, bearer)
            .extension(ConnectInfo(SocketAddr::from((address, 50_000))))
            .body(Body::empty())
            .expect("the request is well-formed")
    }
}
