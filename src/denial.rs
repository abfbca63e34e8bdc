//! Why a request is refused.
//!
//! A client learns the [`DenialKind`]. The [`DenialReason`], which tells an unknown key from a
//! revoked one, is for logs and metrics only: answers that differ would tell an attacker which
//! stolen keys were real.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::cache::{CachedKey, Outage};
use crate::credits::CreditOutage;
use crate::limit::{LimitReport, LimiterOutage};
use crate::record::KeyId;
use crate::scope::Scope;

/// Why a request is refused. Small, opaque, and never shows a secret.
pub struct Denial(Box<Inner>);

struct Inner {
    kind: DenialKind,
    reason: DenialReason,
    key: Option<Arc<CachedKey>>,
    required: Vec<Scope>,
    limits: LimitReport,
    retry_after: Option<Duration>,
    source: Option<Box<dyn Error + Send + Sync>>,
}

/// What a client is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DenialKind {
    /// The key may not be used from this address (403).
    AddressNotAllowed,
    /// The key has too few credits left (429).
    CreditsExhausted,
    /// The request came in clear text, with a key or without one (403).
    InsecureTransport,
    /// The key lacks a scope that is required here (403).
    InsufficientScope,
    /// The credential is no valid key (401).
    InvalidKey,
    /// The request has more than one credential (400).
    InvalidRequest,
    /// The request has no credential (401).
    MissingKey,
    /// A rate limit is exceeded (429).
    RateLimited,
    /// Too many attempts with bad keys came from this address (429).
    TooManyFailures,
    /// Whether the key is valid, or within its limits, cannot be told at present (503).
    Unavailable,
}

impl DenialKind {
    /// The name in the answer's `code`.
    pub const fn code(self) -> &'static str {
        match self {
            Self::AddressNotAllowed => "address_not_allowed",
            Self::CreditsExhausted => "credits_exhausted",
            Self::InsecureTransport => "insecure_transport",
            Self::InsufficientScope => "insufficient_scope",
            Self::InvalidKey => "invalid_key",
            Self::InvalidRequest => "invalid_request",
            Self::MissingKey => "missing_key",
            Self::RateLimited => "rate_limited",
            Self::TooManyFailures => "too_many_failures",
            Self::Unavailable => "unavailable",
        }
    }
}

/// What really was the matter, for logs and metrics. Never told to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DenialReason {
    /// The address is not in the key's list, or is not known.
    Address,
    /// The request has more than one credential.
    Ambiguous,
    /// The cost of the request is above the quota, or above what a refill brings: it can never
    /// succeed.
    Cost,
    /// The key has too few credits left.
    Credits,
    /// The key is switched off.
    Disabled,
    /// A credential is there, but empty.
    Empty,
    /// The key is of an environment that is not accepted here.
    Environment,
    /// The key or this credential of it has ended by time.
    Expired,
    /// Too many bad attempts from this address.
    Failures,
    /// The credential was imported, and imported ones are not accepted.
    Imported,
    /// The limiter could not tell.
    Limiter,
    /// It is not the text of a key.
    Malformed,
    /// There is no credential.
    Missing,
    /// The key is of a kind that is not accepted here.
    Prefix,
    /// A quota is used up.
    Quota,
    /// The key was ended for good.
    Revoked,
    /// A scope is missing.
    Scope,
    /// The store could not tell.
    Store,
    /// The request came over a connection that is not encrypted.
    Transport,
    /// The store has no such key.
    Unknown,
}

impl DenialReason {
    /// The name in logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Ambiguous => "ambiguous",
            Self::Cost => "cost",
            Self::Credits => "credits",
            Self::Disabled => "disabled",
            Self::Empty => "empty",
            Self::Environment => "environment",
            Self::Expired => "expired",
            Self::Failures => "failures",
            Self::Imported => "imported",
            Self::Limiter => "limiter",
            Self::Malformed => "malformed",
            Self::Missing => "missing",
            Self::Prefix => "prefix",
            Self::Quota => "quota",
            Self::Revoked => "revoked",
            Self::Scope => "scope",
            Self::Store => "store",
            Self::Transport => "transport",
            Self::Unknown => "unknown",
        }
    }
}

impl Denial {
    /// How long a client is asked to wait when the store or the limiter cannot be reached.
    const OUTAGE_RETRY: Duration = Duration::from_secs(1);

    /// What the client is told.
    pub fn kind(&self) -> DenialKind {
        self.0.kind
    }

    /// What really was the matter. Do not tell the client.
    pub fn reason(&self) -> DenialReason {
        self.0.reason
    }

    /// The key that was refused, where the credential is one that is stored.
    pub fn key_id(&self) -> Option<KeyId> {
        self.key().map(|key| key.record.id)
    }

    pub(crate) fn key(&self) -> Option<&CachedKey> {
        self.0.key.as_deref()
    }

    pub(crate) fn shared_key(&self) -> Option<&Arc<CachedKey>> {
        self.0.key.as_ref()
    }

    /// The scopes that are required here, all of them; those granted are not told.
    pub fn required_scopes(&self) -> &[Scope] {
        &self.0.required
    }

    /// The limits that were checked; for a key that was not verified there are none.
    pub fn limits(&self) -> &LimitReport {
        &self.0.limits
    }

