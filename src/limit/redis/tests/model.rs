//! The scripts once more, as a model in memory: the simulation asks it, and a test holds it against
//! the scripts themselves.

use std::collections::HashMap;

use crate::limit::redis::wire::{CounterId, Outcome, Question, Reply, Seen, Stored};

#[derive(Default)]
pub(super) struct Model {
    keys: HashMap<CounterId, Stored>,
}

const COUNTED: u64 = 17;

impl Model {
    /// As the server would answer about its one subject.
    pub(super) fn answer(&mut self, question: &Question, now_us: u64) -> Reply {
        let (outcome, counters) = match question {
            Question::Acquire(asks) => {
                let found: Vec<_> = asks
                    .iter()
                    .map(|ask| self.read(&ask.counter, now_us))
                    .collect();
                let mut outcome = Outcome::Admitted;
                for (ask, found) in asks.iter().zip(&found) {
                    let over = total(found) + ask.cost > ask.quota;
                    if ask.birth != 0 && ask.birth != found.birth {
                        outcome = Outcome::Lost;
                    } else if ask.cost > 0 && over && outcome == Outcome::Admitted {
                        outcome = Outcome::Denied;
                    }
                }
                let mut seen = Vec::new();
                for (ask, mut found) in asks.iter().zip(found) {
                    let mut extra = 0;
                    if outcome == Outcome::Admitted {
                        let eighth = ask.quota.saturating_sub(total(&found)) / 8;
                        extra = ask.extra.min(eighth.saturating_sub(ask.cost));
                        if ask.cost + extra > 0 {
                            found.counts[0] += ask.cost + extra;
                            self.keys.insert(ask.counter.clone(), found);
                        }
                    }
                    seen.push(self.seen(&ask.counter, extra));
                }
                (outcome, seen)
            }
            Question::Refund(refunds) => {
                let seen = refunds.iter().map(|refund| {
                    let mut found = self.read(&refund.counter, now_us);
                    let charged = refund.charged_us / refund.counter.part_us();
                    if self.keys.contains_key(&refund.counter)
                        && found.birth == refund.birth
                        && let Some(age) = found.index.checked_sub(charged)
                        && age < COUNTED
                    {
                        let count = &mut found.counts[usize::try_from(age).unwrap()];
                        *count = count.saturating_sub(refund.cost);
                        self.keys.insert(refund.counter.clone(), found);
                    }
                    self.seen(&refund.counter, 0)
                });
                (Outcome::Admitted, seen.collect())
            }
            Question::Restore(restores) => {
                let seen = restores.iter().map(|restore| {
                    let mut found = self.read(&restore.counter, now_us);
                    for (index, units) in &restore.grants {
                        let age = found.index.saturating_sub(*index);
                        if age < COUNTED {
                            found.counts[usize::try_from(age).unwrap()] += units;
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

    fn seen(&self, counter: &CounterId, extra: u64) -> Seen {
        let stored = self.keys.get(counter).cloned();
        Seen { extra, stored }
    }

    fn read(&self, counter: &CounterId, now_us: u64) -> Stored {
        let index = now_us / counter.part_us();
        let fresh = Stored {
            birth: now_us,
            index,
            counts: Default::default(),
        };
        let Some(stored) = self.keys.get(counter) else {
            return fresh;
        };
        match index.saturating_sub(stored.index) {
            0 => stored.clone(),
            passed @ 1..COUNTED => {
                let passed = usize::try_from(passed).unwrap();
                let mut aged = stored.clone();
                aged.index = index;
                aged.counts.rotate_right(passed);
                aged.counts[..passed].fill(0);
                aged
            }
            _ => fresh,
        }
    }
}

fn total(stored: &Stored) -> u64 {
    stored.counts.iter().sum()
}
