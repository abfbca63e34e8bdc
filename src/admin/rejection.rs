use std::error::Error;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{CONNECTION, HeaderValue, RETRY_AFTER};
use http::{StatusCode, Version};

use super::BODY_DEADLINE;
use crate::extract::MissingPrincipal;
use crate::middleware::{DenialBody, Problem, problem};
use crate::registry::{KeyError, KeyErrorKind};

/// A request that was not done: the answer that says why.
pub(super) struct Rejection(Box<Response>);

impl Rejection {
    pub(super) fn new(status: StatusCode, code: &str, detail: &str, field: Option<&str>) -> Self {
        problem(&Problem {
            r#type: "about:blank",
            status,
            code,
            detail,
            field,
            violated_policies: None,
        })
        .into()
    }

    pub(super) fn not_found() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "not_found",
            "there is no such resource",
            None,
        )
    }

    pub(super) fn method_not_allowed() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            "the resource has no such method; `Allow` names those it has",
            None,
        )
    }

    /// The body took too long. The rest of it may still be on its way, so the connection is of no
    /// use any more (RFC 9110 §15.5.9); HTTP/2 has no such field (RFC 9113 §8.2.2).
    pub(super) fn too_slow(version: Version) -> Self {
        let mut rejection = Self::new(
            StatusCode::REQUEST_TIMEOUT,
            "request_timeout",
            &format!(
                "the body took longer than {} seconds",
                BODY_DEADLINE.as_secs()
            ),
            None,
        );
        if version <= Version::HTTP_11 {
            let headers = rejection.0.headers_mut();
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        rejection
    }

    /// A query parameter is wrong.
    pub(super) fn query(parameter: &str, reason: &str) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "invalid_request",
            &format!("{parameter}: {reason}"),
            Some(parameter),
        )
    }

    /// The store's own error is for the log; the client learns when to come back.
    fn unavailable(error: &KeyError) -> Self {
        let error = error as &dyn Error;
        tracing::error!(error, "the store failed a request to the admin router");
        let mut rejection = Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "unavailable",
            "the keys cannot be reached at present",
            None,
        );
        let headers = rejection.0.headers_mut();
        headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        rejection
    }
}

impl From<KeyError> for Rejection {
    fn from(error: KeyError) -> Self {
        let (status, code) = match error.kind() {
            KeyErrorKind::Contended
            | KeyErrorKind::Duplicate
            | KeyErrorKind::Expired
            | KeyErrorKind::Revoked
            | KeyErrorKind::TooManyCredentials => (StatusCode::CONFLICT, "conflict"),
            // Where the caller's own layer has not answered it.
            KeyErrorKind::Denied => (StatusCode::FORBIDDEN, "forbidden"),
            KeyErrorKind::Invalid => (StatusCode::UNPROCESSABLE_ENTITY, "invalid_request"),
            KeyErrorKind::NotFound => return Self::not_found(),
            KeyErrorKind::Store => return Self::unavailable(&error),
        };
        Self::new(status, code, &error.to_string(), error.field())
    }
}

impl From<MissingPrincipal> for Rejection {
    fn from(missing: MissingPrincipal) -> Self {
        Self(Box::new(missing.into_response()))
    }
}

impl From<Response<DenialBody>> for Rejection {
    fn from(answer: Response<DenialBody>) -> Self {
        Self(Box::new(answer.map(Body::new)))
    }
}

impl IntoResponse for Rejection {
    fn into_response(self) -> Response {
        *self.0
    }
}
