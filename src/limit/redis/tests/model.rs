//! The scripts once more, as a model in memory: the simulation asks it, and a test compares it with
//! the scripts themselves.

use std::collections::HashMap;

use crate::limit::Window;
use crate::limit::redis::wire::{
    Ask, CounterId, NANOS_PER_MICRO, Outcome, Question, Reply, Seen, Stored,
};
use crate::limit::window::{Bucket, Buckets};

#[derive(Default)]
pub(super) struct Model {
    keys: HashMap<CounterId, Stored>,
}

impl Model {
    /// As the server would answer about its one subject.
    pub(super) fn answer(&mut self, question: &Question, now_us: u64) -> Reply {
        let now = now_us * NANOS_PER_MICRO;
        let (outcome, counters) = match question {
            Question::Acquire(asks) => {
                let found: Vec<_> = asks
                    .iter()
                    .map(|ask| {
                        let mut found = self.read(&ask.counter, now_us);
                        let changed = ask.birth == found.birth && give_back(ask, &mut found, now);
                        (found, changed)
                    })
                    .collect();
                let mut outcome = Outcome::Admitted;
                for (ask, (found, _)) in asks.iter().zip(&found) {
                    let over = total(&ask.counter, found, now) + ask.cost > ask.quota;
                    if ask.birth != 0 && ask.birth != found.birth {
                        outcome = Outcome::Lost;
                    } else if ask.cost > 0 && over && outcome == Outcome::Admitted {
                        outcome = Outcome::Denied;
                    }
                }
                let mut seen = Vec::new();
                for (ask, (found, changed)) in asks.iter().zip(found) {
                    let mut extra = 0;
                    if changed && outcome != Outcome::Lost {
                        self.keys.insert(ask.counter.clone(), found.clone());
                    }
                    if outcome == Outcome::Admitted {
                        let counted = total(&ask.counter, &found, now);
                        extra = ask.extra.min(ask.quota.saturating_sub(counted + ask.cost));
                        self.charge(&ask.counter, found, ask.cost, extra, now);
                    }
                    seen.push(self.seen(&ask.counter, extra));
                }
                (outcome, seen)
            }
            Question::Refund(refunds) => {
                let seen = refunds.iter().map(|refund| {
                    let stored = self.keys.get_mut(&refund.counter);
                    if let Some(stored) = stored.filter(|stored| stored.birth == refund.birth) {
                        let mut window = stored.window(&refund.counter);
                        let then = refund.charged_us * NANOS_PER_MICRO;
                        window.refund(refund.cost, then, now);
                        stored.buckets = window.buckets().collect();
                    }
                    self.seen(&refund.counter, 0)
                });
                (Outcome::Admitted, seen.collect())
            }
            Question::Restore(restores) => {
                let seen = restores.iter().map(|restore| {
                    let mut found = self.read(&restore.counter, now_us);
                    for (time_us, units) in &restore.grants {
                        let part = restore.counter.part_us() * NANOS_PER_MICRO;
                        let time = (time_us * NANOS_PER_MICRO).min(now + part);
                        if time + Window::PARTS * part > now {
                            put(
                                &mut found.buckets,
                                Bucket {
                                    time,
                                    units: *units,
                                },
                                part,
                                now,
                            );
                            self.keys.insert(restore.counter.clone(), found.clone());
                        }
                    }
                    self.seen(&restore.counter, 0)
                });
                (Outcome::Admitted, seen.collect())
            }
        };
        Reply {
            now_us,
            outcome,
            counters: counters.into(),
        }
    }

    /// As `FLUSHALL` would.
    pub(super) fn lose(&mut self) {
        self.keys.clear();
    }

    fn charge(&mut self, counter: &CounterId, mut found: Stored, cost: u64, extra: u64, now: u64) {
        let part = counter.part_us() * NANOS_PER_MICRO;
        let mut time = now.max(found.buckets.last().map_or(0, |bucket| bucket.time));
        if extra > 0 {
            time = (time / part + 1) * part - NANOS_PER_MICRO;
        }
        let units = cost + extra;
        if units > 0 {
            put(&mut found.buckets, Bucket { time, units }, part, now);
            self.keys.insert(counter.clone(), found);
        }
    }

    fn seen(&self, counter: &CounterId, extra: u64) -> Seen {
        let stored = self.keys.get(counter).cloned();
        Seen { extra, stored }
    }

    fn read(&self, counter: &CounterId, now_us: u64) -> Stored {
        let now = now_us * NANOS_PER_MICRO;
        let counts =
            |stored: &&Stored| stored.buckets.is_empty() || total(counter, stored, now) > 0;
        let stored = self.keys.get(counter).filter(counts).cloned();
        stored.unwrap_or(Stored {
            birth: now_us,
            buckets: Buckets::new(),
        })
    }
}

/// Takes back what was not spent, where it is counted still.
fn give_back(ask: &Ask, found: &mut Stored, now: u64) -> bool {
    let Some(unspent) = &ask.unspent else {
        return false;
    };
    let mut window = found.window(&ask.counter);
    window.refund(unspent.units, unspent.time_us() * NANOS_PER_MICRO, now);
    found.buckets = window.buckets().collect();
    true
}

fn total(counter: &CounterId, stored: &Stored, now: u64) -> u64 {
    let mut window = stored.window(counter);
    window.advance(now);
    window.total()
}

fn put(buckets: &mut Buckets, bucket: Bucket, part: u64, now: u64) {
    buckets.retain(|bucket| bucket.time + Window::PARTS * part > now);
    let at = buckets
        .iter()
        .filter(|other| other.time <= bucket.time)
        .count();
    let slot = |bucket: &Bucket| bucket.time / (part / Window::SLOTS);
    let full = buckets.len() == Window::PLACES;
    if full && at > 0 && slot(&buckets[at - 1]) == slot(&bucket) {
        buckets[at - 1].time = bucket.time;
        buckets[at - 1].units += bucket.units;
        return;
    }
    buckets.insert(at, bucket);
    crate::limit::window::merge(buckets, part);
}
