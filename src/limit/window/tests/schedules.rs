//! The table in `docs/limits.md`: what usual clients get of a quota, in hundredths of a percent.

use super::{ExactLog, acquire, exceeds, limit, window_nanos};
use crate::limit::Window;

const SECOND: u64 = 1_000_000_000;
const MINUTE: u64 = 60 * SECOND;

/// Requests of one unit under `quota` a minute: those admitted, and those that an exact log admits.
fn admitted(quota: u64, requests: impl IntoIterator<Item = u64>) -> (u64, u64) {
    let limit = limit(quota, 60);
    let mut window = Window::new(&limit);
    let mut exact = ExactLog::new(quota, MINUTE);
    let (mut log, mut ideal) = (Vec::new(), 0);
    for now in requests {
        if acquire(&mut window, &limit, 1, now).is_admitted() {
            log.push((now, 1));
        }
        ideal += u64::from(exact.acquire(1, now));
    }
    assert!(!exceeds(&log, quota, window_nanos(&limit)));
    (log.len() as u64, ideal)
}

/// A small generator (`SplitMix64`), the same on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % most
    }

    /// The nanoseconds between two events that come at random, `mean` apart.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "a share of a minute, and no fraction of it matters"
    )]
    fn gap(&mut self, mean: u64) -> u64 {
        let uniform = (self.below(1 << 53) + 1) as f64 / (1_u64 << 53) as f64;
        (-uniform.ln() * mean as f64) as u64
    }
}

/// The times at which `bursts` of `size` requests come: `every` apart and later by up to `jitter`,
/// each time by more than before, so that two are never closer. Each takes `over` from first to
/// last.
fn bursts(bursts: u64, size: u64, every: u64, jitter: u64, over: u64) -> impl Iterator<Item = u64> {
    let mut random = Random(7);
    let mut start = 12_345_678_901;
    (0..bursts).flat_map(move |_| {
        let begins = start;
        start += every + if jitter == 0 { 0 } else { random.below(jitter) };
        (0..size).map(move |request| begins + request * over / size)
    })
}

/// Random requests, at a rate of `percent` of the quota.
fn poisson(seed: u64, quota: u64, percent: u64) -> impl Iterator<Item = u64> {
    let mut random = Random(seed);
    let mut now = 0;
    (0..quota * 500).map(move |_| {
        now += random.gap(MINUTE * 100 / (quota * percent));
        now
    })
}

#[test]
fn a_job_that_sends_its_quota_at_once_gets_all_of_it() {
    for jitter in [0, 1, SECOND, 10 * SECOND] {
        let whole = bursts(20, 100, MINUTE, jitter, 0);
        assert_eq!(admitted(100, whole), (2_000, 2_000));
        let halves = bursts(40, 50, MINUTE / 2, jitter, 0);
        assert_eq!(admitted(100, halves), (2_000, 2_000));
    }
}

/// As it comes from one connection, one request after the other.
#[test]
fn a_job_that_takes_a_while_to_send_its_quota_gets_nearly_all_of_it() {
    for over in [SECOND / 10, SECOND, 3 * SECOND, 10 * SECOND] {
        let (passed, ideal) = admitted(100, bursts(200, 100, MINUTE, 0, over));
        println!("a quota of 100 within {over} ns: {passed} of {ideal}");
        assert_eq!(ideal, 20_000);
        assert!(passed * 100 >= ideal * 88);
    }
}

#[test]
fn a_client_that_is_always_ready_gets_sixteen_seventeenths_and_more() {
    for quota in [5, 17, 25, 40, 100, 1_000] {
        for percent in [101, 150, 500, 5_000] {
            let gap = MINUTE * 100 / (quota * percent);
            let windows = 340;
            let requests = (0..).map(|request| request * gap);
            let requests = requests.take_while(|now| *now < windows * MINUTE);
            let (passed, ideal) = admitted(quota, requests);
            println!(
                "quota {quota}, asked for at {percent} %: {} % of an exact log, {} % of the quota",
                passed * 100 / ideal,
                passed * 100 / (quota * windows)
            );
            assert!(passed * 17 >= ideal * 16);
        }
    }
}

#[test]
fn random_requests_at_nine_tenths_of_the_quota_get_what_an_exact_log_admits() {
    for quota in [10, 24, 30, 50, 100, 150, 200, 500, 2_000] {
        let (mut passed, mut ideal) = (0, 0);
        for seed in 0..10 {
            let told = admitted(quota, poisson(seed, quota, 90));
            (passed, ideal) = (passed + told.0, ideal + told.1);
            assert!(told.0 * 1_000 >= told.1 * 985, "{told:?}");
        }
        println!(
            "quota {quota}: {} hundredths of a percent",
            passed * 10_000 / ideal
        );
        if quota <= Window::PLACES as u64 {
            assert_eq!(passed, ideal);
        }
    }
}
