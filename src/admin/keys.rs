//! Making, showing, changing and ending keys.

use axum::Json;
use axum::extract::OriginalUri;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::LOCATION;

use super::body::{KeyBody, PageBody, SecretBody};
use super::caller::{Caller, PathId};
use super::json::JsonBody;
use super::query::Query;
use super::rejection::Rejection;
use super::request::{KeyPatch, NewKeyBody, Rotation};

pub(super) async fn issue(
    caller: Caller,
    OriginalUri(uri): OriginalUri,
    JsonBody(body): JsonBody<NewKeyBody>,
) -> Result<Response, Rejection> {
    caller.may_hand_out(&body.scopes)?;
    let issued = caller.keys.issue(body.into_new_key()?).await?;
    let location = format!("{}/{}", uri.path(), issued.key().record.id);
    let body = SecretBody::new(&issued, caller.keys.now());
    Ok((StatusCode::CREATED, [(LOCATION, location)], Json(body)).into_response())
}

pub(super) async fn list(caller: Caller, query: Query) -> Result<Response, Rejection> {
    let now = caller.keys.now();
    let page = caller.keys.list(&query.into_filter(now)?).await?;
    Ok(Json(PageBody::new(&page, now)).into_response())
}

pub(super) async fn show(caller: Caller, PathId(id): PathId) -> Result<Response, Rejection> {
    let key = caller.keys.get(id).await?;
    Ok(Json(KeyBody::new(&key, caller.keys.now())).into_response())
}

pub(super) async fn update(
    caller: Caller,
    PathId(id): PathId,
    JsonBody(patch): JsonBody<KeyPatch>,
) -> Result<Response, Rejection> {
    caller.may_hand_out(patch.scopes.iter().flatten())?;
    let keys = caller.keys.clone();
    let switches_on = patch.enabled == Some(true);
    let key = keys
        .update_if(id, patch.into_update()?, move |record| {
            if switches_on {
                caller.may_hand_out(&record.scopes)?;
            }
            Ok::<_, Rejection>(())
        })
        .await?;
    Ok(Json(KeyBody::new(&key, keys.now())).into_response())
}

pub(super) async fn rotate(
    caller: Caller,
    PathId(id): PathId,
    JsonBody(rotation): JsonBody<Rotation>,
) -> Result<Response, Rejection> {
    let keys = caller.keys.clone();
    let issued = keys
        .rotate_if(id, rotation.grace()?, move |record| {
            caller.may_hand_out(&record.scopes)
        })
        .await?;
    let body = SecretBody::new(&issued, keys.now());
    Ok((StatusCode::CREATED, Json(body)).into_response())
}

pub(super) async fn revoke(caller: Caller, PathId(id): PathId) -> Result<Response, Rejection> {
    let key = caller.keys.revoke(id).await?;
    Ok(Json(KeyBody::new(&key, caller.keys.now())).into_response())
}
