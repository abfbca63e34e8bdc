//! [`KeyPrincipal`] as an axum extractor, and [`Denial`] as an answer.

use std::fmt;

use axum::extract::{FromRequestParts, OptionalFromRequestParts};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::request::Parts;

use crate::denial::Denial;
use crate::middleware::{Anonymous, DEFAULT_REALM, Problem, answer, problem};
use crate::principal::KeyPrincipal;

/// The verified key behind the request. Without an `ApiKeyLayer` around the handler, or with one
/// that let the request through without a key, the answer is 500 and the log says why.
impl<S: Sync> FromRequestParts<S> for KeyPrincipal {
    type Rejection = MissingPrincipal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, MissingPrincipal> {
        let principal = parts.extensions.get::<KeyPrincipal>();
        principal.cloned().ok_or_else(|| MissingPrincipal {
            anonymous: parts.extensions.get::<Anonymous>().is_some(),
        })
    }
}

/// The verified key, or none where the layer is optional and the request has no key. Without any
/// `ApiKeyLayer` around the handler the answer is 500 and the log says why.
impl<S: Sync> OptionalFromRequestParts<S> for KeyPrincipal {
    type Rejection = MissingPrincipal;

    async fn from_request_parts(
        parts: &mut Parts,
        state: &S,
    ) -> Result<Option<Self>, MissingPrincipal> {
        match <Self as FromRequestParts<S>>::from_request_parts(parts, state).await {
            Ok(principal) => Ok(Some(principal)),
            Err(missing) if missing.anonymous => Ok(None),
            Err(missing) => Err(missing),
        }
    }
}

/// A handler asks for a [`KeyPrincipal`] where there is none: a mistake in the program.
#[derive(Debug)]
pub struct MissingPrincipal {
    anonymous: bool,
}

impl MissingPrincipal {
    /// The status of the answer: 500.
    pub fn status(&self) -> StatusCode {
        StatusCode::INTERNAL_SERVER_ERROR
    }

    /// What is missing, for the log; the client learns only that the server is at fault.
    pub fn body_text(&self) -> &'static str {
        if self.anonymous {
            "the handler takes a KeyPrincipal, but its ApiKeyLayer is optional: \
             take an Option<KeyPrincipal>"
        } else {
            "the handler takes a KeyPrincipal, but no ApiKeyLayer is around it: \
             add .layer(ApiKeyLayer::new(&keys)) to its route"
        }
    }
}

impl fmt::Display for MissingPrincipal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.body_text())
    }
}

impl std::error::Error for MissingPrincipal {}

impl IntoResponse for MissingPrincipal {
    fn into_response(self) -> Response {
        tracing::error!("{self}");
        problem(&Problem {
            r#type: "about:blank",
            status: self.status(),
            code: "internal",
            detail: "the server is not set up to answer this request",
            field: None,
            violated_policies: None,
        })
        .map(axum::body::Body::new)
    }
}

/// The answer that the middleware gives to the same denial, for handlers that check scopes
/// themselves.
impl IntoResponse for Denial {
    fn into_response(self) -> Response {
        answer(&self, DEFAULT_REALM).map(axum::body::Body::new)
    }
}
