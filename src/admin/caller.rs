//! The caller of a request, the key that it asks for, and the answer to a change in its name.

use axum::extract::{FromRequestParts, Path};
use http::Request;
use http::request::Parts;
use serde::Deserialize;

use super::Admin;
use super::rejection::Rejection;
use crate::middleware::ApiKeyLayer;
use crate::principal::KeyPrincipal;
use crate::record::KeyId;
use crate::registry::{ApiKeys, KeyError};

/// The verified caller. Every handler takes it, so that none answers to nobody, whatever layer
/// the router was given.
pub(super) struct Caller {
    /// The keys, for changes in the caller's name: each is decided on when it is made.
    pub(super) keys: ApiKeys,
    write: ApiKeyLayer,
    request: Request<()>,
}

impl Caller {
    /// Returns what came of a change. A denial is answered by the layer that let the caller
    /// through, so that a caller whose key has ended meanwhile gets the answer that it would get at
    /// the door.
    pub(super) fn outcome<T>(&self, outcome: Result<T, KeyError>) -> Result<T, Rejection> {
        outcome.map_err(|error| match error.denial() {
            Some(denial) => self.write.refuse(denial, self.request.clone()).into(),
            None => error.into(),
        })
    }
}

impl FromRequestParts<Admin> for Caller {
    type Rejection = Rejection;

    async fn from_request_parts(parts: &mut Parts, admin: &Admin) -> Result<Self, Rejection> {
        let principal =
            <KeyPrincipal as FromRequestParts<Admin>>::from_request_parts(parts, admin).await?;
        let request = Request::from_parts(parts.clone(), ());
        let acting = admin.write.acting_key(principal, &request);
        Ok(Self {
            keys: admin.keys.on_behalf_of(acting),
            write: admin.write.clone(),
            request,
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
