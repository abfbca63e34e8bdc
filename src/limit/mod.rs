//! Rate limits: how many units a key may use in any trailing window.
//!
//! - A [`RateLimit`] is the policy: a quota of units for each window.
//! - A [`Window`] is the algorithm: what was spent lately, and the pure function that decides
//!   whether more may be. Every limiter decides as it does.
//! - A [`LocalLimiter`] keeps the windows of many [`Subject`]s in this process, and charges all the
//!   limits that a request falls under together or not at all.
//! - `RedisLimiter` (feature `redis`) does the same for several processes, in Redis.

mod decision;
mod limiter;
mod limits;
mod local;
mod outage;
mod policy;
#[cfg(feature = "redis")]
mod redis;
mod report;
mod window;

#[cfg(feature = "redis")]
pub use self::redis::{ConnectError, OutagePolicy, RedisLimiter, RedisLimiterBuilder};
pub use decision::{Decision, LimitStatus, Verdict};
pub(crate) use limiter::{Acquire, Limiter};
pub(crate) use limits::KnownLimits;
pub use limits::RateLimits;
pub use local::{Charge, LimitSpace, LocalLimiter, Subject, SubjectId};
pub use outage::LimiterOutage;
pub use policy::{InvalidLimit, RateLimit};
pub use report::LimitReport;
pub(crate) use report::Standing;
pub use window::Window;
