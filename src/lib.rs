//! API keys for Tower and axum.

pub mod clock;
pub mod key;
pub mod limit;
pub mod record;
pub mod scope;
pub mod store;
pub mod denial;
mod cache;
mod usage;
mod principal;
mod requirements;
mod verify;
mod failures;
mod registry;
pub mod middleware;
#[cfg(feature="axum")]
mod extract;

pub use clock::{Clock, Moment, SystemClock};
pub use cache::{CacheConfig, Outage, OutageKind};
pub use denial::{Denial, DenialKind, DenialReason};
pub use key::{ApiKey, InvalidDigest, InvalidPepper, KeyDigest, KeyFormat, KeyHasher, KeyText, Malformed, MAX_KEY_LEN, Pepper, UnknownKind};
pub use limit::{InvalidLimit, RateLimit, RateLimits, LimitReport};
pub use record::*;
pub use scope::{InvalidScope, Scope, ScopeSet};
pub use store::*;
pub use usage::FLUSH_INTERVAL;
pub use principal::KeyPrincipal;
pub use requirements::{LimitBy, Requirements};
pub use verify::{Attempt, Verified, Verifier};
pub use registry::*;
pub use middleware::*;
