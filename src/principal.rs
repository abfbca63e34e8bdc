use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ipnet::IpNet;
use jiff::Timestamp;

use crate::cache::CachedKey;
use crate::denial::Denial;
use crate::record::KeyId;
use crate::scope::{Scope, ScopeSet};
use crate::verify::Admission;

/// The verified key behind a request: what a handler sees of it.
///
/// An axum handler takes it as an argument (with the feature `axum`); elsewhere it is in the
/// request's extensions. Cloning costs a reference count.
#[derive(Clone)]
pub struct KeyPrincipal {
    pub(crate) admission: Arc<Admission>,
    /// Whether an outer layer has taken it on to write what the answer says of limits.
    pub(crate) answered: bool,
}

impl KeyPrincipal {
    #[inline]
    pub(crate) fn new(admission: Admission) -> Self {
        Self {
            admission: Arc::new(admission),
            answered: false,
        }
    }

    #[inline]
    pub(crate) fn key(&self) -> &Arc<CachedKey> {
        &self.admission.key
    }

    #[inline]
    pub(crate) fn realm(&self) -> Realm {
        self.admission.realm
    }

    /// The key's stable identity.
    pub fn key_id(&self) -> KeyId {
        self.key().record.id
    }

    /// What people call the key.
    pub fn name(&self) -> &str {
        &self.key().record.name
    }

    /// Whom the key belongs to.
    pub fn owner(&self) -> Option<&str> {
        self.key().record.owner.as_deref()
    }

    /// What kind of key it is, as in `sk`.
    pub fn prefix(&self) -> &str {
        &self.key().record.prefix
    }

    /// `live`, `test`, or what the application's format names.
    pub fn environment(&self) -> &str {
        &self.key().record.environment
    }

    /// What the key may do.
    pub fn scopes(&self) -> &ScopeSet {
        &self.key().record.scopes
    }

    /// What the application keeps with the key.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.key().record.metadata
    }

    /// The networks the key may be used from; everywhere, where there are none.
    pub fn allowed_addresses(&self) -> &[IpNet] {
        &self.key().record.allowed_addresses
    }

    /// The part of the presented secret that may be shown, as in `sk_live_8fJ2`.
    pub fn credential_start(&self) -> &str {
        &self.key().credential.start
    }

    /// When the presented secret ends, because it was rotated or because the key ends: a service
    /// can warn the client of it.
    pub fn expires_at(&self) -> Option<Timestamp> {
        [
            self.key().credential.expires_at,
            self.key().record.expires_at,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Checks a scope that depends on the resource, inside a handler.
    ///
    /// ```
    /// # use tower_api_key::{Denial, KeyPrincipal};
    /// fn delete(principal: &KeyPrincipal, collection: &str) -> Result<(), Denial> {
    ///     principal.require(&format!("{collection}:delete"))
    /// }
    /// ```
    ///
    /// The request has been charged by then: a scope that a route always needs belongs to its layer.
    ///
    /// # Errors
    ///
    /// A [`Denial`] of kind `InsufficientScope`, which is an answer in axum, when no granted scope
    /// covers `scope`. A text that is no literal scope is covered by none.
    pub fn require(&self, scope: &str) -> Result<(), Denial> {
        match Scope::new(scope) {
            Ok(scope) if !scope.is_wildcard() && self.scopes().covers(&scope) => Ok(()),
            Ok(scope) => Err(Denial::insufficient_scope([scope])),
            Err(_) => Err(Denial::insufficient_scope([])),
        }
    }
}

impl fmt::Debug for KeyPrincipal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyPrincipal")
            .field("key_id", &self.key_id())
            .field("name", &self.name())
            .field("owner", &self.owner())
            .field("environment", &self.environment())
            .field("scopes", self.scopes())
            .finish_non_exhaustive()
    }
}

/// Which verifier a principal comes from. The keys of one service are nothing to another, even
/// where both run in one process and their layers are nested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Realm(u64);

impl Realm {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}
