use std::fmt;

use futures_util::future::BoxFuture;

#[cfg(feature = "redis")]
use super::RedisLimiter;
use super::{Charge, Decision, LimiterOutage, LocalLimiter, Subject};
use crate::clock::Moment;

/// Where limits are counted: in this process, or in Redis for several.
pub(crate) enum Limiter {
    Local(LocalLimiter),
    #[cfg(feature = "redis")]
    Redis(RedisLimiter),
}

/// How far a charge came without waiting.
pub(crate) enum Acquire {
    /// All the way.
    Done(Result<Decision, LimiterOutage>),
    /// Somebody else has to be asked.
    #[cfg_attr(
        not(feature = "redis"),
        expect(dead_code, reason = "in this process nobody has to")
    )]
    Wait(BoxFuture<'static, Result<Decision, LimiterOutage>>),
}

impl Limiter {
    /// Charges everything in `charges` to `subject`, or nothing of it.
    #[inline]
    pub(crate) fn acquire(
        &self,
        subject: &Subject,
        charges: &[Charge<'_>],
        now: Moment,
    ) -> Acquire {
        match self {
            Self::Local(limiter) => Acquire::Done(Ok(limiter.acquire(subject, charges, now))),
            #[cfg(feature = "redis")]
            Self::Redis(limiter) => limiter.begin(subject, charges, now),
        }
    }

    /// Takes back what was charged at `then`. Does not wait.
    pub(crate) fn refund(
        &self,
        subject: &Subject,
        charges: &[Charge<'_>],
        then: Moment,
        now: Moment,
    ) {
        match self {
            Self::Local(limiter) => limiter.refund(subject, charges, then, now),
            #[cfg(feature = "redis")]
            Self::Redis(limiter) => limiter.refund(subject, charges, then, now),
        }
    }

    /// What [`acquire`](Self::acquire) would say if `refunds`, each with the time of its charge,
    /// were taken back before, as far as this process knows. Charges nothing, and does not wait.
    pub(crate) fn foresee(
        &self,
        subject: &Subject,
        charges: &[Charge<'_>],
        refunds: &[(Charge<'_>, Moment)],
        now: Moment,
    ) -> Decision {
        match self {
            Self::Local(limiter) => limiter.foresee(subject, charges, refunds, now),
            #[cfg(feature = "redis")]
            Self::Redis(limiter) => limiter.foresee(subject, charges, refunds, now),
        }
    }

    /// A limiter for `capacity` other subjects, shared with whom this one is shared with; none where
    /// it is shared with nobody. It lets requests through where it cannot ask.
    #[cfg_attr(not(feature = "redis"), expect(unused_variables))]
    pub(crate) fn apart(&self, capacity: usize) -> Option<Self> {
        match self {
            Self::Local(_) => None,
            #[cfg(feature = "redis")]
            Self::Redis(limiter) => Some(Self::Redis(limiter.apart(capacity))),
        }
    }
}

impl fmt::Debug for Limiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(limiter) => limiter.fmt(f),
            #[cfg(feature = "redis")]
            Self::Redis(limiter) => limiter.fmt(f),
        }
    }
}
