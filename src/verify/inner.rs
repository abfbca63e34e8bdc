//! Layers further inside, which an outer layer's denial has to know of.
//!
//! An outer layer decides before a request gets to the inner ones. Over a limit of its own it knows
//! when that one has room, but not when theirs have. A client that obeys "1 second" would then be
//! refused by an inner limit for another 56. So each inner layer leaves a note of what it asks for
//! at the route that was reached. A denial at the same route is made for all of them together.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use foldhash::quality::RandomState;
use smallvec::SmallVec;

use super::{Admission, Verifier};
use crate::bill::Bill;
use crate::denial::{Denial, DenialKind};
use crate::limit::Decision;
use crate::principal::KeyPrincipal;
use crate::requirements::Requirements;

/// Notes of what inner layers asked for, at the routes that were reached lately.
#[derive(Default)]
pub(crate) struct InnerLayers {
    hasher: RandomState,
    /// Notes that are there already, each in the slot that its hash says: most requests find theirs
    /// without the lock. Written under the lock only.
    noted: OnceLock<Box<[AtomicU64]>>,
    routes: Mutex<HashMap<u64, Layers>>,
}

/// The inner layers of one route, each with how many are around it, the outermost first.
type Layers = SmallVec<[(usize, Arc<Requirements>); 2]>;

impl Verifier {
    /// Notes what a layer asks for within the one that `outer` comes from.
    pub(crate) fn note_inner(&self, outer: &KeyPrincipal, needs: &Requirements, route: &impl Hash) {
        let (around, outermost) = outer.admission.bill.position();
        let layers = &self.parts.inner_layers;
        let route = layers.hasher.hash_one((outermost, route));
        layers.note(route, around + 1, needs);
    }

    /// The denial that counts inner layers in, if any are known on one of `routes`, for a layer
    /// that is within the one that `outer` comes from, or is the outermost. `None`, where nothing
    /// is added.
    pub(crate) fn deny_for_inner<R: Hash>(
        &self,
        denial: &Denial,
        outer: Option<&KeyPrincipal>,
        needs: &Requirements,
        routes: impl IntoIterator<Item = R>,
    ) -> Option<Denial> {
        let (key, wait) = (denial.shared_key()?, denial.retry_after()?);
        if denial.kind() != DenialKind::RateLimited {
            return None;
        }
        let parts = &*self.parts;
        let now = parts.clock.now();
        let (around, outermost) = outer.map_or((0, needs.layer), |outer| {
            let (around, outermost) = outer.admission.bill.position();
            (around + 1, outermost)
        });
        let layers = &parts.inner_layers;
        let inner = routes
            .into_iter()
            .find_map(|route| layers.within(layers.hasher.hash_one((outermost, route)), around))?;
        let own = match outer {
            Some(outer) => Bill::on_top(&outer.admission, needs, now),
            None => Bill::new(key, needs, now),
        };
        let bill = inner.iter().fold(own.planned(), |bill, (_, needs)| {
            let admission = Admission {
                key: Arc::clone(key),
                realm: parts.realm,
                bill,
                decision: Decision::default(),
            };
            Bill::on_top(&Arc::new(admission), needs, now).planned()
        });
        let whole = bill.foresee(key, &parts.limiter, true);
        // Where something was given back meanwhile, or Redis knows more, what was found first
        // holds.
        let is_longer = whole.retry_after().is_none_or(|whole| whole >= wait);
        (!whole.is_admitted() && is_longer).then(|| Denial::rate_limited(whole).of_key(key))
    }
}

impl InnerLayers {
    /// The most routes that are known at one time.
    const MOST: usize = 1_024;
    const SLOTS: u64 = 2_048;

    fn note(&self, route: u64, around: usize, needs: &Requirements) {
        let slots = self.noted.get_or_init(|| {
            let slots = 0..Self::SLOTS;
            slots.map(|_| AtomicU64::default()).collect()
        });
        let stamp = |around: usize, needs: &Requirements| {
            self.hasher.hash_one((route, around, needs.layer))
        };
        let slot = |stamp: u64| {
            let index = usize::try_from(stamp % Self::SLOTS);
            &slots[index.expect("below the number of slots")]
        };
        let ours = stamp(around, needs);
        if slot(ours).load(Ordering::Relaxed) == ours {
            return;
        }
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        if routes.len() >= Self::MOST && !routes.contains_key(&route) {
            routes.clear();
            slots
                .iter()
                .for_each(|slot| slot.store(0, Ordering::Relaxed));
        }
        let layers = routes.entry(route).or_default();
        let known = layers.iter().position(|(known, _)| *known >= around);
        let at = known.unwrap_or(layers.len());
        let is_known = layers
            .get(at)
            .is_some_and(|(known, asked)| *known == around && asked.layer == needs.layer);
        if !is_known {
            // Another layer than before: those that were within that one are not within this one.
            for (around, asked) in layers.drain(at..) {
                let stamp = stamp(around, &asked);
                if slot(stamp).load(Ordering::Relaxed) == stamp {
                    slot(stamp).store(0, Ordering::Relaxed);
                }
            }
            layers.push((around, Arc::new(needs.of_charges())));
        }
        slot(ours).store(ours, Ordering::Relaxed);
    }

    /// The layers of a route that have more than `around` others around them.
    fn within(&self, route: u64, around: usize) -> Option<Layers> {
        let routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        let layers = routes.get(&route)?.iter();
        let within: Layers = layers.filter(|(at, _)| *at > around).cloned().collect();
        (!within.is_empty()).then_some(within)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::requirements::LayerId;

    fn layer(cost: u64) -> Requirements {
        Requirements {
            layer: LayerId::next(),
            ..Requirements::new().cost(cost)
        }
    }

    fn costs(layers: &InnerLayers, route: u64, around: usize) -> Vec<u64> {
        let within = layers.within(route, around).unwrap_or_default();
        within.iter().map(|(_, needs)| needs.cost.units()).collect()
    }

    #[test]
    fn layers_are_known_in_their_order_from_each_of_them_inwards() {
        let layers = InnerLayers::default();
        let all = [layer(1), layer(2), layer(3)];
        for _ in 0..2 {
            for (around, needs) in all.iter().enumerate() {
                layers.note(7, around + 1, needs);
            }
        }
        assert_eq!(costs(&layers, 7, 0), [1, 2, 3]);
        assert_eq!(costs(&layers, 7, 2), [3]);
        assert_eq!(costs(&layers, 7, 3), [0; 0]);
        assert_eq!(costs(&layers, 8, 0), [0; 0]);
    }

    #[test]
    fn another_layer_takes_the_place_of_one_and_of_all_within_it() {
        let layers = InnerLayers::default();
        let (first, within, other) = (layer(1), layer(2), layer(3));
        let reach = |stack: &[&Requirements]| {
            for (around, needs) in stack.iter().enumerate() {
                layers.note(7, around + 1, needs);
            }
            costs(&layers, 7, 0)
        };
        for _ in 0..3 {
            assert_eq!(reach(&[&first, &within]), [1, 2]);
            assert_eq!(reach(&[&other]), [3]);
        }
    }

    #[test]
    fn the_routes_are_bounded_and_those_reached_last_are_known() {
        let layers = InnerLayers::default();
        let needs = layer(1);
        for route in (0..5 * InnerLayers::MOST as u64).chain(0..9) {
            layers.note(route, 1, &needs);
            assert_eq!(costs(&layers, route, 0), [1], "{route}");
            assert!(layers.routes.lock().unwrap().len() <= InnerLayers::MOST);
        }
    }
}
