use std::sync::{Arc, Mutex, MutexGuard};

use smallvec::SmallVec;

use super::{Charge, LimitSpace, lock};
use crate::limit::decision::Statuses;
use crate::limit::{Decision, LimitStatus, RateLimit, Window};

/// All counters of one subject, under one lock, so that several limits are charged at once.
pub(super) struct Counters {
    limiter: u64,
    state: Mutex<State>,
}

impl Counters {
    /// Counters that are in no table yet.
    pub(super) fn new(limiter: u64) -> Self {
        Self {
            limiter,
            state: Mutex::default(),
        }
    }

    /// The limiter that they belong to.
    #[inline]
    pub(super) fn limiter(&self) -> u64 {
        self.limiter
    }

    #[inline]
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// The open counters. Only those to which the limiter's table leads are ever opened, and they are
/// emptied when it leads there no more: so whoever remembers them finds nothing to charge, and
/// looks for the subject's present ones.
#[derive(Clone, Default)]
pub(super) struct State {
    counters: SmallVec<[Counter; 1]>,
}

#[derive(Clone)]
// The window last, of which only the beginning is needed in most requests.
#[repr(C)]
struct Counter {
    name: Arc<str>,
    space: LimitSpace,
    window: Window,
}

/// The place of each charge's counter.
type Places = SmallVec<[usize; 8]>;

impl State {
    /// Checks all charges and then writes all or none. `None`, and nothing done, when one of the
    /// counters is not open.
    pub(super) fn acquire(&mut self, charges: &[Charge<'_>], now_nanos: u64) -> Option<Decision> {
        let mut places = Places::new();
        for charge in charges {
            places.push(self.place(charge)?);
        }
        let mut admitted = true;
        for (charge, &place) in charges.iter().zip(&places) {
            let window = &mut self.counters[place].window;
            window.advance(now_nanos);
            let cost = cost_at(place, charges, &places);
            admitted &= window.has_room(charge.limit.quota(), cost);
        }
        for (index, &place) in places.iter().enumerate() {
            // Charges that meet in one counter are one charge to it.
            if admitted && !places[..index].contains(&place) {
                let cost = cost_at(place, charges, &places);
                self.counters[place].window.spend(cost, now_nanos);
            }
        }
        let mut statuses = Statuses::new();
        for (charge, &place) in charges.iter().zip(&places) {
            let (window, quota) = (&self.counters[place].window, charge.limit.quota());
            let cost = cost_at(place, charges, &places);
            statuses.push(if admitted || window.has_room(quota, cost) {
                window.status(quota, now_nanos)
            } else {
                window.refusal(quota, cost, now_nanos)
            });
        }
        Some(Decision::new(statuses))
    }

    /// As [`State::acquire`] for the one limit that most keys have, where there is nothing to
    /// agree with and less to copy.
    #[inline]
    pub(super) fn acquire_one(
        &mut self,
        charge: &Charge<'_>,
        now_nanos: u64,
    ) -> Option<LimitStatus> {
        let place = self.place(charge)?;
        let window = &mut self.counters[place].window;
        Some(window.acquire(charge.limit.quota(), charge.cost, now_nanos))
    }

    /// Takes back what `charges` cost at `then`, as far as it is still counted.
    pub(super) fn refund(&mut self, charges: &[Charge<'_>], then_nanos: u64, now_nanos: u64) {
        for charge in charges {
            if let Some(place) = self.place(charge) {
                let window = &mut self.counters[place].window;
                window.refund(charge.cost, then_nanos, now_nanos);
            }
        }
    }

    /// As [`State::acquire`] after [`State::open`] of the same charges.
    pub(super) fn acquire_open(&mut self, charges: &[Charge<'_>], now_nanos: u64) -> Decision {
        let decision = self.acquire(charges, now_nanos);
        decision.expect("the counters of all charges are open")
    }

    /// Opens the counters that `charges` need and that are not open, each as `first` says, and
    /// drops others in which nothing is counted any more.
    pub(super) fn open(
        &mut self,
        charges: &[Charge<'_>],
        now_nanos: u64,
        first: impl Fn(&RateLimit) -> Window,
    ) {
        if charges.iter().all(|charge| self.place(charge).is_some()) {
            return;
        }
        self.counters.retain(|counter| {
            counter.window.advance(now_nanos);
            counter.window.total() > 0
        });
        for charge in charges {
            if self.place(charge).is_none() {
                self.counters.push(Counter {
                    name: Arc::clone(charge.limit.shared_name()),
                    space: charge.space,
                    window: first(charge.limit),
                });
            }
        }
    }

    /// Closes all counters and returns what they held.
    pub(super) fn close(&mut self) -> impl Iterator<Item = Window> {
        self.counters.drain(..).map(|counter| counter.window)
    }

    /// The units counted in all windows at `now_nanos`.
    pub(super) fn units(&mut self, now_nanos: u64) -> u64 {
        self.counters.iter_mut().fold(0, |sum, counter| {
            counter.window.advance(now_nanos);
            sum.saturating_add(counter.window.total())
        })
    }

    #[inline]
    fn place(&self, charge: &Charge<'_>) -> Option<usize> {
        self.counters
            .iter()
            .position(|counter| counter.is_of(charge))
    }
}

/// What `charges` ask of one counter together.
#[inline]
fn cost_at(place: usize, charges: &[Charge<'_>], places: &Places) -> u64 {
    let costs = charges.iter().zip(places);
    costs.fold(0, |sum, (charge, &at)| {
        sum.saturating_add(if at == place { charge.cost } else { 0 })
    })
}

impl Counter {
    #[inline]
    fn is_of(&self, charge: &Charge<'_>) -> bool {
        let name = charge.limit.shared_name();
        self.window.window_seconds() == charge.limit.window_seconds()
            && self.space == charge.space
            && (Arc::ptr_eq(&self.name, name) || self.name == *name)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn idle_counters_are_dropped_when_others_are_opened() {
        let mut state = State::default();
        for second in 0..100 {
            let limit = RateLimit::new(&second.to_string(), 5, Duration::from_secs(2)).unwrap();
            let charges = [Charge {
                limit: &limit,
                space: LimitSpace::Key,
                cost: 1,
            }];
            let now_nanos = second * 1_000_000_000;
            state.open(&charges, now_nanos, Window::new);
            assert!(state.acquire_open(&charges, now_nanos).is_admitted());
            assert!(state.counters.len() <= 3);
        }
    }
}
