use std::time::Duration;

use super::{Decision, LimitSpace, LimitStatus, RateLimit, RateLimits};

/// The limits that a request was held against, and how it stands with each: those of the key
/// first, then those of the route.
#[derive(Clone, Debug, Default)]
pub struct LimitReport {
    base: RateLimits,
    route: RateLimits,
    decision: Decision,
}

impl LimitReport {
    pub(crate) fn new(base: RateLimits, route: RateLimits, decision: Decision) -> Self {
        Self {
            base,
            route,
            decision,
        }
    }

    /// Each limit and how it stands.
    pub fn iter(&self) -> impl Iterator<Item = (&RateLimit, &LimitStatus)> + Clone {
        self.base
            .iter()
            .chain(&self.route)
            .zip(self.decision.statuses())
    }

    /// Whether there was no limit at all.
    pub fn is_empty(&self) -> bool {
        self.decision.statuses().is_empty()
    }

    /// Whether the request is within all limits.
    pub fn is_admitted(&self) -> bool {
        self.decision.is_admitted()
    }

    /// The limits that the request would have exceeded.
    pub fn violated(&self) -> impl Iterator<Item = &RateLimit> {
        self.iter()
            .filter(|(_, status)| !status.is_admitted())
            .map(|(limit, _)| limit)
    }

    /// How long until a request of the same cost is admitted by all, if nothing else is spent.
    /// None when it is admitted already, or never will be.
    pub fn retry_after(&self) -> Option<Duration> {
        self.decision.retry_after()
    }

    /// As [`iter`](Self::iter), with whose limit each is: two that look alike may not be one.
    pub(crate) fn iter_spaces(
        &self,
    ) -> impl Iterator<Item = (LimitSpace, &RateLimit, &LimitStatus)> {
        let of_key = self.base.len();
        self.iter()
            .enumerate()
            .map(move |(index, (limit, status))| {
                let space = if index < of_key {
                    LimitSpace::Key
                } else {
                    LimitSpace::Route
                };
                (space, limit, status)
            })
    }

    /// The limits of the key, or a layer's defaults in their place.
    pub(crate) fn base(&self) -> &RateLimits {
        &self.base
    }

    /// The limits of the route.
    pub(crate) fn route(&self) -> &RateLimits {
        &self.route
    }
}
