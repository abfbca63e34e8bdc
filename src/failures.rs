use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use crate::clock::Moment;
use crate::limit::{
    Charge, LimitSpace, LimitStatus, LocalLimiter, RateLimit, Subject, SubjectId, Verdict,
};

/// Counts attempts with bad keys for each client address, in bounded memory.
///
/// An IPv6 address counts as its /64, the least that is given to one customer (RFC 6177).
pub(crate) struct FailureLimiter {
    limit: RateLimit,
    limiter: LocalLimiter,
}

impl FailureLimiter {
    /// The most addresses that are told apart at one time.
    const CAPACITY: usize = 100_000;

    pub(crate) fn new(limit: RateLimit) -> Self {
        Self {
            limit,
            limiter: LocalLimiter::forgetful(Self::CAPACITY),
        }
    }

    /// Counts a failure. How long to wait, if it is one too many.
    pub(crate) fn record(&self, address: IpAddr, now: Moment) -> Option<Duration> {
        match self.charge(address, 1, now).verdict() {
            Verdict::Denied { retry_after } => Some(retry_after),
            _ => None,
        }
    }

    /// How long `address` must wait before it may try another key, if it must.
    pub(crate) fn blocked_for(&self, address: IpAddr, now: Moment) -> Option<Duration> {
        let subject = subject(address);
        let charge = Charge {
            limit: &self.limit,
            space: LimitSpace::Key,
            cost: 0,
        };
        let decision = self.limiter.acquire(&subject, &[charge], now);
        let status = decision.statuses()[0];
        (status.remaining() == 0).then_some(status.resets_in())
    }

    fn charge(&self, address: IpAddr, cost: u64, now: Moment) -> LimitStatus {
        let charge = Charge {
            limit: &self.limit,
            space: LimitSpace::Key,
            cost,
        };
        self.limiter
            .acquire(&subject(address), &[charge], now)
            .statuses()[0]
    }
}

fn subject(address: IpAddr) -> Subject {
    let network = match address.to_canonical() {
        IpAddr::V6(address) => {
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)))
        }
        v4 @ IpAddr::V4(_) => v4,
    };
    Subject::new(SubjectId::Address(network))
}
