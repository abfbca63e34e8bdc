use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::combinators::{BoxBody, UnsyncBoxBody};
use http_body_util::{BodyExt, Full};

/// The body of the answer to a refused request.
///
/// A service that is wrapped may have any body that can be made from this one: axum's, `Full`,
/// `BoxBody` and `UnsyncBoxBody` can, and your own can with one `From`.
#[derive(Clone, Default)]
pub struct DenialBody(Full<Bytes>);

impl Body for DenialBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Pin::new(&mut self.0).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

impl fmt::Debug for DenialBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DenialBody").finish_non_exhaustive()
    }
}

impl From<Bytes> for DenialBody {
    fn from(bytes: Bytes) -> Self {
        Self(Full::new(bytes))
    }
}

impl From<String> for DenialBody {
    fn from(text: String) -> Self {
        Self(Full::from(text))
    }
}

impl From<&'static str> for DenialBody {
    fn from(text: &'static str) -> Self {
        Self(Full::from(text))
    }
}

impl From<DenialBody> for Full<Bytes> {
    fn from(body: DenialBody) -> Self {
        body.0
    }
}

impl<E> From<DenialBody> for BoxBody<Bytes, E> {
    fn from(body: DenialBody) -> Self {
        body.0.map_err(|never| match never {}).boxed()
    }
}

impl<E> From<DenialBody> for UnsyncBoxBody<Bytes, E> {
    fn from(body: DenialBody) -> Self {
        body.0.map_err(|never| match never {}).boxed_unsync()
    }
}

#[cfg(feature = "axum")]
impl From<DenialBody> for axum::body::Body {
    fn from(body: DenialBody) -> Self {
        Self::new(body)
    }
}
