use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use tokio::runtime::Handle;

use crate::clock::Moment;
use crate::limit::{
    Acquire, Charge, Decision, LimitSpace, Limiter, LocalLimiter, RateLimit, Subject, SubjectId,
};

/// Counts attempts with bad keys for each client address, in bounded memory.
///
/// An IPv6 address counts as its /64, the least that is given to one customer (RFC 6177). With
/// Redis, failures are counted there as well, for all instances; nobody waits for it, so an
/// instance learns with one failure what the others have counted before.
pub(crate) struct FailureLimiter {
    limit: RateLimit,
    local: LocalLimiter,
    /// Where all instances count, if they do.
    shared: Option<Limiter>,
}

impl FailureLimiter {
    /// The most addresses that are told apart at one time.
    const CAPACITY: usize = 100_000;

    /// Counts where `limiter` does, too.
    pub(crate) fn new(limit: RateLimit, limiter: &Limiter) -> Self {
        Self {
            limit,
            local: LocalLimiter::forgetful(Self::CAPACITY),
            shared: limiter.apart(Self::CAPACITY),
        }
    }

    /// Counts a failure. How long to wait, if it is one too many.
    pub(crate) fn record(&self, address: IpAddr, now: Moment) -> Option<Duration> {
        let (subject, charges) = (subject(address), [self.charge()]);
        let here = self.local.acquire(&subject, &charges, now).retry_after();
        here.max(self.record_shared(&subject, &charges, now))
    }

    /// How long `address` must wait before it may try another key, if it must.
    pub(crate) fn blocked_for(&self, address: IpAddr, now: Moment) -> Option<Duration> {
        let (subject, charges) = (subject(address), [self.charge()]);
        let wait = |decision: Decision| decision.retry_after();
        let here = wait(self.local.foresee(&subject, &charges, &[], now));
        let shared = self.shared.as_ref();
        here.max(shared.and_then(|limiter| wait(limiter.foresee(&subject, &charges, &[], now))))
    }

    fn record_shared(
        &self,
        subject: &Subject,
        charges: &[Charge<'_>],
        now: Moment,
    ) -> Option<Duration> {
        match self.shared.as_ref()?.acquire(subject, charges, now) {
            Acquire::Done(decision) => decision.ok()?.retry_after(),
            Acquire::Wait(decision) => {
                if let Ok(runtime) = Handle::try_current() {
                    runtime.spawn(decision);
                }
                None
            }
        }
    }

    fn charge(&self) -> Charge<'_> {
        Charge {
            limit: &self.limit,
            space: LimitSpace::Key,
            cost: 1,
        }
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
