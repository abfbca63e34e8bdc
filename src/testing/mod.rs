//! For tests, those of this crate and yours: time that stands still, principals without keys,
//! stores that fail on command. Enable the feature `testing` in `[dev-dependencies]`.
//!
//! - [`PrincipalLayer`] and [`TestPrincipal`]: a handler's test needs no key, store or clock.
//! - [`ManualClock`]: expiry, limits and caches without waiting.
//! - [`ScriptedStore`]: counts lookups and writes, holds them back, makes them fail.
//! - [`conformance`]: whether a store of your own keeps the contracts.

mod clock;
pub mod conformance;
mod principal;
mod store;

pub use clock::ManualClock;
pub use principal::{PrincipalLayer, PrincipalService, TestPrincipal};
pub use store::ScriptedStore;
