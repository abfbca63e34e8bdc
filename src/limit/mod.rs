//! Rate limits: how many units a key may use in any trailing window.

mod policy;

pub use policy::{InvalidLimit, RateLimit, RateLimits};
