//! Names of the route that a request takes, the same for all layers on its way.

use http::{Method, Request};

/// The method, and the path or the pattern that it matches.
pub(super) type Route<'r> = (&'r Method, &'r str);

/// The most general name that is known: the pattern of axum's route where the layer is within the
/// router, and the path otherwise.
pub(super) fn route<B>(request: &Request<B>) -> Route<'_> {
    (
        request.method(),
        pattern(request).unwrap_or_else(|| path(request)),
    )
}

/// The names under which a layer further inside may know the route. One that is within a router
/// knows the pattern of a path without parameters by the same text as one that is outside of it.
pub(super) fn routes<B>(request: &Request<B>) -> impl Iterator<Item = Route<'_>> {
    let paths = pattern(request).into_iter().chain([path(request)]);
    paths.map(|path| (request.method(), path))
}

#[cfg(feature = "axum")]
fn pattern<B>(request: &Request<B>) -> Option<&str> {
    let matched = request.extensions().get::<axum::extract::MatchedPath>();
    matched.map(axum::extract::MatchedPath::as_str)
}

#[cfg(not(feature = "axum"))]
fn pattern<B>(_: &Request<B>) -> Option<&str> {
    None
}

/// The path as it was sent: a nested router takes its own part away.
#[cfg(feature = "axum")]
fn path<B>(request: &Request<B>) -> &str {
    let original = request.extensions().get::<axum::extract::OriginalUri>();
    original
        .map_or(request.uri(), |original| &original.0)
        .path()
}

#[cfg(not(feature = "axum"))]
fn path<B>(request: &Request<B>) -> &str {
    request.uri().path()
}
