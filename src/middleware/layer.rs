use std::fmt;
use std::sync::Arc;

#[cfg(feature = "admin")]
use http::Request;
use http::request::Parts;
use http::{HeaderValue, Response};
use tower_layer::Layer;

use super::exposure::Exposure;
use super::response::DEFAULT_REALM;
use super::{ApiKeyService, CredentialSources, DenialBody, TrustedProxies};
use crate::denial::Denial;
use crate::limit::RateLimit;
#[cfg(feature = "admin")]
use crate::principal::KeyPrincipal;
use crate::registry::ApiKeys;
use crate::requirements::{LayerId, LimitBy, Requirements};
#[cfg(feature = "admin")]
use crate::verify::ActingKey;
use crate::verify::Verifier;

/// Lets only requests with a good key through.
///
/// What it does with a request, in this order:
///
/// 1. Where [`ApiKeyLayer::require_tls`] says so, a request in clear text is refused, whatever it
///    holds.
/// 2. A true CORS preflight passes, where [`ApiKeyLayer::allow_preflight`] says so.
/// 3. A request that an outer layer of the same keys has verified is not verified again. What
///    this layer requires comes on top, and so do its limits and its cost, but for those that it
///    has from the outer one. If it refuses the request, the outer one takes back its charge.
/// 4. The credential is looked for in every source ([`CredentialSources`]). None at all passes in
///    optional mode and is refused otherwise; more than one is refused always.
/// 5. [`Verifier`] decides.
/// 6. The credential is taken out of the request, and the [`KeyPrincipal`](crate::KeyPrincipal)
///    put into its extensions. Credentials that are not looked at, because of 1 to 4, are taken
///    out as well.
/// 7. The answer of a verified key tells its limits, and that it depends on the header that the
///    key came in. A refusal counts in the limits of layers further inside, at a route that was
///    reached before.
///
/// A key in the cache is decided on without waiting, and the future of the inner service follows
/// at once; where the store or Redis has to be asked, the service that was made ready waits.
///
/// The layer itself carries what a route asks for, and every method makes a new layer from this
/// one, so that one layer serves as the root of all:
///
/// ```
/// use tower_api_key::{ApiKeyLayer, ApiKeys, MemoryStore};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let keys = ApiKeys::builder(MemoryStore::new()).build();
/// let auth = ApiKeyLayer::new(&keys);
/// let read = auth.scopes(["orders:read"]);
/// let write = auth.scopes(["orders:write"]).cost(5);
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct ApiKeyLayer {
    pub(super) policy: Arc<Policy>,
}

/// Changes the answer to a refused request.
pub(super) type DenialHook =
    Arc<dyn Fn(&Denial, &Parts, Response<DenialBody>) -> Response<DenialBody> + Send + Sync>;

/// What a layer does, shared by all its services.
#[derive(Clone)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one switch of the layer"
)]
pub(super) struct Policy {
    pub(super) verifier: Verifier,
    pub(super) needs: Requirements,
    pub(super) sources: CredentialSources,
    /// The headers among them, as `Vary` names them.
    pub(super) key_headers: Option<HeaderValue>,
    pub(super) optional: bool,
    pub(super) allow_preflight: bool,
    pub(super) keep_credential: bool,
    pub(super) legacy_headers: bool,
    pub(super) require_tls: bool,
    pub(super) exposure: Option<Exposure>,
    pub(super) proxies: Option<TrustedProxies>,
    pub(super) realm: Arc<str>,
    pub(super) hook: Option<DenialHook>,
}

impl ApiKeyLayer {
    /// Lets any valid secret key through. `keys` is an [`ApiKeys`](crate::ApiKeys), or a
    /// [`Verifier`] alone.
    pub fn new(keys: &impl AsRef<Verifier>) -> Self {
        let sources = CredentialSources::default();
        let policy = Policy {
            verifier: keys.as_ref().clone(),
            needs: Requirements {
                layer: LayerId::next(),
                ..Requirements::new()
            },
            key_headers: sources.key_headers(),
            sources,
            optional: false,
            allow_preflight: false,
            keep_credential: false,
            legacy_headers: false,
            require_tls: false,
            exposure: None,
            proxies: None,
            realm: DEFAULT_REALM.into(),
            hook: None,
        };
        Self {
            policy: Arc::new(policy),
        }
    }

    /// Requires these scopes, all of them, beside those required already.
    ///
    /// # Panics
    ///
    /// When one is not a literal scope: a required scope has no wildcard.
    pub fn scopes<S: AsRef<str>>(&self, scopes: impl IntoIterator<Item = S>) -> Self {
        self.with_needs(|needs| needs.scopes(scopes))
    }

