use std::time::Duration;

use smallvec::SmallVec;

use super::{LimitStatus, RateLimit, RateLimits, Verdict};

/// The limits that a request was held against, and how it stands with each: those of the key
/// first, then those of the route.
#[derive(Clone, Debug, Default)]
pub struct LimitReport {
    base: RateLimits,
    route: RateLimits,
    statuses: SmallVec<[LimitStatus; 4]>,
}

impl LimitReport {
    pub(crate) fn new(
        base: RateLimits,
        route: RateLimits,
        statuses: SmallVec<[LimitStatus; 4]>,
    ) -> Self {
        Self { base, route, statuses }
    }

    /// Each limit and how it stands.
    pub fn iter(&self) -> impl Iterator<Item = (&RateLimit, &LimitStatus)> {
        self.base.iter().chain(&self.route).zip(&self.statuses)
    }

    /// Whether there was no limit at all.
    pub fn is_empty(&self) -> bool {
        self.statuses.is_empty()
    }

    /// The limits that the request would have exceeded.
    pub fn violated(&self) -> impl Iterator<Item = &RateLimit> {
        self.iter().filter(|(_, status)| status.verdict != Verdict::Admitted).map(|(limit, _)| limit)
    }

    /// How long until a request of the same cost is admitted by all, if nothing else is spent.
    /// None when it is admitted already, or never will be.
    pub fn retry_after(&self) -> Option<Duration> {
        let mut longest = None;
        for status in &self.statuses {
            match status.verdict {
                Verdict::Admitted => {}
                Verdict::Denied { retry_after } => longest = longest.max(Some(retry_after)),
                Verdict::Impossible => return None,
            }
        }
        longest
    }
}
