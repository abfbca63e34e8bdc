//! What happened to a key: its use and its audit trail.

use axum::Json;
use axum::response::{IntoResponse, Response};

use super::body::{EventsBody, UsageBody};
use super::caller::{Caller, PathId};
use super::query::Query;
use super::rejection::Rejection;

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

pub(super) async fn events(
    caller: Caller,
    PathId(id): PathId,
    query: Query,
) -> Result<Response, Rejection> {
    let trail = query.into_trail()?;
    let page = caller.keys.events(id, trail.before, trail.limit).await?;
    Ok(Json(EventsBody::new(&page)).into_response())
}
