//! The write side as an axum router: [`router`].
//!
//! ```
//! use axum::Router;
//! use tower_api_key::{ApiKeys, MemoryStore, admin};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let keys = ApiKeys::builder(MemoryStore::new()).build();
//! let app: Router = Router::new().nest("/admin", admin::router(&keys));
//! # }
//! ```
//!
//! | request | needs | answer |
//! | --- | --- | --- |
//! | `POST /keys` | `keys:write` | 201, the secret and the key, `Location` |
//! | `GET /keys` | `keys:read` | 200, a page of keys, newest first |
//! | `GET /keys/{id}` | `keys:read` | 200, the key |
//! | `PATCH /keys/{id}` | `keys:write` | 200, the key as it is now |
//! | `POST /keys/{id}/rotate` | `keys:write` | 201, the new secret and the key |
//! | `DELETE /keys/{id}` | `keys:write` | 200, the key, revoked |
//! | `GET /keys/{id}/usage` | `keys:read` | 200, counts by the hour or the day |
//! | `GET /keys/{id}/events` | `keys:read` | 200, a page of the audit trail, newest first |
//!
//! The rules:
//!
//! 1. The caller comes first. A request without a good key of the format's first environment is
//!    answered 401, whatever its path or body. A key without the scope is answered 403, before the
//!    body is read.
//! 2. The caller's key is decided on again when the body was read, and before each attempt to change
//!    a key, on what is stored then. A key that was revoked, disabled, rotated out or stripped of its
//!    scopes meanwhile changes nothing. Behind a layer of the same keys around the router, that is so
//!    for any scope, because that layer may require it.
//! 3. A caller grants no more than it holds, and changes no key that holds more. Every scope in a
//!    `POST` or `PATCH` and every present scope of a key that is changed or rotated must be covered
//!    by a scope of the caller's key, or the answer is 403. The version that is changed decides.
//! 4. A `PATCH` of `{"enabled": false}` alone and a `DELETE` need no such cover: everybody who may
//!    change keys may stop one.
//! 5. Scopes are all that rule 3 compares. A caller may issue keys for other owners, without its
//!    own limits, addresses and end, so `keys:write` is for those who are trusted with that.
//! 6. A secret is in the one answer that creates it. Digests are in none.
//! 7. Every change is written into the audit trail with the caller's key as its actor.
//! 8. The answer to a change has the member `"propagated": false` where the change is stored, but
//!    other instances could not be [notified](crate::Changed::is_propagated). Otherwise there is no
//!    such member.
//! 9. No answer is kept by a cache (`Cache-Control: no-store`), and every error is a problem
//!    (RFC 9457): 400 or 422 with the `field` that is wrong, 404 for what does not exist, 408 for a
//!    body that takes too long, 409 for a change that the key's state forbids, 503 when the store
//!    fails.
//!
//! Bodies are JSON objects of at most 64 KiB without unknown or repeated members, and arrive within
//! 10 seconds. Times are RFC 3339; those that are given are kept to the microsecond.
//!
//! # Listing
//!
//! `owner`, `environment` and `status` (`active`, `disabled`, `expired`, `revoked`) narrow the
//! list; `limit` is 1 to 200, 50 by default. `next_cursor` of one page is the `cursor` of the next.
//! A stored key that cannot be read is named under `unreadable`, as in
//! `[{"id": "key_…", "detail": "column `scopes` cannot be read"}]`, and asking for it alone is a
//! 503.
//!
//! # Usage
//!
//! The counts of the hours that begin from `from` up to, but without, `to`; by default of the last
//! 24 hours and the present one, and of 366 days at most. With `bucket=day` they are added up by
//! the day, in UTC. Hours and days without use are left out. The counts are as stored, so they
//! lag by one [`FLUSH_INTERVAL`](crate::FLUSH_INTERVAL), unless the builder says otherwise.
//!
//! # Events
//!
//! `limit` is 1 to 1,000, 100 by default. `next_cursor` of one page is the `before` of the next,
//! which has older entries; it is null on the last one.
//!
//! # Credits
//!
//! `credits`, as in `{"remaining": 1000, "refill": {"amount": 1000, "every": "month"}}`, is the
//! [budget](crate::Credits) of a new key and, in a `PATCH`, the one from now on; `null` is none. A
//! refill is by the `day` or `month`, or null. A key without a budget has no such member.
//!
//! # OpenAPI
//!
//! With the feature `openapi`, `admin::openapi` describes all of it.

