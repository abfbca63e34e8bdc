//! API keys for Tower and axum.

mod cache;
pub mod clock;
pub mod denial;
#[cfg(feature = "axum")]
mod extract;
mod failures;
pub mod key;
pub mod limit;
pub mod middleware;
mod principal;
pub mod record;
mod registry;
mod requirements;
pub mod scope;
pub mod store;
mod usage;
mod verify;

pub use cache::{CacheConfig, Outage, OutageKind};
pub use clock::{Clock, Moment, SystemClock};
pub use denial::{Denial, DenialKind, DenialReason};
pub use key::{
    ApiKey, InvalidDigest, InvalidPepper, KeyDigest, KeyFormat, KeyHasher, KeyText, MAX_KEY_LEN,
    Malformed, Pepper, UnknownKind,
};
pub use limit::{InvalidLimit, LimitReport, RateLimit, RateLimits};
pub use middleware::*;
pub use principal::KeyPrincipal;
pub use record::*;
pub use registry::*;
pub use requirements::{LimitBy, Requirements};
pub use scope::{InvalidScope, Scope, ScopeSet};
pub use store::*;
pub use usage::FLUSH_INTERVAL;
pub use verify::{Attempt, Verified, Verifier};
