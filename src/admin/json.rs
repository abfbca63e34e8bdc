//! Reading JSON strictly, and saying which field is wrong.

use std::error::Error;
use std::fmt;
use std::marker::PhantomData;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequest, Request};
use http::StatusCode;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, DeserializeOwned, Deserializer, MapAccess, Visitor};

use super::BODY_DEADLINE;
use super::rejection::Rejection;

/// The request's body, a JSON object that has arrived in time.
pub(super) struct JsonBody<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for JsonBody<T> {
    type Rejection = Rejection;

    async fn from_request(request: Request, state: &S) -> Result<Self, Rejection> {
        let version = request.version();
        let reading = Json::<Object<T>>::from_request(request, state);
        match tokio::time::timeout(BODY_DEADLINE, reading).await {
            Ok(Ok(Json(Object(body)))) => Ok(Self(body)),
            Ok(Err(rejection)) => Err(Rejection::json(&rejection)),
            Err(_) => Err(Rejection::too_slow(version)),
        }
    }
}

/// A JSON object. What serde derives for a struct would also take an array of its members' values.
pub(super) struct Object<T>(pub(super) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Members<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }

        deserializer.deserialize_map(Members(PhantomData))
    }
}

type DataError = serde_path_to_error::Error<serde_json::Error>;

impl Rejection {
    fn json(rejection: &JsonRejection) -> Self {
        let (code, detail) = match rejection {
            JsonRejection::JsonDataError(error) => match source(error) {
                Some(error) => return Self::data(error),
                None => ("invalid_request", error.body_text()),
            },
            JsonRejection::MissingJsonContentType(_) => {
                let detail = "the body must be of `Content-Type: application/json`";
                ("unsupported_media_type", detail.to_owned())
            }
            other if other.status() == StatusCode::PAYLOAD_TOO_LARGE => {
                let detail = format!("the body must not be over {} bytes", super::MAX_BODY);
                ("content_too_large", detail)
            }
            other => ("invalid_request", other.body_text()),
        };
        Self::new(rejection.status(), code, &detail, None)
    }

    /// The body is JSON, but not what it should be.
    fn data(error: &DataError) -> Self {
        let reason = error.inner().to_string();
        let field = faulty_field(error.path(), &reason);
        let detail = match &field {
            Some(field) => format!("{field}: {reason}"),
            None => reason,
        };
        let status = StatusCode::UNPROCESSABLE_ENTITY;
        Self::new(status, "invalid_request", &detail, field.as_deref())
    }
}

/// The field that an error is about, as in `limits[0].quota`. For a member that is missing or there
/// twice the path ends at its object, and serde's message names it.
fn faulty_field(path: &serde_path_to_error::Path, reason: &str) -> Option<String> {
    let object = path.iter().next().map(|_| path.to_string());
    let member = ["missing field `", "duplicate field `"]
        .iter()
        .find_map(|start| reason.strip_prefix(start)?.split('`').next());
    match (object, member) {
        (Some(object), Some(member)) => Some(format!("{object}.{member}")),
        (None, Some(member)) => Some(member.to_owned()),
        (object, None) => object,
    }
}

/// The first error of this type in the chain.
fn source<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a DataError> {
    let mut chain = std::iter::successors(Some(error), |&error| error.source());
    chain.find_map(<dyn Error>::downcast_ref)
}
