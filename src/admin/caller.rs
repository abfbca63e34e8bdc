//! Who asks, for which key, and what it may hand out.

use std::sync::Arc;

use axum::extract::{FromRequestParts, Path};
use http::request::Parts;
use serde::Deserialize;

use super::Admin;
use super::rejection::Rejection;
use crate::denial::Denial;
use crate::middleware::ApiKeyLayer;
use crate::principal::KeyPrincipal;
use crate::record::KeyId;
use crate::registry::ApiKeys;
use crate::scope::Scope;

/// The verified caller. Every handler takes it, so that none answers to nobody, whatever layer
/// the router was given.
pub(super) struct Caller {
    /// The keys, with the caller as the actor of every change.
    pub(super) keys: ApiKeys,
    principal: KeyPrincipal,
    layer: ApiKeyLayer,
    request: Arc<Parts>,
}

impl Caller {
    /// Refuses to hand out a scope that the caller's own key does not cover.
    pub(super) fn may_hand_out<'a>(
        &self,
        scopes: impl IntoIterator<Item = &'a Scope>,
    ) -> Result<(), Rejection> {
        let held = self.principal.scopes();
        let lacking: Vec<_> = scopes
            .into_iter()
            .filter(|scope| !held.covers(scope))
            .cloned()
            .collect();
        if lacking.is_empty() {
            return Ok(());
        }
        let denial = Denial::insufficient_scope(lacking).of_key(self.principal.key());
        Err(self.layer.refuse(&denial, (*self.request).clone()).into())
    }
}

impl FromRequestParts<Admin> for Caller {
    type Rejection = Rejection;

    async fn from_request_parts(parts: &mut Parts, admin: &Admin) -> Result<Self, Rejection> {
        let principal =
            <KeyPrincipal as FromRequestParts<Admin>>::from_request_parts(parts, admin).await?;
        Ok(Self {
            keys: admin.keys.acting_as(principal.key_id()),
            principal,
            layer: admin.layer.clone(),
            request: Arc::new(parts.clone()),
        })
    }
}

/// The key that the path names. What is no id is answered like an id that does not exist.
pub(super) struct PathId(pub(super) KeyId);

impl FromRequestParts<Admin> for PathId {
    type Rejection = Rejection;

    async fn from_request_parts(parts: &mut Parts, admin: &Admin) -> Result<Self, Rejection> {
        // By its name, for where the router is nested there may be other parameters.
        #[derive(Deserialize)]
        struct Named {
            key_id: String,
        }
        let path = Path::<Named>::from_request_parts(parts, admin).await;
        let id = path.ok().and_then(|Path(named)| named.key_id.parse().ok());
        id.map(Self).ok_or_else(Rejection::not_found)
    }
}
