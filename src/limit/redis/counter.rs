use smallvec::SmallVec;

use super::lease::{Lease, Rate, Unspent};
use super::wire::{CounterId, NANOS_PER_MICRO, Stored};
use crate::limit::{Charge, Window};

/// What this instance knows of one counter. Windows are in Redis's time.
pub(super) struct Counter {
    pub(super) id: CounterId,
    /// What Redis has counted, as far as it has told.
    pub(super) known: Window,
    /// When it was asked, and what time it was at Redis when that was told.
    heard: Option<Heard>,
    /// When the counter was created in Redis; 0 if that is not known.
    pub(super) birth: u64,
    /// What this instance was granted, or let through while Redis failed.
    pub(super) granted: Window,
    pub(super) lease: Lease,
    /// The units that requests here are waiting for.
    pub(super) waiting: u64,
    pub(super) rate: Rate,
}

impl Counter {
    /// How long what is known serves to deny requests without asking again. Units are given back
    /// now and then, by a refund elsewhere or an operator.
    const TRUSTED: u64 = 10_000_000_000;

    pub(super) fn of(charge: &Charge<'_>) -> Self {
        let window = Window::new(charge.limit);
        Self {
            id: CounterId {
                name: std::sync::Arc::clone(charge.limit.shared_name()),
                space: charge.space,
                seconds: charge.limit.window_seconds(),
            },
            known: window,
            heard: None,
            birth: 0,
            granted: window,
            lease: Lease::default(),
            waiting: 0,
            rate: Rate::default(),
        }
    }

    pub(super) fn is_of(&self, charge: &Charge<'_>) -> bool {
        let name = charge.limit.shared_name();
        self.id.seconds == charge.limit.window_seconds()
            && self.id.space == charge.space
            && (std::sync::Arc::ptr_eq(&self.id.name, name) || self.id.name == *name)
    }

    /// Whether Redis would deny `cost`, as far as is known. Nothing but a refund makes room before
    /// units leave the count, so no call is needed to say so.
    pub(super) fn is_known_to_deny(&self, quota: u64, cost: u64, now: u64, redis_now: u64) -> bool {
        let is_over = |window: &Window| window.total().saturating_add(cost) > quota;
        let trusted = |heard: Heard| now.saturating_sub(heard.asked_at) < Self::TRUSTED;
        // Most requests are told apart by the first of these.
        cost > 0
            && is_over(&self.known)
            && self.heard.is_some_and(trusted)
            && is_over(&at(self.known, redis_now))
    }

    /// Takes out units that were granted and that nobody has spent, so that they can be given back.
    pub(super) fn take_unspent(&mut self, unspent: Unspent, redis_now: u64) -> Unspent {
        self.granted.refund(unspent.units, unspent.time, redis_now);
        unspent
    }

    /// The birth to insist on: none where nothing was granted that still counts.
    pub(super) fn birth_to_insist_on(&self, redis_now: u64) -> u64 {
        if at(self.granted, redis_now).total() > 0 {
            self.birth
        } else {
            0
        }
    }

    /// The grants, as they are reported to Redis: times in microseconds, and the units that may
    /// have been spent until then.
    pub(super) fn grants(&self, redis_now: u64) -> SmallVec<[(u64, u64); 4]> {
        at(self.granted, redis_now)
            .buckets()
            .map(|bucket| (bucket.time.div_ceil(NANOS_PER_MICRO), bucket.units))
            .collect()
    }

    /// Takes in what Redis has of the counter.
    pub(super) fn learn(&mut self, stored: Option<&Stored>, heard: Heard) {
        if self.heard.is_some_and(|newest| heard.is_before(newest)) {
            return;
        }
        self.heard = Some(heard);
        let redis_now = heard.redis_now;
        self.known = self.window(stored, redis_now);
        self.birth = stored.map_or(0, |stored| stored.birth);
        self.granted.advance(redis_now);
    }

    /// The window that is `stored`, at a time.
    pub(super) fn window(&self, stored: Option<&Stored>, redis_now: u64) -> Window {
        let nothing = || Window::empty(self.id.seconds);
        at(
            stored.map_or_else(nothing, |stored| stored.window(&self.id)),
            redis_now,
        )
    }

    /// Whether nothing is counted, leased or remembered.
    pub(super) fn is_idle(&self, redis_now: u64) -> bool {
        self.lease.is_empty()
            && self.waiting == 0
            && at(self.granted, redis_now).total() == 0
            && at(self.known, redis_now).total() == 0
    }
}

/// When an answer was asked for and received, and what time it was at Redis in between.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heard {
    pub(super) asked_at: u64,
    pub(super) received_at: u64,
    pub(super) redis_now: u64,
}

impl Heard {
    /// Whether Redis has said this before `other`: questions and answers overtake each other.
    /// Unless one was asked after the other was answered, its own clock tells, which may be set
    /// back.
    fn is_before(self, other: Self) -> bool {
        self.redis_now < other.redis_now && self.asked_at < other.received_at
    }
}

/// `window` at a time of Redis.
pub(super) fn at(mut window: Window, redis_now: u64) -> Window {
    window.advance(redis_now);
    window
}
