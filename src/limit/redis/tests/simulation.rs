//! Many instances, a network that delays and loses, clocks that differ: whatever happens, no
//! trailing window holds more than the quota.
//!
//! The ledgers are the real ones, Redis is the model that agrees with the scripts, and time is a
//! number. A history is made from its seed alone, so one that fails can be looked at again.

mod fleets;
mod random;
mod world;

use super::limit;
use crate::limit::RateLimit;
use random::Random;
use world::{Faults, World};

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
    let seconds = [1, 1, 2, 10, 60][random.below(5)];
    let quota = [random.between(1, 30), random.between(30, 120)][random.below(2)];
    let mut limits = vec![limit("first", quota, seconds)];
    if random.one_in(3) {
        let quota = random.between(quota, 4 * quota);
        limits.push(limit("second", quota, seconds * random.between(2, 10)));
    }
    limits
}

/// When requests come, over one to three windows.
fn arrivals(random: &mut Random, world: &World) -> Vec<u64> {
    let (window, part) = world.window();
    let count = random.between(20, 160);
    // Some sub-window of Redis begins here.
    let edge = world.edge() + random.between(0, 3) * part;
    let span = window * random.between(1, 3);
    let style = random.below(6);
    let mut arrival = |_| match (style, random.below(8)) {
        // Evenly.
        (0, _) => random.between(0, span),
        // Around the ends of sub-windows.
        (1, _) => edge + random.between(0, span / part) * part + random.between(0, part / 20),
        // A long burst at the end of a window, and another one at the beginning of the next.
        (2, _) => window - part / 2 + random.between(0, part),
        // Units are leased, spent as late as can be, and the quota is used up again once they
        // leave the count.
        (_, 0..=2) => edge + part - random.between(0, part / 2),
        (_, 3) => edge + part + random.between(0, part),
        (_, _) => edge + window + part + random.between(0, part / 50),
    };
    (0..count).map(&mut arrival).collect()
}

fn any_trouble(random: &mut Random) -> (usize, Faults) {
    let instances = [1, 3, random.between(2, 10), random.between(10, 50)][random.below(4)];
    let faults = Faults {
        leased: !random.one_in(8),
        lost: [0, 2, 20][random.below(3)],
        slow: [0, 10, 30][random.below(3)],
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

/// Requests beyond the quota, on three instances that nothing happens to.
#[test]
fn three_instances_can_use_nine_tenths_of_the_quota() {
    let (mut admitted, mut ideal) = (0, 0);
    let limits = |random: &mut Random| {
        let seconds = [1, 10, 60][random.below(3)];
        vec![limit("first", random.between(100, 2_000), seconds)]
    };
    for seed in 0..300 {
        let mut random = Random::new(seed);
        let limits = limits(&mut random);
        let quota = limits[0].quota();
        let faults = Faults {
            leased: true,
            ..Faults::default()
        };
        let mut world = World::new(&mut random, 3, limits, faults);
        let (window, _) = world.window();
        // A quarter to three times what the quota allows, over two windows.
        let count = quota / 4 * random.between(2, 24);
        for _ in 0..count {
            world.arrive(random.between(0, 2 * window));
        }
        let told = world.run();
        assert!(told.fullest.iter().all(|(fullest, quota)| fullest <= quota));
        admitted += told.admitted;
        ideal += told.ideal;
    }
    println!(
        "three instances: {admitted} of {ideal} units, {} %",
        100 * admitted / ideal
    );
    assert!(admitted * 10 >= ideal * 9);
}

/// A quota of 10,000 a minute, used up at 1,000 requests a second.
#[test]
fn one_call_serves_fifty_requests_of_a_busy_key() {
    let (mut most, mut least) = (0, u64::MAX);
    for seed in 0..20 {
        let mut random = Random::new(seed);
        let faults = Faults {
            leased: true,
            ..Faults::default()
        };
        let limits = vec![limit("minute", 10_000, 60)];
        let mut world = World::new(&mut random, 1, limits, faults);
        for milli in 0..10_000 {
            world.arrive_at_cost(milli * 1_000_000, 1);
        }
        let told = world.run();
        assert!(told.calls * 50 <= told.requests, "history {seed}");
        most = told.calls.max(most);
        least = told.admitted.min(least);
    }
    println!("10000 requests of one quota: at most {most} calls, at least {least} admitted");
    assert!(least >= 9_000);
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
