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

/// What a [`LimitReport`] tells, by reference: most requests never need the report itself.
#[derive(Clone, Copy)]
pub(crate) struct Standing<'a> {
    /// The limits of the key, or a layer's defaults in their place.
    pub(crate) base: &'a RateLimits,
    /// The limits of the route.
    pub(crate) route: &'a RateLimits,
    pub(crate) decision: &'a Decision,
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
        self.standing().iter()
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

    pub(crate) fn standing(&self) -> Standing<'_> {
        Standing {
            base: &self.base,
            route: &self.route,
            decision: &self.decision,
        }
    }
}

impl<'a> Standing<'a> {
    /// Each limit and how it stands.
    #[inline]
    pub(crate) fn iter(self) -> impl Iterator<Item = (&'a RateLimit, &'a LimitStatus)> + Clone {
        let limits = self.base.iter().chain(self.route);
        limits.zip(self.decision.statuses())
    }

    /// As [`iter`](Self::iter), with whose limit each is: two that look alike may not be one.
    pub(crate) fn iter_spaces(
        self,
    ) -> impl Iterator<Item = (LimitSpace, &'a RateLimit, &'a LimitStatus)> {
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

    /// Returns whether each limit has a name that no other has.
    #[inline]
    pub(crate) fn has_distinct_names(self) -> bool {
        let taken = |limit: &RateLimit| self.base.iter().any(|base| base.name() == limit.name());
        !self.route.iter().any(taken)
    }

    /// The report that says the same.
    pub(crate) fn to_report(self) -> LimitReport {
        LimitReport::new(self.base.clone(), self.route.clone(), self.decision.clone())
    }
}