mod body;
mod caller;
mod history;
mod json;
mod keys;
mod listing;
#[cfg(feature = "openapi")]
mod openapi;
#[cfg(feature = "admin-page")]
mod page;
mod query;
mod rejection;
mod request;

use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::handler::Handler;
use axum::middleware::map_response;
use axum::response::Response;
use axum::routing::{get, post};
use http::header::{CACHE_CONTROL, HeaderValue};

#[cfg(feature = "admin-page")]
pub use page::page;

use crate::middleware::ApiKeyLayer;
use crate::registry::ApiKeys;
#[cfg(feature = "openapi")]
pub use openapi::{openapi, openapi_with_layer};
use rejection::Rejection;

/// What callers need to look, and to change anything.
const READ: [&str; 1] = ["keys:read"];
const WRITE: [&str; 1] = ["keys:write"];

/// The largest body, in bytes.
const MAX_BODY: usize = 64 * 1024;
/// The longest time that a body may take to arrive.
const BODY_DEADLINE: Duration = Duration::from_secs(10);

/// The admin router for `keys`, to be [nested](Router::nest) where the application wants it. See
/// the [module](self) for its routes and rules.
///
/// It protects itself with an [`ApiKeyLayer`] of `keys`: callers need `keys:read` or `keys:write`,
/// and a key of the first environment of the [format](crate::KeyFormat), by default `live`. A key
/// of another one, such as a test key in a developer's hands, administers nothing. A layer of the
/// application's own around it is fine.
///
/// In a router with a state, nest `admin::router(&keys).with_state(())`.
pub fn router(keys: &ApiKeys) -> Router {
    let live = [keys.verifier().format().default_environment()];
    router_with_layer(keys, &ApiKeyLayer::new(keys).environments(live))
}

/// As [`router`], protected by `layer` and the scopes: for another realm, other credential sources,
/// limits, or another form of the answers to refused requests.
///
/// It accepts the environments that `layer` accepts, which are all unless
/// [`ApiKeyLayer::environments`] names some.
///
/// The layer may be of other keys than those that are administered, such as the operators' own;
/// it is their scopes that count then. An [`optional`](ApiKeyLayer::optional) layer does not open
/// the router: what comes without a key is answered 500.
///
/// ```
/// use tower_api_key::{ApiKeyLayer, ApiKeys, MemoryStore, admin};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let customers = ApiKeys::builder(MemoryStore::new()).build();
/// let operators = ApiKeys::builder(MemoryStore::new()).build();
/// let layer = ApiKeyLayer::new(&operators).realm("operators");
/// let router = admin::router_with_layer(&customers, &layer);
/// # }
/// ```
pub fn router_with_layer(keys: &ApiKeys, layer: &ApiKeyLayer) -> Router {
    let read = layer.scopes(READ);
    let write = layer.scopes(WRITE);
    // A layer for each handler rather than one around another: what one layer refuses was not
    // charged by an outer one before.
    Router::new()
        .route(
            "/keys",
            get(keys::list.layer(read.clone())).post(keys::issue.layer(write.clone())),
        )
        .route(
            "/keys/{key_id}",
            get(keys::show.layer(read.clone()))
                .patch(keys::update.layer(write.clone()))
                .delete(keys::revoke.layer(write.clone())),
        )
        .route(
            "/keys/{key_id}/rotate",
            post(keys::rotate.layer(write.clone())),
        )
        .route(
            "/keys/{key_id}/usage",
            get(history::usage.layer(read.clone())),
        )
        .route("/keys/{key_id}/events", get(history::events.layer(read)))
        .method_not_allowed_fallback(method_not_allowed.layer(layer.clone()))
        .fallback(not_found.layer(layer.clone()))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(map_response(no_store))
        .with_state(Admin {
            keys: keys.clone(),
            write,
        })
}

/// What the handlers share.
#[derive(Clone)]
struct Admin {
    keys: ApiKeys,
    /// The layer around every handler that changes keys.
    write: ApiKeyLayer,
}

async fn not_found() -> Rejection {
    Rejection::not_found()
}

/// axum adds the `Allow` header.
async fn method_not_allowed() -> Rejection {
    Rejection::method_not_allowed()
}

async fn no_store(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
