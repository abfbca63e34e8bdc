use std::sync::Arc;

use foldhash::quality::RandomState;
use indexmap::IndexMap;

use super::counters::{Counters, State};
use super::{Charge, SubjectId};
use crate::limit::{RateLimit, Window};

/// Some of a limiter's subjects, and what those used that were evicted from among them.
///
/// Locks are taken in one order: the shard's, then that of a subject's counters.
#[derive(Default)]
pub(super) struct Shard {
    subjects: IndexMap<SubjectId, Arc<Counters>, RandomState>,
    /// The next subject to be looked at when room is made.
    hand: usize,
    /// For each length of window at least what any subject had used in it when it was evicted.
    overflow: Vec<Window>,
    /// Whether evicted subjects are just forgotten.
    forgetful: bool,
}

impl Shard {
    /// How many subjects are looked at for each new one: while there is room, enough to drop the
    /// idle ones as fast as others come; when there is none, more, to find one that is idle.
    const SAMPLE: usize = 2;
    const SAMPLE_WHEN_FULL: usize = 8;

    pub(super) fn new(forgetful: bool) -> Self {
        Self {
            forgetful,
            ..Self::default()
        }
    }

    pub(super) fn counters_of(&self, subject: &SubjectId) -> Option<Arc<Counters>> {
        self.subjects.get(subject).map(Arc::clone)
    }

    /// Leads to `counters` from now on.
    pub(super) fn insert(&mut self, subject: &SubjectId, counters: Arc<Counters>) {
        self.subjects.insert(subject.clone(), counters);
    }

    /// Opens the counters that `charges` need. A counter that is not open may be one of a subject
    /// that was evicted, so it starts with the overflow.
    pub(super) fn open(&self, state: &mut State, charges: &[Charge<'_>], now_nanos: u64) {
        state.open(charges, now_nanos, |limit: &RateLimit| {
            let of_length = |window: &&Window| window.window_seconds() == limit.window_seconds();
            let overflow = self.overflow.iter().find(of_length);
            overflow.map_or_else(|| Window::new(limit), |window| *window)
        });
    }

    pub(super) fn len(&self) -> usize {
        self.subjects.len()
    }

    /// Looks at the next few subjects and drops those that have nothing counted any more. Where
    /// that leaves no room below `capacity`, evicts the one among them that has used the least.
    pub(super) fn make_room(&mut self, capacity: usize, now_nanos: u64) {
        let mut least = (u64::MAX, 0);
        let full = self.subjects.len() >= capacity;
        let sample = if full {
            Self::SAMPLE_WHEN_FULL
        } else {
            Self::SAMPLE
        };
        for _ in 0..sample.min(self.subjects.len()) {
            if self.hand >= self.subjects.len() {
                self.hand = 0;
            }
            let units = self.subjects[self.hand].lock().units(now_nanos);
            if units == 0 {
                // Another one takes this place, and is looked at next.
                self.evict(self.hand, now_nanos);
            } else {
                least = least.min((units, self.hand));
                self.hand += 1;
            }
        }
        // If none was dropped, then every place still is that of the subject that was looked at.
        if self.subjects.len() >= capacity {
            self.evict(least.1, now_nanos);
        }
    }

    fn evict(&mut self, place: usize, now_nanos: u64) {
        let Some((_, counters)) = self.subjects.swap_remove_index(place) else {
            return;
        };
        self.overflow.retain_mut(|window| {
            window.advance(now_nanos);
            window.total() > 0
        });
        let mut counters = counters.lock();
        let used = counters.close().filter(|_| !self.forgetful);
        for mut used in used {
            used.advance(now_nanos);
            let of_length = |window: &&mut Window| window.window_seconds() == used.window_seconds();
            match self.overflow.iter_mut().find(of_length) {
                Some(window) => window.cover(&used),
                None if used.total() > 0 => self.overflow.push(used),
                None => {}
            }
        }
    }
}
