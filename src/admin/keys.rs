//! Making, showing, changing and ending keys.

use axum::Json;
use axum::extract::OriginalUri;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::LOCATION;

use super::body::{PageBody, SecretBody, view};
use super::caller::{Caller, PathId};
use super::json::JsonBody;
use super::listing;
use super::query::Query;
use super::rejection::Rejection;
use super::request::{KeyPatch, NewKeyBody, Rotation};
use crate::record::CreditBalance;
use crate::registry::{ApiKeys, Changed, KeyErrorKind};

pub(super) async fn issue(
    caller: Caller,
    OriginalUri(uri): OriginalUri,
    JsonBody(body): JsonBody<NewKeyBody>,
) -> Result<Response, Rejection> {
    let issued = caller.outcome(caller.keys.issue(body.into_new_key()?).await)?;
    let location = format!("{}/{}", uri.path(), issued.key().record.id);
    // Without asking the store, which could fail: this answer alone has the secret.
    let key = &issued.key().record;
    let balance = |plan| (key.id, CreditBalance::set(plan, key.created_at));
    let balances: Vec<_> = key.credits.iter().map(balance).collect();
    let body = SecretBody::new(&issued, &balances, caller.keys.now());
    Ok((StatusCode::CREATED, [(LOCATION, location)], Json(body)).into_response())
}

pub(super) async fn list(caller: Caller, query: Query) -> Result<Response, Rejection> {
    let now = caller.keys.now();
    let filter = query.into_filter(now)?;
    let (page, balances) = listing::page(&caller.keys, &filter).await?;
    Ok(Json(PageBody::new(&page, &balances, now)).into_response())
}

pub(super) async fn show(caller: Caller, PathId(id): PathId) -> Result<Response, Rejection> {
    let key = caller.keys.get(id).await?;
    let balances = caller.keys.balances([&key]).await?;
    Ok(Json(view(&key, &balances, caller.keys.now())).into_response())
}

pub(super) async fn update(
    caller: Caller,
    PathId(id): PathId,
    JsonBody(patch): JsonBody<KeyPatch>,
) -> Result<Response, Rejection> {
    let key = caller.outcome(caller.keys.update(id, patch.into_update()?).await)?;
    changed(&caller.keys, &key).await
}

pub(super) async fn rotate(
    caller: Caller,
    PathId(id): PathId,
    JsonBody(rotation): JsonBody<Rotation>,
) -> Result<Response, Rejection> {
    let keys = &caller.keys;
    let grace = rotation.grace()?;
    // Before there is a secret, which an error would lose.
    let balance = match keys.credits(id).await {
        // The rotation says so to a caller who may still ask.
        Err(error) if error.kind() == KeyErrorKind::NotFound => None,
        balance => balance?,
    };
    let issued = caller.outcome(keys.rotate(id, grace).await)?;
    let balances: Vec<_> = balance.map(|balance| (id, balance)).into_iter().collect();
    let body = SecretBody::new(&issued, &balances, keys.now());
    Ok((StatusCode::CREATED, Json(body)).into_response())
}

pub(super) async fn revoke(caller: Caller, PathId(id): PathId) -> Result<Response, Rejection> {
    let key = caller.outcome(caller.keys.revoke(id).await)?;
    changed(&caller.keys, &key).await
}

/// The answer that shows a key after a change.
async fn changed(keys: &ApiKeys, key: &Changed) -> Result<Response, Rejection> {
    let balances = keys.balances([key.key()]).await?;
    let view = view(key, &balances, keys.now()).propagated(key.is_propagated());
    Ok(Json(view).into_response())
}