    /// How long to wait before the same request can succeed; none where waiting does not help.
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    pub(crate) fn missing_key() -> Self {
        Self::new(DenialKind::MissingKey, DenialReason::Missing)
    }

    pub(crate) fn ambiguous() -> Self {
        Self::new(DenialKind::InvalidRequest, DenialReason::Ambiguous)
    }

    pub(crate) fn invalid_key(reason: DenialReason) -> Self {
        Self::new(DenialKind::InvalidKey, reason)
    }

    pub(crate) fn address_not_allowed() -> Self {
        Self::new(DenialKind::AddressNotAllowed, DenialReason::Address)
    }

    pub(crate) fn insufficient_scope(required: impl IntoIterator<Item = Scope>) -> Self {
        let mut denial = Self::new(DenialKind::InsufficientScope, DenialReason::Scope);
        denial.0.required.extend(required);
        denial
    }

    pub(crate) fn insecure_transport() -> Self {
        Self::new(DenialKind::InsecureTransport, DenialReason::Transport)
    }

    pub(crate) fn rate_limited(limits: LimitReport) -> Self {
        let retry_after = limits.retry_after();
        let reason = if retry_after.is_some() {
            DenialReason::Quota
        } else {
            DenialReason::Cost
        };
        let mut denial = Self::new(DenialKind::RateLimited, reason);
        denial.0.retry_after = retry_after;
        denial.0.limits = limits;
        denial
    }

    /// Too few credits remain, for so long; or for good, where a refill brings too few as well.
    pub(crate) fn credits_exhausted(retry_after: Option<Duration>, never: bool) -> Self {
        let reason = if never {
            DenialReason::Cost
        } else {
            DenialReason::Credits
        };
        let mut denial = Self::new(DenialKind::CreditsExhausted, reason);
        denial.0.retry_after = retry_after;
        denial
    }

    pub(crate) fn too_many_failures(retry_after: Duration) -> Self {
        let mut denial = Self::new(DenialKind::TooManyFailures, DenialReason::Failures);
        denial.0.retry_after = Some(retry_after);
        denial
    }

    fn unavailable(reason: DenialReason, source: impl Error + Send + Sync + 'static) -> Self {
        let mut denial = Self::new(DenialKind::Unavailable, reason);
        denial.0.retry_after = Some(Self::OUTAGE_RETRY);
        denial.0.source = Some(Box::new(source));
        denial
    }

    pub(crate) fn with_limits(mut self, limits: LimitReport) -> Self {
        self.0.limits = limits;
        self
    }

    pub(crate) fn of_key(mut self, key: &Arc<CachedKey>) -> Self {
        self.0.key = Some(Arc::clone(key));
        self
    }

    fn new(kind: DenialKind, reason: DenialReason) -> Self {
        Self(Box::new(Inner {
            kind,
            reason,
            key: None,
            required: Vec::new(),
            limits: LimitReport::default(),
            retry_after: None,
            source: None,
        }))
    }
}

impl From<Outage> for Denial {
    fn from(outage: Outage) -> Self {
        Self::unavailable(DenialReason::Store, outage)
    }
}

impl From<CreditOutage> for Denial {
    fn from(outage: CreditOutage) -> Self {
        Self::unavailable(DenialReason::Store, outage)
    }
}

impl From<LimiterOutage> for Denial {
    fn from(outage: LimiterOutage) -> Self {
        Self::unavailable(DenialReason::Limiter, outage)
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.0.kind, self.0.reason) {
            (DenialKind::AddressNotAllowed, _) => "the API key may not be used from this address",
            (DenialKind::CreditsExhausted, DenialReason::Cost) => {
                "the request costs more credits than a refill brings, so it cannot succeed"
            }
            (DenialKind::CreditsExhausted, _) if self.0.retry_after.is_some() => {
                "the API key has too few credits left until the next refill"
            }
            (DenialKind::CreditsExhausted, _) => {
                "the API key has too few credits left, and no refill is due"
            }
            (DenialKind::InsecureTransport, _) => {
                "the request came without TLS: others can read an API key in it, so replace that key"
            }
            (DenialKind::InsufficientScope, _) => "the API key lacks a scope that is required here",
            (DenialKind::InvalidKey, _) => "the API key is not valid",
            (DenialKind::InvalidRequest, _) => "the request carries more than one API key",
            (DenialKind::MissingKey, _) => "an API key is required",
            (DenialKind::RateLimited, DenialReason::Cost) => {
                "the request costs more than the limit ever allows, so it cannot succeed"
            }
            (DenialKind::RateLimited, _) => "the API key's rate limit is exceeded",
            (DenialKind::TooManyFailures, _) => {
                "too many requests with invalid API keys came from this address"
            }
            (DenialKind::Unavailable, _) => "the API key cannot be verified at present",
        })
    }
}

impl fmt::Debug for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Denial")
            .field("kind", &self.0.kind)
            .field("reason", &self.0.reason)
            .field("key", &self.key_id())
            .field("retry_after", &self.0.retry_after)
            .field("source", &self.0.source)
            .finish_non_exhaustive()
    }
}

impl Error for Denial {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}
