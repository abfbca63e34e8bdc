use std::time::Duration;

use smallvec::{SmallVec, smallvec};

/// What a limiter says to one request: one status for each of its charges, in their order.
///
/// Either every charge was admitted and all are written, or none is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    statuses: Statuses,
    admitted: bool,
}

pub(crate) type Statuses = SmallVec<[LimitStatus; 2]>;

impl Decision {
    /// The decision that follows from `statuses`: admitted when each of them is.
    #[inline]
    pub(crate) fn new(statuses: Statuses) -> Self {
        let admitted = statuses.iter().all(LimitStatus::is_admitted);
        Self { statuses, admitted }
    }

    /// The decision that follows from the status of a single charge.
    #[inline]
    pub(super) fn of_one(status: LimitStatus) -> Self {
        Self {
            statuses: smallvec![status],
            admitted: status.is_admitted(),
        }
    }

    /// Whether the request may go on. No charge is written otherwise.
    pub fn is_admitted(&self) -> bool {
        self.admitted
    }

    /// One status for each charge, in the order of the charges.
    pub fn statuses(&self) -> &[LimitStatus] {
        &self.statuses
    }

    /// How long until the same request is admitted, if nothing else is spent: the longest wait of
    /// any limit. `None` when it is admitted already, or when it never can be.
    pub fn retry_after(&self) -> Option<Duration> {
        let mut longest = None;
        for status in &self.statuses {
            match status.verdict() {
                Verdict::Admitted => {}
                Verdict::Denied { retry_after } => longest = longest.max(Some(retry_after)),
                Verdict::Impossible => return None,
            }
        }
        longest
    }
}

/// No limit, and so nothing in the way.
impl Default for Decision {
    fn default() -> Self {
        Self::new(SmallVec::new())
    }
}

/// Where one limit stands after a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitStatus {
    remaining: u64,
    // In nanoseconds, as is `wait`: a status is copied for every request, so it is kept small.
    resets_in: u64,
    /// How long until the cost is admitted; 0 when it is, [`LimitStatus::NEVER`] when it never is.
    wait: u64,
}

impl LimitStatus {
    const NEVER: u64 = u64::MAX;

    #[inline]
    pub(super) fn admitted(remaining: u64, resets_in: u64) -> Self {
        Self {
            remaining,
            resets_in,
            wait: 0,
        }
    }

    pub(super) fn denied(remaining: u64, resets_in: u64, retry_after: u64) -> Self {
        Self {
            remaining,
            resets_in,
            // A wait of nothing at all would be no denial.
            wait: retry_after.clamp(1, Self::NEVER - 1),
        }
    }

    pub(super) fn impossible(remaining: u64, resets_in: u64) -> Self {
        Self {
            remaining,
            resets_in,
            wait: Self::NEVER,
        }
    }

    /// The same with more units left, up to `quota`.
    #[cfg(feature = "redis")]
    pub(super) fn with_more(mut self, units: u64, quota: u64) -> Self {
        self.remaining = self.remaining.saturating_add(units).min(quota);
        self
    }

    /// The units that may still be used: after the charge where it is written, and otherwise as
    /// it was.
    pub fn remaining(&self) -> u64 {
        self.remaining
    }

    /// The time until [`remaining`](Self::remaining) can grow; zero when nothing is counted.
    pub fn resets_in(&self) -> Duration {
        Duration::from_nanos(self.resets_in)
    }

    /// Whether this limit lets the request through. A limit may, and the request still be denied
    /// by another one.
    pub fn verdict(&self) -> Verdict {
        match self.wait {
            0 => Verdict::Admitted,
            Self::NEVER => Verdict::Impossible,
            wait => Verdict::Denied {
                retry_after: Duration::from_nanos(wait),
            },
        }
    }

    /// Whether this limit lets the request through.
    #[inline]
    pub fn is_admitted(&self) -> bool {
        self.wait == 0
    }
}

/// Whether a limit lets a request through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// It does.
    Admitted,
    /// Not now.
    Denied {
        /// The time after which the same cost is admitted if nothing else is spent. Exact: no
        /// earlier attempt succeeds.
        retry_after: Duration,
    },
    /// Never: the cost is above the quota.
    Impossible,
}
