//! API keys for Tower and axum.

pub mod clock;
pub mod key;
pub mod limit;
pub mod record;
pub mod scope;
pub mod store;
#[cfg(feature = "testing")]
pub mod testing;

pub use clock::{Clock, Moment, SystemClock};
pub use key::{
    ApiKey, InvalidDigest, InvalidPepper, KeyDigest, KeyFormat, KeyHasher, KeyText, MAX_KEY_LEN,
    Malformed, Pepper, UnknownKind,
};
pub use limit::{InvalidLimit, RateLimit, RateLimits};
pub use record::*;
pub use scope::{InvalidScope, Scope, ScopeSet};
pub use store::*;
