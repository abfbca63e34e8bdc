//! API keys for Tower and axum: issue them, verify them, limit them, rotate them without downtime,
//! and revoke them at once.
//!
//! ```no_run
//! use axum::{Router, routing::get};
//! use tower_api_key::{ApiKeyLayer, ApiKeys, KeyFormat, KeyPrincipal, MemoryStore, NewKey, RateLimit};
//!
//! # #[cfg(feature = "axum")]
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let keys = ApiKeys::builder(MemoryStore::new()).format(KeyFormat::new("sk")).build();
//!
//!     let billing = NewKey::named("billing").scopes(["orders:read"]).limit(RateLimit::per_minute(100));
//!     let issued = keys.issue(billing).await?;
//!     println!("{}", issued.secret().expose()); // the only time it is visible
//!
//!     let auth = ApiKeyLayer::new(&keys);
//!     let app = Router::new()
//!         .route("/orders", get(list).layer(auth.scopes(["orders:read"])))
//!         .route("/whoami", get(whoami).layer(auth));
//!     axum::serve(tokio::net::TcpListener::bind("127.0.0.1:3000").await?, app).await?;
//!     Ok(())
//! }
//!
//! # async fn list() {}
//! async fn whoami(principal: KeyPrincipal) -> String {
//!     format!("you are {}\n", principal.name())
//! }
//! # #[cfg(not(feature = "axum"))] fn main() {}
//! ```
//!
//! # What is what
//!
//! A **key** is what an owner holds: a [`KeyRecord`] with a stable [`KeyId`], a name, scopes and
//! limits. A **credential** is one secret of it: the text itself ([`ApiKey`]) is shown once, and a
//! [`Credential`] with its [`KeyDigest`] is stored. To *rotate* a key is to add a credential and to
//! end the others after a grace period; the key stays the same. What a handler sees of a verified
//! key is its **principal** ([`KeyPrincipal`]), and why a request is refused is a **denial**
//! ([`Denial`]).
//!
//! # Where to read on
//!
//! | to | read |
//! | --- | --- |
//! | make and change keys | [`ApiKeys`], [`NewKey`], [`KeyUpdate`] |
//! | take over keys that exist | [`KeyImport`], [`ApiKeys::import_all`] |
//! | protect routes | [`ApiKeyLayer`], [`CredentialSources`], [`TrustedProxies`] |
//! | use a key in a handler | [`KeyPrincipal`] |
//! | limit keys | [`RateLimit`], [`limit`] |
//! | give keys a budget | [`Credits`], [`Refill`] |
//! | tell instances what has changed | [`InvalidationBus`], [`InProcessBus`], `RedisBus` |
//! | watch it | [`telemetry`] |
//! | keep keys | [`MemoryStore`], `SqliteStore`, `PostgresStore`, or your own [`KeyStore`] |
//! | tune what is cached | [`CacheConfig`] |
//! | choose how keys look and are hashed | [`KeyFormat`], [`KeyHasher`] |
//! | verify outside of HTTP | [`Verifier`], [`Requirements`] |
//! | offer all of it over HTTP | `admin::router` |
//! | show keys, their events and their use in routes of your own | [`KeyView`], [`KeyEventView`], [`BucketSize`] |
//! | describe routes in OpenAPI | `openapi` |
//! | test handlers, and stores of your own | `testing` |
//!
//! And the guides, each from the beginning of a task to its end:
//!
//! | to | read |
//! | --- | --- |
//! | replace a secret while its owner's servers go on | [`guide::rotation`] |
//! | take over keys that exist | [`guide::migrating`] |
//! | choose quotas, and know what they hold | [`guide::limits`] |
//! | sell or ration what keys may use | [`guide::credits`] |
//! | test handlers, limits and outages | [`guide::testing`] |
//! | keep keys where no store of this crate does | [`guide::custom_store`] |
//! | run many instances, behind proxies | [`guide::fleet`] |
//! | know how many instances, Redis and databases it takes | [`guide::scaling`] |
//! | answer a leak, and prevent the next | [`guide::leaked_key`] |
//! | keep keys from the command line | [`guide::cli`] |
//! | decide whether this crate is what you need | [`guide::comparison`] |
//!
//! # The way of a request
//!
//! ```text
//! request → credential (which header?) → format (checksum) → digest → cache → [store]
//!         → status · kind · address → scopes → credits · limits → KeyPrincipal → handler
//!                                                     ↘ usage
//! ```
//!
//! For a key in the cache, all of it happens without waiting, with one reading of the clock and no
//! lock held across anything.
//!
//! # Features
//!
//! | feature | default | |
//! | --- | --- | --- |
//! | `axum` | yes | [`KeyPrincipal`] as an extractor, [`Denial`] as an answer, axum's body |
//! | `admin` | | `admin::router` |
//! | `admin-page` | | `admin::page`, to administer keys in a browser |
//! | `cli` | | the program `tower-api-key`; nothing in the library |
//! | `metrics` | | what happens, for the `metrics` facade: see [`telemetry`] |
//! | `openapi` | | `openapi`: OpenAPI 3.1 with utoipa; with `admin` also `admin::openapi` |
//! | `postgres` | | `PostgresStore` |
//! | `postgres-tls` | | TLS for it |
//! | `redis` | | `RedisBus`, `limit::RedisLimiter` |
//! | `redis-tls` | | `rediss:` URLs for them |
//! | `sqlite` | | `SqliteStore` |
//! | `testing` | | `testing` |