    /// Accepts keys of these prefixes too, beside the format's first. Default: none.
    ///
    /// # Panics
    ///
    /// When the format of the keys has no such prefix.
    pub fn accept_prefixes<S: AsRef<str>>(&self, prefixes: impl IntoIterator<Item = S>) -> Self {
        let format = self.policy.verifier.format();
        let known = prefixes.into_iter().inspect(|prefix| {
            let prefix = prefix.as_ref();
            assert!(
                format.has_prefix(prefix),
                "the key format has no prefix {prefix:?}"
            );
        });
        self.with_needs(|needs| needs.accept_prefixes(known))
    }

    /// Accepts keys of these environments only. Default: of all.
    ///
    /// # Panics
    ///
    /// When the format of the keys has no such environment.
    pub fn environments<S: AsRef<str>>(&self, names: impl IntoIterator<Item = S>) -> Self {
        let format = self.policy.verifier.format();
        let known = names.into_iter().inspect(|name| {
            let name = name.as_ref();
            assert!(
                format.has_environment(name),
                "the key format has no environment {name:?}"
            );
        });
        self.with_needs(|needs| needs.environments(known))
    }

    /// How many units of each limit, and of the key's [credits](crate::Credits), a request takes.
    /// Default: 1.
    pub fn cost(&self, units: u64) -> Self {
        self.with_needs(|needs| needs.cost(units))
    }

    /// The limits of keys that have none of their own. Default: none.
    ///
    /// # Panics
    ///
    /// When there are more than [`RateLimits::MAX_LEN`](crate::RateLimits::MAX_LEN) or two have
    /// one name.
    pub fn default_limits(&self, limits: impl IntoIterator<Item = RateLimit>) -> Self {
        self.with_needs(|needs| needs.default_limits(limits))
    }

    /// Limits of this route, charged beside the key's own. Routes whose limits have the same name
    /// and window share them. Default: none.
    ///
    /// # Panics
    ///
    /// As [`ApiKeyLayer::default_limits`].
    pub fn route_limits(&self, limits: impl IntoIterator<Item = RateLimit>) -> Self {
        self.with_needs(|needs| needs.route_limits(limits))
    }

    /// Whom the limits count for. Default: each key for itself.
    pub fn limit_by(&self, whom: LimitBy) -> Self {
        self.with_needs(|needs| needs.limit_by(whom))
    }

    /// Lets a request without any credential through, without a principal; a bad credential is
    /// still refused. `Vary` names the headers that a key may come in, so that no cache gives the
    /// answer to a request that has one. Default: off.
    pub fn optional(&self) -> Self {
        self.with(|policy| policy.optional = true)
    }

    /// Lets CORS preflights through without a key: `OPTIONS` with `Origin` and
    /// `Access-Control-Request-Method`, which browsers send without credentials (Fetch §3.2.2).
    /// Default: off, for a CORS layer outside of this one answers them itself.
    pub fn allow_preflight(&self) -> Self {
        self.with(|policy| policy.allow_preflight = true)
    }

    /// Where the key may be. Default: `Authorization: Bearer` and `X-API-Key`.
    pub fn sources(&self, sources: CredentialSources) -> Self {
        self.with(|policy| {
            policy.key_headers = sources.key_headers();
            policy.sources = sources;
        })
    }

    /// Believes these proxies about who the client is, for failed attempts and for the addresses
    /// that a key allows, and about whether it came over TLS. Default: nobody is believed, and the
    /// client is who holds the connection.
    pub fn trust_proxies(&self, proxies: TrustedProxies) -> Self {
        self.with(|policy| policy.proxies = Some(proxies))
    }

    /// Refuses every request that comes in clear text (403 `insecure_transport`). Default: off.
    ///
    /// The answer has the same bytes with a good key, a bad one, several or none, so it shows
    /// nobody whether a key is good. There is no redirect, which would teach clients to go on so
    /// (draft-ietf-httpapi-privacy-06, *Protecting Credentials with HTTP APIs*). That includes CORS
    /// preflights and [optional](Self::optional) routes. Set this on the outermost layer: a layer
    /// around it answers first.
    ///
    /// A request counts as encrypted when a [trusted proxy](Self::trust_proxies) says so, and
    /// without its word when [`SecureTransport`](crate::SecureTransport) in the extensions does. A
    /// target or an HTTP/2 `:scheme` of `https` proves nothing, for a client can write it on any
    /// connection.
    ///
    /// The answer comes too late for the key in the request: also serve HSTS (RFC 6797), over TLS.
    pub fn require_tls(&self) -> Self {
        self.with(|policy| policy.require_tls = true)
    }

