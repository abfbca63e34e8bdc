//! What several files of this suite share: keys on a manual clock over a store that obeys, and
//! answers that can be compared whole; keys to put into a store.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt;
use jiff::Timestamp;
use tower::{Service, ServiceExt};
use tower_api_key::testing::{ManualClock, ScriptedStore};
use tower_api_key::{
    ApiKeyLayer, ApiKeys, Builder, Credential, EventAction, Issued, Key, KeyDigest, KeyEvent,
    KeyFormat, KeyId, KeyRecord, KeyRepository, MemoryStore, NewKey, RateLimit, RateLimits,
    ScopeSet,
};

/// Keys of the kinds `sk` and `pk`, and everything a test wants to turn.
pub(crate) struct Bench {
    pub(crate) keys: ApiKeys,
    pub(crate) store: ScriptedStore<MemoryStore>,
    pub(crate) clock: ManualClock,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::with(|builder| builder)
    }

    pub(crate) fn with(
        set_up: impl FnOnce(Builder<ScriptedStore<MemoryStore>>) -> Builder<ScriptedStore<MemoryStore>>,
    ) -> Self {
        let (store, clock) = (
            ScriptedStore::new(MemoryStore::new()),
            ManualClock::default(),
        );
        let builder = ApiKeys::builder(store.clone())
            .format(KeyFormat::new("sk").prefix("pk"))
            .clock(clock.clone());
        Self {
            keys: set_up(builder).build(),
            store,
            clock,
        }
    }

    pub(crate) fn layer(&self) -> ApiKeyLayer {
        ApiKeyLayer::new(&self.keys)
    }

    pub(crate) async fn issue(&self, key: NewKey) -> Issued {
        self.keys.issue(key).await.unwrap()
    }

    /// The secret of a new key.
    pub(crate) async fn secret(&self, key: NewKey) -> String {
        self.issue(key).await.secret().expose().to_owned()
    }

    /// How many requests of a key were let through, and how many were refused.
    pub(crate) async fn used(&self, issued: &Issued) -> (u64, u64) {
        self.keys.flush().await.unwrap();
        let (from, to) = (jiff::Timestamp::MIN, jiff::Timestamp::MAX);
        let id = issued.key().record.id;
        let buckets = self.keys.usage(id, from, to).await.unwrap();
        buckets.iter().fold((0, 0), |(allowed, denied), bucket| {
            (allowed + bucket.allowed, denied + bucket.denied)
        })
    }
}

pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// A limit of `quota` units in so many seconds.
pub(crate) fn limit(name: &str, quota: u64, seconds: u64) -> RateLimit {
    RateLimit::new(name, quota, Duration::from_secs(seconds)).unwrap()
}

/// A GET of `uri` with these header lines.
pub(crate) fn get(uri: &str, lines: &[(&str, &[u8])]) -> Request<Body> {
    let mut request = Request::get(uri);
    for (name, value) in lines {
        request = request.header(*name, *value);
    }
    request.body(Body::empty()).unwrap()
}

/// A GET of `/` with this key as a bearer token.
pub(crate) fn bearing(key: &str) -> Request<Body> {
    get(
        "/",
        &[("authorization", format!("Bearer {key}").as_bytes())],
    )
}

/// A whole answer. `content-length` is left out: axum adds it, and the body is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Sorted by name.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Answer {
    /// All lines of a header as one, or nothing.
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        let lines: Vec<_> = self
            .headers
            .iter()
            .filter(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
            .collect();
        (!lines.is_empty()).then(|| lines.join(", "))
    }

    /// The `code` of a problem.
    pub(crate) fn code(&self) -> String {
        let problem: serde_json::Value = serde_json::from_str(&self.body).unwrap_or_default();
        problem["code"].as_str().unwrap_or_default().to_owned()
    }
}

/// Sends one request to a clone of `app`.
pub(crate) async fn send<S, B>(app: &S, request: Request<Body>) -> Answer
where
    S: Service<Request<Body>, Response = Response<B>> + Clone,
    S::Error: std::fmt::Debug,
    B: http_body::Body<Data = Bytes>,
    B::Error: std::fmt::Debug,
{
    whole(app.clone().oneshot(request).await.unwrap()).await
}

pub(crate) async fn whole<B>(response: Response<B>) -> Answer
where
    B: http_body::Body<Data = Bytes>,
    B::Error: std::fmt::Debug,
{
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Answer {
        status: parts.status.as_u16(),
        headers: sorted(&parts.headers),
        body: String::from_utf8(body.to_vec()).unwrap(),
    }
}

fn sorted(headers: &HeaderMap) -> Vec<(String, String)> {
    let mut lines: Vec<_> = headers
        .iter()
        .filter(|(name, _)| *name != http::header::CONTENT_LENGTH)
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
        .collect();
    // Lines of one name keep their order.
    lines.sort_by(|(one, _), (other, _)| one.cmp(other));
    lines
}

/// What a panic said.
pub(crate) fn panic_message(work: impl FnOnce()) -> String {
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_err();
    match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => (*panic.downcast_ref::<&str>().unwrap_or(&"")).to_owned(),
    }
}

/// Writes a key straight into a store.
pub(crate) async fn insert(store: &impl KeyRepository) -> Key {
    let record = KeyRecord {
        id: KeyId::generate(Timestamp::UNIX_EPOCH),
        version: 1,
        name: "billing".into(),
        owner: Some("acme".into()),
        prefix: "sk".into(),
        environment: "live".into(),
        scopes: ScopeSet::default(),
        limits: RateLimits::default(),
        credits: None,
        metadata: [("plan".to_owned(), "pro".to_owned())].into(),
        allowed_addresses: vec![],
        enabled: true,
        created_at: Timestamp::UNIX_EPOCH,
        expires_at: None,
        revoked_at: None,
    };
    let credential = Credential {
        digest: KeyDigest::sha256(&record.id.to_string()),
        pepper: None,
        start: "sk_live_8fJ2".into(),
        imported: false,
        created_at: Timestamp::UNIX_EPOCH,
        expires_at: None,
        last_used_at: None,
    };
    store
        .insert(&record, &credential, &event(record.id))
        .await
        .unwrap();
    Key {
        record,
        credentials: vec![credential],
    }
}

pub(crate) fn event(key: KeyId) -> KeyEvent {
    KeyEvent {
        key,
        at: Timestamp::UNIX_EPOCH,
        action: EventAction::Issued,
        actor: None,
    }
}
