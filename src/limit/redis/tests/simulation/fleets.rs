//! Fleets: many instances that share the quota of one busy key. Each command should serve many
//! requests, and nearly all of the quota should be used.

use super::super::limit;
use super::random::Random;
use super::world::{Faults, World};

const QUOTA: u64 = 10_000;
const WINDOWS: u64 = 3;
const MILLI: u64 = 1_000_000;

/// A number of instances, and the traffic that comes to them.
#[derive(Clone, Copy)]
struct Fleet {
    instances: usize,
    /// The requests in each window, in percent of the quota.
    load: u64,
    /// The time in milliseconds after which all traffic moves on to the next instance; none where
    /// each request comes to any of them.
    rotation: Option<u64>,
}

/// Over some histories of a fleet, in percent and in requests.
struct Measured {
    /// The units admitted, of those that one limiter which sees every request would admit.
    usable: f64,
    admitted_per_call: f64,
}

fn measure(fleet: Fleet) -> Measured {
    let (mut admitted, mut ideal, mut calls) = (0, 0, 0);
    for seed in 0..3 {
        let mut random = Random::new(seed);
        let faults = Faults {
            leased: true,
            ..Faults::default()
        };
        let limits = vec![limit("minute", QUOTA, 60)];
        let mut world = World::new(&mut random, fleet.instances, limits, faults);
        let (window, _) = world.window();
        for _ in 0..QUOTA * fleet.load / 100 * WINDOWS {
            let at = random.between(0, WINDOWS * window);
            match fleet.rotation {
                None => world.arrive_at_cost(at, 1),
                Some(every) => {
                    let turn = usize::try_from(at / (every * MILLI)).unwrap();
                    world.arrive_on(at, turn % fleet.instances);
                }
            }
        }
        let told = world.run();
        assert!(told.fullest.iter().all(|(fullest, quota)| fullest <= quota));
        admitted += told.admitted;
        ideal += told.ideal;
        calls += told.calls;
    }
    let measured = Measured {
        usable: percent(admitted, ideal),
        admitted_per_call: percent(admitted, calls) / 100.0,
    };
    println!(
        "| {} | {} % | {} | {:.2} | {:.1} % |",
        fleet.instances,
        fleet.load,
        fleet
            .rotation
            .map_or("-".to_owned(), |every| format!("{every} ms")),
        measured.admitted_per_call,
        measured.usable,
    );
    measured
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn percent(part: u64, whole: u64) -> f64 {
    100.0 * part as f64 / whole as f64
}

#[test]
fn a_command_serves_many_requests_in_a_large_fleet() {
    let mut failed = Vec::new();
    for (instances, load, wanted) in [
        (10, 80, 20.0),
        (10, 100, 40.0),
        (10, 120, 40.0),
        (10, 200, 40.0),
        (10, 600, 40.0),
        (50, 80, 5.0),
        (50, 100, 9.0),
        (50, 120, 10.0),
        (50, 200, 10.0),
        (50, 600, 10.0),
    ] {
        let measured = measure(Fleet {
            instances,
            load,
            rotation: None,
        });
        if measured.usable < 95.0 || measured.admitted_per_call < wanted {
            failed.push((instances, load));
        }
    }
    assert_eq!(failed, []);
}

#[test]
fn bursts_that_move_from_instance_to_instance_use_the_quota() {
    let mut failed = Vec::new();
    for (instances, load, every) in [
        (10, 80, 1_000),
        (10, 100, 500),
        (10, 100, 1_000),
        (10, 100, 5_000),
        (10, 200, 1_000),
        (10, 600, 500),
        (10, 600, 1_000),
        (50, 100, 1_000),
        (50, 600, 250),
        (50, 600, 1_000),
    ] {
        let measured = measure(Fleet {
            instances,
            load,
            rotation: Some(every),
        });
        if measured.usable < 93.0 {
            failed.push((instances, load, every));
        }
    }
    assert_eq!(failed, []);
}