    /// As [`require_tls`](Self::require_tls), and also disables the keys that were seen in clear
    /// text: others on the way may have them now. The audit trail names `clear_text` as the actor.
    /// A key's owner can be given a new secret by rotating and enabling it.
    ///
    /// Each credential counts, also among several; of more than 16 the first ones. A key is
    /// disabled where it is active, this layer accepts its kind and environment, and its kind is
    /// [secret](crate::KeyFormat::is_secret): publishable keys may be seen by anybody. Everything
    /// else is a failed attempt, and an address with too [many](crate::Builder::failed_attempts)
    /// causes no further lookup. All of it happens in the background, at most eight lookups at one
    /// time.
    pub fn disable_exposed(&self, keys: &ApiKeys) -> Self {
        let exposure = Exposure::new(keys);
        self.with(|policy| {
            policy.require_tls = true;
            policy.exposure = Some(exposure);
        })
    }

    /// Leaves the credential in the request, for a handler that passes it on. Default: it is
    /// removed before the handler sees the request.
    pub fn keep_credential(&self) -> Self {
        self.with(|policy| policy.keep_credential = true)
    }

    /// Also sends the older `X-RateLimit-Limit`, `-Remaining` and `-Reset` (in seconds from now)
    /// for the tightest limit. Default: off.
    pub fn legacy_limit_headers(&self) -> Self {
        self.with(|policy| policy.legacy_headers = true)
    }

    /// The `realm` of the challenge. Default: `api`.
    ///
    /// # Panics
    ///
    /// When it is longer than 256 bytes, or has a character other than visible ASCII and spaces, or
    /// a quote or backslash.
    pub fn realm(&self, realm: &str) -> Self {
        let plain = |byte: u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
        assert!(
            realm.len() <= 256 && realm.bytes().all(plain),
            "invalid realm {realm:?}: use up to 256 bytes of visible ASCII, no quotes"
        );
        self.with(|policy| policy.realm = realm.into())
    }

    /// Changes the answer to refused requests: the function gets the denial, the request without
    /// its credential, and the answer as it would be sent, whose status and headers stay unless
    /// it changes them. Default: the answer is sent as it is.
    ///
    /// Do not tell the client the denial's `reason()`: it tells a key that was revoked from one
    /// that never was.
    ///
    /// ```
    /// # use tower_api_key::{ApiKeyLayer, ApiKeys, MemoryStore};
    /// # fn layer(auth: &ApiKeyLayer) -> ApiKeyLayer {
    /// auth.on_denial(|denial, _request, answer| {
    ///     answer.map(|_| format!("{{\"error\": \"{}\"}}", denial.kind().code()).into())
    /// })
    /// # }
    /// ```
    pub fn on_denial<F>(&self, hook: F) -> Self
    where
        F: Fn(&Denial, &Parts, Response<DenialBody>) -> Response<DenialBody>
            + Send
            + Sync
            + 'static,
    {
        self.with(|policy| policy.hook = Some(Arc::new(hook)))
    }

    /// The answer to a request that this layer let through, and a handler behind it did not.
    #[cfg(feature = "admin")]
    pub(crate) fn refuse(&self, denial: &Denial, request: Request<()>) -> Response<DenialBody> {
        super::response::refuse(&self.policy, denial, request, true)
    }

    /// The key behind a request that this layer let through, to be decided on again later.
    #[cfg(feature = "admin")]
    pub(crate) fn acting_key(&self, principal: KeyPrincipal, request: &Request<()>) -> ActingKey {
        let Policy {
            verifier, needs, ..
        } = &*self.policy;
        ActingKey::new(verifier, principal, self.policy.origin(request), needs)
    }

    fn with_needs(&self, change: impl FnOnce(Requirements) -> Requirements) -> Self {
        self.with(|policy| policy.needs = change(std::mem::take(&mut policy.needs)))
    }

    fn with(&self, change: impl FnOnce(&mut Policy)) -> Self {
        let mut policy = (*self.policy).clone();
        change(&mut policy);
        policy.needs.layer = LayerId::next();
        Self {
            policy: Arc::new(policy),
        }
    }
}

impl<S> Layer<S> for ApiKeyLayer {
    type Service = ApiKeyService<S>;

    fn layer(&self, inner: S) -> ApiKeyService<S> {
        ApiKeyService::new(inner, Arc::clone(&self.policy))
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policy")
            .field("needs", &self.needs)
            .field("sources", &self.sources)
            .field("optional", &self.optional)
            .finish_non_exhaustive()
    }
}
