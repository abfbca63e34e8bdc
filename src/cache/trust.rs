use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::clock::Moment;

/// The time up to which the invalidation bus vouches for what was read. All times are in monotonic
/// nanoseconds.
///
/// A *proof* of the bus says that every change published before it has arrived. So an entry that
/// was read in the present subscription, and not invalidated since, was up to date at the last
/// proof, however long ago it was read. An entry from before the subscription was up to date at the
/// last proof of its own one: what changed between the two was published to nobody here.
pub(super) struct BusTrust {
    /// The end of the time for which the last proof is trusted; [`u64::MAX`] without a bus.
    until: AtomicU64,
    /// For so long a proof is trusted.
    silence: u64,
    /// The last subscriptions that ended, oldest first.
    ended: Mutex<VecDeque<Ended>>,
}

/// A subscription that has ended.
struct Ended {
    /// The generation that began with the subscription.
    from: u64,
    /// The generation that began with the next one.
    to: u64,
    last_proof: u64,
}

impl BusTrust {
    /// So many subscriptions that ended are remembered. While subscriptions keep ending, one begins
    /// each second.
    const MOST_ENDED: usize = 64;

    pub(super) fn without_bus(silence: u64) -> Self {
        Self {
            until: AtomicU64::new(u64::MAX),
            silence,
            ended: Mutex::default(),
        }
    }

    /// There is a bus, which has proved nothing yet.
    pub(super) fn await_proof(&self) {
        self.until.store(0, Ordering::SeqCst);
    }

    pub(super) fn has_bus(&self) -> bool {
        self.until.load(Ordering::SeqCst) != u64::MAX
    }

    /// Takes a proof that everything published before `proved_at` has arrived.
    pub(super) fn prove(&self, proved_at: Moment) {
        let until = proved_at.monotonic_nanos().saturating_add(self.silence);
        self.until.fetch_max(until, Ordering::SeqCst);
    }

    /// Returns whether the last proof is trusted at `now`; always, where there is no bus.
    #[inline]
    pub(super) fn vouches(&self, now: Moment) -> bool {
        now.monotonic_nanos() < self.until.load(Ordering::SeqCst)
    }

    /// Returns whether what was up to date at `known_at` is trusted at `now`, by the last proof or
    /// by its age.
    #[inline]
    pub(super) fn covers(&self, known_at: u64, now: Moment) -> bool {
        self.vouches(now) || now.monotonic_nanos().saturating_sub(known_at) < self.silence
    }

    /// The time of the last proof, or of none at all. Without a bus it is later than any.
    pub(super) fn last_proof(&self) -> u64 {
        let until = self.until.load(Ordering::SeqCst);
        until.saturating_sub(self.silence)
    }

    /// The time of the last proof for what was loaded in `generation`.
    pub(super) fn last_proof_for(&self, generation: u64) -> u64 {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        match ended.iter().find(|ended| generation < ended.to) {
            Some(ended) if ended.from <= generation => ended.last_proof,
            // Of a subscription that is no longer remembered.
            Some(_) => 0,
            // Under the lock: the next subscription is proved only after this one is among those
            // that ended.
            None => self.last_proof(),
        }
    }

    /// Ends the present subscription. The next one began with `generation`.
    pub(super) fn end_subscription(&self, generation: u64) {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let from = ended.back().map_or(0, |before| before.to);
        let last_proof = self.last_proof();
        if ended.len() == Self::MOST_ENDED {
            ended.pop_front();
        }
        ended.push_back(Ended {
            from,
            to: generation,
            last_proof,
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jiff::Timestamp;

    use super::*;

    const SILENCE: u64 = 5_000_000_000;

    fn at(seconds: u64) -> Moment {
        Moment::new(Timestamp::UNIX_EPOCH, Duration::from_secs(seconds))
    }

    fn seconds(nanos: u64) -> u64 {
        nanos / 1_000_000_000
    }

    #[test]
    fn an_entry_is_vouched_for_by_the_last_proof_of_its_own_subscription() {
        let trust = BusTrust::without_bus(SILENCE);
        trust.await_proof();
        assert!(!trust.vouches(at(1)));
        // The subscription begins with generation 3, and the next one with 7.
        trust.end_subscription(3);
        trust.prove(at(100));
        trust.prove(at(110));
        trust.end_subscription(7);
        trust.prove(at(200));
        for (generation, proof) in [(0, 0), (2, 0), (3, 110), (6, 110), (7, 200), (9, 200)] {
            assert_eq!(
                seconds(trust.last_proof_for(generation)),
                proof,
                "{generation}"
            );
        }
        assert!(trust.vouches(at(204)) && !trust.vouches(at(205)));
    }

    #[test]
    fn subscriptions_that_are_forgotten_vouch_for_nothing() {
        let trust = BusTrust::without_bus(SILENCE);
        trust.await_proof();
        for generation in 1..=1_000 {
            trust.end_subscription(generation);
            trust.prove(at(generation * 10));
        }
        assert_eq!(trust.ended.lock().unwrap().len(), BusTrust::MOST_ENDED);
        assert_eq!(trust.last_proof_for(0), 0);
        assert_eq!(trust.last_proof_for(935), 0);
        assert_eq!(seconds(trust.last_proof_for(936)), 9_360);
        assert_eq!(seconds(trust.last_proof_for(999)), 9_990);
    }

    #[test]
    fn without_a_bus_nothing_has_to_be_proved() {
        let trust = BusTrust::without_bus(SILENCE);
        assert!(!trust.has_bus());
        assert!(trust.vouches(at(u64::MAX / 2_000_000_000)));
        assert!(trust.last_proof_for(0) > 1_000_000_000);
    }
}