#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "admin")]
pub mod admin;
mod bill;
mod cache;
mod clock;
mod credits;
mod denial;
#[cfg(feature = "axum")]
mod extract;
mod failures;
mod flight;
#[cfg(any(doc, doctest))]
pub mod guide;
mod invalidation;
mod key;
pub mod limit;
mod middleware;
#[cfg(feature = "openapi")]
pub mod openapi;
mod principal;
mod record;
#[cfg(feature = "redis")]
mod redis_url;
mod registry;
mod requirements;
mod scope;
mod store;
pub mod telemetry;
#[cfg(feature = "testing")]
pub mod testing;
mod usage;
mod verify;

pub use cache::{CacheConfig, Outage, OutageKind};
pub use clock::{Clock, Moment, SystemClock};
pub use denial::{Denial, DenialKind, DenialReason};
#[cfg(feature = "axum")]
pub use extract::MissingPrincipal;
#[cfg(feature = "redis")]
pub use invalidation::RedisBus;
pub use invalidation::{
    BusError, DigestTag, InProcessBus, InvalidInvalidation, Invalidation, InvalidationBus,
    Subscription,
};
pub use key::{
    ApiKey, FoundKey, InvalidDigest, InvalidPepper, KeyDigest, KeyFormat, KeyHasher, KeyText,
    MAX_KEY_LEN, Malformed, Pepper, UnknownKind,
};
pub use limit::{InvalidLimit, LimitReport, LimitStatus, RateLimit, RateLimits, Verdict};
pub use middleware::{
    ApiKeyLayer, ApiKeyService, ClientAddress, CredentialSources, DenialBody, ResponseFuture,
    SecureTransport, TrustedProxies,
};
pub use principal::KeyPrincipal;
pub use record::{
    BucketSize, Credential, CreditBalance, CreditGrant, CreditPeriod, CreditPlan, CreditReturn,
    Credits, EventAction, InvalidKeyId, Key, KeyEvent, KeyEventView, KeyId, KeyRecord, KeyStatus,
    KeyView, Refill, RefillEvery, UnknownAction, UsageBatch, UsageBatchId, UsageBucket, UsageDelta,
};
pub use registry::{
    ApiKeys, Builder, Changed, Issued, KeyError, KeyErrorKind, KeyImport, KeyUpdate, NewKey,
    ShutdownError,
};
pub use requirements::{LimitBy, Requirements};
pub use scope::{InvalidScope, Scope, ScopeSet};
#[cfg(feature = "sqlite")]
pub use store::SqliteStore;
pub use store::{
    EventCursor, EventPage, InvalidEventCursor, KeyChange, KeyFilter, KeyInsertion, KeyPage,
    KeyRepository, KeyStore, MemoryStore, StoreError, StoreErrorKind, StoredKey, UnreadableKey,
};
#[cfg(feature = "postgres")]
pub use store::{PostgresBuilder, PostgresStore};
pub use usage::FLUSH_INTERVAL;
pub use verify::{Attempt, Verified, Verifier};

/// The README's programs compile and run.
#[cfg(all(doctest, feature = "axum", feature = "testing"))]
#[doc = include_str!("../README.md")]
struct Readme;

/// So do those of the guide to the admin page.
#[cfg(all(doctest, feature = "admin-page"))]
#[doc = include_str!("../docs/admin-page.md")]
struct AdminPageGuide;
