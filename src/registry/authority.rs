//! The ceiling of changes: nobody grants scopes, or changes a key with scopes, that they do not
//! hold.
//!
//! A ceiling on grants alone would not do. A caller that may change a stronger key can lift its
//! expiry and its limits, or take its scopes away and rotate it into its own hands. So a change
//! needs the present scopes of the key to be covered as well, on the very version that is changed.
//! Switching a key off and revoking it need no cover, so that everybody who sees a leak can stop
//! it.

#[cfg(feature = "admin")]
use std::sync::Arc;

use super::{ApiKeys, KeyError};
use crate::denial::Denial;
use crate::scope::{Scope, ScopeSet};
#[cfg(feature = "admin")]
use crate::verify::ActingKey;

impl ApiKeys {
    /// Returns a handle to the same keys for changes in the name of somebody who holds `scopes`,
    /// such as the key behind a request to a self-service page.
    ///
    /// Through it, [`issue`](Self::issue) and the imports grant only what `scopes` cover.
    /// [`update`](Self::update), [`enable`](Self::enable) and [`rotate`](Self::rotate) also need
    /// the present scopes of the key to be covered, on the very version that is changed.
    /// [`disable`](Self::disable), an update that only switches the key off, and
    /// [`revoke`](Self::revoke) are always allowed. Everything else fails with
    /// [`KeyErrorKind::Denied`](super::KeyErrorKind::Denied). Default: everything is allowed.
    ///
    /// `scopes` are taken as they are: where time passes between the verification of a request and
    /// the change, the key behind it may have lost them.
    ///
    /// ```
    /// use tower_api_key::{ApiKeys, KeyErrorKind, MemoryStore, NewKey, ScopeSet};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let keys = ApiKeys::builder(MemoryStore::new()).build();
    /// let held = ScopeSet::new(["orders:*"])?;
    /// let tenant = keys.acting_as("acme").within(&held);
    ///
    /// tenant.issue(NewKey::named("reports").scopes(["orders:read"])).await?;
    /// let refused = tenant.issue(NewKey::named("root").scopes(["*"])).await.unwrap_err();
    /// assert_eq!(refused.kind(), KeyErrorKind::Denied);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn within(&self, scopes: &ScopeSet) -> Self {
        self.on(Authority::Scopes(scopes.clone()))
    }

    /// Returns a handle for changes in the name of `key`, and as it as the actor. Every attempt of
    /// every change first decides on the key again, and then on the scopes that it holds by then.
    #[cfg(feature = "admin")]
    pub(crate) fn on_behalf_of(&self, key: ActingKey) -> Self {
        let id = key.principal().key_id();
        self.acting_as(id).on(Authority::Key(Arc::new(key)))
    }

    fn on(&self, authority: Authority) -> Self {
        Self {
            authority,
            ..self.clone()
        }
    }
}

/// On whose authority a handle changes keys.
#[derive(Clone, Default)]
pub(super) enum Authority {
    /// The application's own: everything is allowed.
    #[default]
    Application,
    /// An acting key's, as it is when a change is made.
    #[cfg(feature = "admin")]
    Key(Arc<ActingKey>),
    /// Somebody's who holds these scopes.
    Scopes(ScopeSet),
}

impl Authority {
    /// Decides what may be granted at this moment.
    #[cfg_attr(
        not(feature = "admin"),
        expect(clippy::unused_async, reason = "only an acting key is waited for")
    )]
    pub(super) async fn ceiling(&self) -> Result<Ceiling, KeyError> {
        Ok(match self {
            Self::Application => Ceiling::default(),
            #[cfg(feature = "admin")]
            Self::Key(key) => Ceiling {
                held: Some(key.scopes_now().await??),
                holder: Some(Arc::clone(key)),
            },
            Self::Scopes(scopes) => Ceiling {
                held: Some(scopes.clone()),
                #[cfg(feature = "admin")]
                holder: None,
            },
        })
    }
}

/// The most that a change may grant, and the most that the changed key may hold.
#[derive(Default)]
pub(super) struct Ceiling {
    /// None: everything.
    held: Option<ScopeSet>,
    #[cfg(feature = "admin")]
    holder: Option<Arc<ActingKey>>,
}

impl Ceiling {
    /// Refuses scopes that are not covered, and names each of them once: at most as many as a key can
    /// have. Each is compared with those named before, so a longer list would cost its square.
    pub(super) fn check(&self, scopes: impl IntoIterator<Item = Scope>) -> Result<(), KeyError> {
        let Some(held) = &self.held else {
            return Ok(());
        };
        let mut lacking = Vec::new();
        for scope in scopes {
            if lacking.len() == ScopeSet::MAX_LEN {
                break;
            }
            if !held.covers(&scope) && !lacking.contains(&scope) {
                lacking.push(scope);
            }
        }
        if lacking.is_empty() {
            return Ok(());
        }
        let denial = Denial::insufficient_scope(lacking);
        #[cfg(feature = "admin")]
        if let Some(holder) = &self.holder {
            return Err(holder.denied(denial).into());
        }
        Err(denial.into())
    }
}
