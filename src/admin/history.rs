//! What happened to a key: its use and its audit trail.

use axum::Json;
use axum::response::{IntoResponse, Response};

use super::body::{EventsBody, UsageBody};
use super::caller::{Caller, PathId};
use super::query::Query;
use super::rejection::Rejection;

/// The most events in an answer.
pub(super) const MAX_EVENTS: usize = 1_000;

pub(super) async fn usage(
    caller: Caller,
    PathId(id): PathId,
    query: Query,
) -> Result<Response, Rejection> {
    let period = query.into_period(caller.keys.now())?;
    let hours = caller.keys.usage(id, period.from, period.to).await?;
    let buckets = period.bucket.gather(hours);
    Ok(Json(UsageBody { buckets }).into_response())
}

pub(super) async fn events(caller: Caller, PathId(id): PathId) -> Result<Response, Rejection> {
    let events = caller.keys.events(id, MAX_EVENTS).await?;
    Ok(Json(EventsBody::new(&events)).into_response())
}
