//! API keys for Tower and axum.

#[cfg(feature = "admin")]
pub mod admin;
mod cache;
mod clock;
mod denial;
#[cfg(feature = "axum")]
mod extract;
mod failures;
mod key;
pub mod limit;
mod middleware;
mod principal;
mod record;
mod registry;
mod requirements;
mod scope;
mod store;
#[cfg(feature = "testing")]
pub mod testing;
mod usage;
mod verify;

pub use cache::{CacheConfig, Outage, OutageKind};
pub use clock::{Clock, Moment, SystemClock};
pub use denial::{Denial, DenialKind, DenialReason};
#[cfg(feature = "axum")]
pub use extract::MissingPrincipal;
pub use key::{
    ApiKey, InvalidDigest, InvalidPepper, KeyDigest, KeyFormat, KeyHasher, KeyText, MAX_KEY_LEN,
    Malformed, Pepper, UnknownKind,
};
pub use limit::{InvalidLimit, LimitReport, LimitStatus, RateLimit, RateLimits, Verdict};
pub use middleware::{
    ApiKeyLayer, ApiKeyService, ClientAddress, CredentialSources, DenialBody, ResponseFuture,
};
pub use principal::KeyPrincipal;
pub use record::{
    Credential, EventAction, InvalidKeyId, Key, KeyEvent, KeyId, KeyRecord, KeyStatus,
    UnknownAction, UsageBucket, UsageDelta,
};
pub use registry::{ApiKeys, Builder, Issued, KeyError, KeyErrorKind, KeyUpdate, NewKey};
pub use requirements::{LimitBy, Requirements};
pub use scope::{InvalidScope, Scope, ScopeSet};
#[cfg(feature = "sqlite")]
pub use store::SqliteStore;
pub use store::{
    KeyChange, KeyFilter, KeyPage, KeyRepository, KeyStore, MemoryStore, StoreError,
    StoreErrorKind, StoredKey,
};
pub use usage::FLUSH_INTERVAL;
pub use verify::{Attempt, Verified, Verifier};
