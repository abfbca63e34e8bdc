use std::task::{Context, Poll};
use std::time::Duration;

use http::Request;
use jiff::Timestamp;
use tower_layer::Layer;
use tower_service::Service;

use crate::bill::Bill;
use crate::cache::{Asked, CachedKey};
use crate::clock::Moment;
use crate::key::{KeyDigest, KeyFormat};
use crate::limit::Decision;
use crate::principal::{KeyPrincipal, Realm};
use crate::record::Credential;
use crate::registry::NewKey;
use crate::store::StoredKey;
use crate::verify::{Admission, Verifier};

/// Makes a [`KeyPrincipal`] that was never a key, for handler tests.
///
/// ```
/// use tower_api_key::{NewKey, testing::TestPrincipal};
///
/// let principal = TestPrincipal::new(NewKey::named("billing").scopes(["orders:read"])).build();
/// assert!(principal.require("orders:read").is_ok());
/// ```
#[derive(Debug)]
#[must_use]
pub struct TestPrincipal {
    key: NewKey,
    format: KeyFormat,
    realm: Realm,
}

impl TestPrincipal {
    /// What the principal shall say of its key. The prefix must be `sk`, `pk` or `rk` and the
    /// environment `live` or `test`, unless [`of`](Self::of) says whose principal it is.
    pub fn new(key: NewKey) -> Self {
        Self {
            key,
            format: KeyFormat::new("sk").prefix("pk").prefix("rk"),
            realm: Realm::new(),
        }
    }

    /// Makes the layers of `keys` take the principal for one that an outer layer of theirs has
    /// verified, so that a whole router can be tested: its layers check scopes and limits, but
    /// look for no key.
    pub fn of(mut self, keys: &impl AsRef<Verifier>) -> Self {
        self.format = keys.as_ref().format().clone();
        self.realm = keys.as_ref().realm();
        self
    }

    /// The principal.
    ///
    /// # Panics
    ///
    /// When a value of the key is not valid.
    pub fn build(self) -> KeyPrincipal {
        let now = Timestamp::UNIX_EPOCH;
        let mut record = self
            .key
            .into_record(&self.format, now)
            .unwrap_or_else(|error| panic!("invalid key for a test: {error}"));
        // A handler sees nothing of credits, and there is no balance that they could be charged to.
        record.credits = None;
        let credential = Credential {
            digest: KeyDigest::OF_TESTS,
            pepper: None,
            start: format!("{}_{}_test", record.prefix, record.environment),
            imported: false,
            created_at: now,
            expires_at: None,
            last_used_at: None,
        };
        let key = CachedKey::new(StoredKey { record, credential }, Asked::default());
        let bill = Bill::nothing(Moment::new(now, Duration::ZERO));
        KeyPrincipal::new(Admission {
            key: key.into(),
            realm: self.realm,
            bill,
            decision: Decision::default(),
        })
    }
}

/// Gives every request the same principal, without any key.
///
/// ```
/// use tower_api_key::NewKey;
/// use tower_api_key::testing::{PrincipalLayer, TestPrincipal};
///
/// let layer = PrincipalLayer::new(TestPrincipal::new(NewKey::named("billing")).build());
/// ```
#[derive(Clone, Debug)]
pub struct PrincipalLayer {
    principal: KeyPrincipal,
}

impl PrincipalLayer {
    /// A layer that gives every request `principal`.
    pub fn new(principal: KeyPrincipal) -> Self {
        Self { principal }
    }
}

impl<S> Layer<S> for PrincipalLayer {
    type Service = PrincipalService<S>;

    fn layer(&self, inner: S) -> PrincipalService<S> {
        PrincipalService {
            inner,
            principal: self.principal.clone(),
        }
    }
}

/// The service that [`PrincipalLayer`] makes.
#[derive(Clone, Debug)]
pub struct PrincipalService<S> {
    inner: S,
    principal: KeyPrincipal,
}

impl<S: Service<Request<B>>, B> Service<Request<B>> for PrincipalService<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> S::Future {
        request.extensions_mut().insert(self.principal.clone());
        self.inner.call(request)
    }
}
