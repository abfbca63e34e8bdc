//! Many instances, a network that delays and loses, clocks that differ: whatever happens, no
//! trailing window holds more than the quota.
//!
//! The ledgers are the real ones, Redis is the model that agrees with the scripts, and time is a
//! number. A history is made from its seed alone, so one that fails can be looked at again.

mod world;

use super::limit;
use crate::limit::RateLimit;
use world::{Faults, Random, World};

/// One history, and what came of it.
struct Told {
    /// Units admitted, and what one limiter that sees every request at once would have admitted.
    admitted: u64,
    ideal: u64,
    calls: u64,
    requests: u64,
    /// The fullest trailing window of each limit, beside its quota.
    fullest: Vec<(u64, u64)>,
    losses: u64,
}

fn history(seed: u64, set_up: impl Fn(&mut Random) -> (usize, Faults)) -> Told {
    let mut random = Random::new(seed);
    let (instances, faults) = set_up(&mut random);
    let limits = limits(&mut random);
    let mut world = World::new(&mut random, instances, limits, faults);
    for at in arrivals(&mut random, &world) {
        world.arrive(at);
    }
    world.run()
}

fn limits(random: &mut Random) -> Vec<RateLimit> {
    let seconds = [1, 2, 10, 60][random.below(4)];
    let quota = [random.between(1, 30), random.between(30, 400)][random.below(2)];
    let mut limits = vec![limit("first", quota, seconds)];
    if random.one_in(3) {
        let quota = random.between(quota, 4 * quota);
        limits.push(limit("second", quota, seconds * random.between(2, 10)));
    }
    limits
}

/// Requests over one to three windows: spread evenly, in bursts, or around the edges of
/// sub-windows.
fn arrivals(random: &mut Random, world: &World) -> Vec<u64> {
    let (window, part) = world.window();
    let span = window * random.between(1, 3);
    let count = random.between(20, 160);
    let edges = span / part;
    (0..count)
        .map(|_| match random.below(4) {
            0 => random.between(0, span),
            1 => {
                // About when a sub-window ends at Redis.
                let edge = world.edge() + random.between(0, edges) * part;
                (edge + random.between(0, part / 20)).saturating_sub(part / 40)
            }
            // One long burst at the end of a window, and another one at the beginning of the next.
            2 => window - part / 2 + random.between(0, part),
            _ => random.between(0, part / 4),
        })
        .collect()
}

fn any_trouble(random: &mut Random) -> (usize, Faults) {
    let instances = [1, 3, random.between(2, 10), random.between(10, 50)][random.below(4)];
    let faults = Faults {
        leased: !random.one_in(8),
        lost: [0, 2, 20][random.below(3)],
        slow: [0, 5, 30][random.below(3)],
        deaths: [0, 0, random.between(1, 5)][random.below(3)],
        refunds: [0, 0, 10][random.below(3)],
        emptied: 0,
    };
    (usize::try_from(instances).unwrap(), faults)
}

#[test]
fn no_trailing_window_ever_exceeds_the_quota() {
    const HISTORIES: u64 = 10_000;
    let (mut admitted, mut ideal, mut requests, mut calls) = (0, 0, 0, 0);
    for seed in 0..HISTORIES {
        let told = history(seed, any_trouble);
        for (fullest, quota) in &told.fullest {
            assert!(fullest <= quota, "history {seed}: {fullest} of {quota}");
        }
        admitted += told.admitted;
        ideal += told.ideal;
        requests += told.requests;
        calls += told.calls;
    }
    println!(
        "{HISTORIES} histories, {requests} requests, {calls} calls: \
         {admitted} units admitted of {ideal} that one limiter would admit, {} %",
        100 * admitted / ideal
    );
}

#[test]
fn a_redis_that_is_emptied_adds_at_most_one_quota_each_time() {
    let (mut over, mut losses) = (0, 0);
    for seed in 0..2_000 {
        let told = history(seed, |random| {
            let (instances, faults) = any_trouble(random);
            let emptied = random.between(1, 3);
            (instances, Faults { emptied, ..faults })
        });
        losses += told.losses;
        for (fullest, quota) in &told.fullest {
            assert!(*fullest <= quota * (1 + told.losses), "history {seed}");
            over += u64::from(fullest > quota);
        }
    }
    println!("{losses} losses, after which {over} limits were exceeded, none by a quota a loss");
    assert!(
        over > 0,
        "the histories are not hard enough to show anything"
    );
}
