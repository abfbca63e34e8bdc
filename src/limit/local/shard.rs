use std::hash::BuildHasher;
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
    overflow: Overflow,
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

    /// Opens the counters that `charges` of `subject` need. The subject may have been evicted
    /// before, so a counter that is not open starts with what the overflow holds for it.
    pub(super) fn open(
        &self,
        state: &mut State,
        subject: &SubjectId,
        charges: &[Charge<'_>],
        now_nanos: u64,
    ) {
        state.open(charges, now_nanos, |limit: &RateLimit| {
            let hash = self.hash(subject);
            let used = self.overflow.used(hash, limit.window_seconds(), now_nanos);
            used.unwrap_or_else(|| Window::new(limit))
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
                self.evict(self.hand, capacity, now_nanos);
            } else {
                least = least.min((units, self.hand));
                self.hand += 1;
            }
        }
        // If none was dropped, then every place still is that of the subject that was looked at.
        if self.subjects.len() >= capacity {
            self.evict(least.1, capacity, now_nanos);
        }
    }

    fn evict(&mut self, place: usize, capacity: usize, now_nanos: u64) {
        let Some((subject, counters)) = self.subjects.swap_remove_index(place) else {
            return;
        };
        let hash = self.hash(&subject);
        for mut used in counters.lock().close() {
            used.advance(now_nanos);
            if used.total() > 0 && !self.forgetful {
                self.overflow.add(hash, capacity, &used, now_nanos);
            }
        }
    }

    fn hash(&self, subject: &SubjectId) -> u64 {
        self.subjects.hasher().hash_one(subject)
    }
}

/// Use of evicted subjects, in cells that several subjects share: a count-min sketch of windows.
///
/// Each subject has two cells, and both hold at least what it had used. So the one that holds less
/// is enough to start with, and most subjects have a cell in which others used little.
#[derive(Default)]
struct Overflow {
    /// In each cell one window for each length of window. Empty until something is evicted.
    cells: Box<[Vec<Window>]>,
}

impl Overflow {
    /// The subjects for each cell.
    const SUBJECTS_PER_CELL: usize = 4;
    const LEAST_CELLS: usize = 16;

    /// The most that a subject may have used in a window of that length; none where it is nothing.
    fn used(&self, hash: u64, seconds: u32, now_nanos: u64) -> Option<Window> {
        let [one, other] = self.cells_of(hash)?.map(|cell| {
            let of_length = |window: &&Window| window.window_seconds() == seconds;
            let mut window = *self.cells[cell].iter().find(of_length)?;
            window.advance(now_nanos);
            Some(window)
        });
        let (one, other) = (one?, other?);
        Some(if other.total() < one.total() {
            other
        } else {
            one
        })
    }

    /// Raises both cells of a subject to what it has used.
    fn add(&mut self, hash: u64, subjects: usize, used: &Window, now_nanos: u64) {
        if self.cells.is_empty() {
            let cells = (subjects / Self::SUBJECTS_PER_CELL).max(Self::LEAST_CELLS);
            self.cells = vec![Vec::new(); cells].into();
        }
        for cell in self.cells_of(hash).into_iter().flatten() {
            let windows = &mut self.cells[cell];
            windows.retain_mut(|window| {
                window.advance(now_nanos);
                window.total() > 0
            });
            let of_length = |window: &&mut Window| window.window_seconds() == used.window_seconds();
            match windows.iter_mut().find(of_length) {
                Some(window) => window.cover(used),
                None => windows.push(*used),
            }
        }
    }

    fn cells_of(&self, hash: u64) -> Option<[usize; 2]> {
        // Two numbers that have nothing to do with each other.
        let [one, other] = [hash >> 32, hash & u64::from(u32::MAX)];
        let cell = |number: u64| usize::try_from(number % self.cells.len() as u64).ok();
        if self.cells.is_empty() {
            return None;
        }
        Some([cell(one)?, cell(other)?])
    }
}
