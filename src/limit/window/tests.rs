//! Against a log of every request, which knows exactly what any trailing window holds.

use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::Window;
use crate::limit::{LimitStatus, RateLimit, Verdict};

const PARTS: u64 = Window::PARTS;

fn limit(quota: u64, seconds: u64) -> RateLimit {
    RateLimit::new("tested", quota, Duration::from_secs(seconds)).unwrap()
}

fn part_nanos(limit: &RateLimit) -> u64 {
    u64::from(limit.window_seconds()) * Window::PART_NANOS_PER_SECOND
}

fn window_nanos(limit: &RateLimit) -> u64 {
    PARTS * part_nanos(limit)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap()
}

/// Asks for `cost`, and charges it if it is admitted.
fn acquire(window: &mut Window, limit: &RateLimit, cost: u64, now: u64) -> LimitStatus {
    let status = window.assess(limit.quota(), cost, now);
    if status.is_admitted() && cost > 0 {
        window.charge(cost, now);
    }
    status
}

/// Steps of a clock, in thousandths of a sub-window, and what is then asked for.
fn requests(
    steps: impl Strategy<Value = i64>,
    costs: impl Strategy<Value = u64>,
) -> impl Strategy<Value = Vec<(i64, u64)>> {
    prop::collection::vec((steps, costs), 1..300)
}

/// Stands still, creeps, walks, strides over sub-windows, or jumps far ahead.
fn forward() -> impl Strategy<Value = i64> {
    prop_oneof![
        3 => Just(0),
        // Along the slots, of which 20 make a sub-window.
        3 => (1..5_i64).prop_map(|slots| slots * 50),
        3 => 1..100_i64,
        3 => 1..1_500_i64,
        // Exactly along the edges of sub-windows.
        2 => (1..18_i64).prop_map(|parts| parts * 1_000),
        1 => 10_000..40_000_i64,
        1 => Just(1_000_000_000),
    ]
}

fn any_direction() -> impl Strategy<Value = i64> {
    prop_oneof![4 => forward(), 1 => forward().prop_map(|step| -step)]
}

fn moved(now: u64, step: i64, limit: &RateLimit) -> u64 {
    let nanos = part_nanos(limit) / 1_000 * step.unsigned_abs();
    if step < 0 {
        now.saturating_sub(nanos)
    } else {
        now + nanos
    }
}

/// Returns whether some trailing window `(now - window, now]` of the log, which is in the order of
/// time, holds more than `quota`.
fn exceeds(log: &[(u64, u64)], quota: u64, window: u64) -> bool {
    let (mut first, mut held) = (0, 0);
    log.iter().any(|(end, cost)| {
        held += cost;
        while log[first].0 + window <= *end {
            held -= log[first].1;
            first += 1;
        }
        held > quota
    })
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(11),
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config(300))]

    #[test]
    fn no_trailing_window_holds_more_than_the_quota(
        quota in prop_oneof![1..40_u64, 40..300_u64],
        seconds in 1..5_u64,
        start in 0..u64::from(u32::MAX),
        requests in requests(any_direction(), 0..12_u64),
    ) {
        let limit = limit(quota, seconds);
        let mut window = Window::new(&limit);
        let (mut now, mut newest, mut log) = (start, 0, Vec::new());
        for (step, cost) in requests {
            now = moved(now, step, &limit);
            if acquire(&mut window, &limit, cost, now).is_admitted() && cost > 0 {
                // A time that went backwards counts as the newest that was charged.
                newest = now.max(newest);
                log.push((newest, cost));
            }
        }
        prop_assert!(!exceeds(&log, quota, window_nanos(&limit)));
    }

    #[test]
    fn a_wait_ends_exactly_when_it_says(
        quota in prop_oneof![1..40_u64, 40..300_u64],
        lowered in prop_oneof![1..40_u64, 40..300_u64],
        start in 0..u64::from(u32::MAX),
        requests in requests(any_direction(), 0..12_u64),
        asked in prop_oneof![0..45_u64, 45..320_u64],
    ) {
        let before = limit(quota, 1);
        let after = limit(lowered.min(quota), 1);
        let mut window = Window::new(&before);
        let mut now = start;
        for (index, (step, cost)) in requests.into_iter().enumerate() {
            now = moved(now, step, &before);
            acquire(&mut window, &before, cost, now);
            // The quota as it was, and lowered.
            if index % 8 == 0 {
                for limit in [&before, &after] {
                    check_waits(&window, limit, asked, now)?;
                }
            }
        }
    }

    #[test]
    fn a_quota_of_as_many_units_as_places_is_exact(
        quota in 1..=Window::PLACES as u64,
        start in 0..u64::from(u32::MAX),
        requests in requests(forward(), 1..30_u64),
    ) {
        let limit = limit(quota, 1);
        let mut window = Window::new(&limit);
        let mut exact = ExactLog::new(quota, window_nanos(&limit));
        let mut now = start;
        for (step, cost) in requests {
            now = moved(now, step, &limit);
            let status = acquire(&mut window, &limit, cost, now);
            prop_assert_eq!(status.is_admitted(), exact.acquire(cost, now));
            prop_assert_eq!(status.remaining(), quota - exact.total);
        }
    }

    #[test]
    fn no_unit_leaves_before_its_window_ends_or_a_sub_window_later(
        start in 0..u64::from(u32::MAX),
        requests in requests(forward(), 1..12_u64),
    ) {
        let limit = limit(1_000_000, 1);
        let (length, part) = (window_nanos(&limit), part_nanos(&limit));
        let mut window = Window::new(&limit);
        let (mut now, mut log) = (start, Vec::new());
        for (step, cost) in requests {
            now = moved(now, step, &limit);
            window.charge(cost, now);
            log.push((now, cost));
            let spent_since = |then: u64| -> u64 {
                let since = log.iter().rev().take_while(|(time, _)| *time > then);
                since.map(|(_, cost)| cost).sum()
            };
            prop_assert!(window.total() >= spent_since(now.saturating_sub(length)));
            if let Some(then) = now.checked_sub(length + part) {
                prop_assert!(window.total() <= spent_since(then));
            }
        }
    }

    #[test]
    fn a_cover_never_holds_less_than_what_it_covers(
        charges in prop::collection::vec((any::<bool>(), 0..800_u64, 1..10_u64), 0..200),
        later in 0..60_u64,
    ) {
        let limit = limit(100_000, 1);
        let mut windows = [Window::new(&limit); 2];
        let mut charges = charges;
        charges.sort_by_key(|(_, time, _)| *time);
        for (which, time, cost) in &charges {
            windows[usize::from(*which)].charge(*cost, time * part_nanos(&limit) / 50);
        }
        let newest = charges.last().map_or(0, |(_, time, _)| *time) * part_nanos(&limit) / 50;
        let [one, other] = windows.map(|mut window| {
            window.advance(newest);
            window
        });
        let mut cover = one;
        cover.cover(&other);
        let at = newest + later * part_nanos(&limit) / 3;
        let used = |window: &Window| 100_000 - window.assess(100_000, 0, at).remaining();
        prop_assert!(used(&cover) >= used(&one).max(used(&other)));
        // Where both have many buckets some are merged, which holds units back for a sub-window.
        let before = at.saturating_sub(part_nanos(&limit)).max(newest);
        let used_before = |window: &Window| 100_000 - window.assess(100_000, 0, before).remaining();
        prop_assert!(used(&cover) <= used_before(&one).max(used_before(&other)));
        let mut reverse = other;
        reverse.cover(&one);
        prop_assert_eq!(used(&cover), used(&reverse));
    }

    #[test]
    fn a_refund_leaves_what_was_spent_beside_it(
        seconds in 1..100_u32,
        start in 0..1_000_000_000_000_u64,
        requests in requests(forward(), 1..10_u64),
        refunded in any::<prop::sample::Index>(),
        later in 0..40_u64,
    ) {
        let limit = limit(1_000_000, seconds.into());
        let (mut window, mut without) = (Window::new(&limit), Window::new(&limit));
        let refunded = refunded.index(requests.len());
        let is_merged = requests.len() >= Window::PLACES;
        let (mut now, mut taken_back, mut others) = (start, (0, 0), Vec::new());
        for (index, (step, cost)) in requests.into_iter().enumerate() {
            now = moved(now, step, &limit);
            window.charge(cost, now);
            if index == refunded {
                // As two layers do, one after the other.
                window.charge(1, now);
                taken_back = (cost + 1, now);
            } else {
                without.charge(cost, now);
                others.push((now, cost));
            }
        }
        let before = window;
        window.refund(taken_back.0, taken_back.1, now);
        let at = now + later * part_nanos(&limit) / 2;
        let used = |window: &Window| 1_000_000 - window.assess(1_000_000, 0, at).remaining();
        let still = |(time, _): &&(u64, u64)| time + window_nanos(&limit) > at;
        prop_assert!(used(&window) >= others.iter().filter(still).map(|(_, cost)| cost).sum());
        prop_assert!(used(&window) <= used(&before));
        if !is_merged {
            // Charges of one time are in the order in which they came.
            prop_assert_eq!(used(&window), used(&without));
        }
    }

    #[test]
    fn extremes_do_not_overflow(
        requests in prop::collection::vec((any::<u64>(), any::<u64>(), 1..=RateLimit::MAX_QUOTA), 1..50),
        seconds in prop_oneof![Just(1), Just(RateLimit::MAX_WINDOW.as_secs())],
        charge_all in any::<bool>(),
    ) {
        let mut window = Window::new(&limit(1, seconds));
        for (now, cost, quota) in requests {
            let limit = limit(quota, seconds);
            let status = acquire(&mut window, &limit, cost, now);
            prop_assert!(status.remaining() <= quota);
            prop_assert_eq!(cost > quota, status.verdict() == Verdict::Impossible);
            if charge_all {
                window.charge(cost, now);
            }
        }
    }
}

proptest! {
    #![proptest_config(config(60))]

    #[test]
    fn saturated_it_admits_sixteen_seventeenths_of_the_quota(
        quota in 1..60_u64,
        cost in 1..20_u64,
        // When, within each sub-window, the caller asks.
        asks in prop::collection::vec(0..1_000_u64, 1..4),
        start in 0..1_000_u64,
    ) {
        prop_assume!(cost <= quota);
        let limit = limit(quota, 1);
        let part = part_nanos(&limit);
        // A hundred windows and two: a multiple of 16 as of 17 sub-windows, over which the shares
        // come out even.
        let parts = 102 * PARTS;
        let mut window = Window::new(&limit);
        let mut exact = ExactLog::new(quota, window_nanos(&limit));
        let mut asks = asks;
        asks.sort_unstable();
        let (mut admitted, mut ideal) = (0, 0);
        for index in start..start + parts {
            for thousandth in &asks {
                let now = index * part + thousandth * (part / 1_000);
                while acquire(&mut window, &limit, cost, now).is_admitted() {
                    admitted += cost;
                }
                while exact.acquire(cost, now) {
                    ideal += cost;
                }
            }
        }
        prop_assert!(admitted >= parts / 17 * (quota / cost) * cost);
        prop_assert!(admitted * 17 >= ideal * 16, "{} of {}", admitted, ideal);
    }
}

/// What `assess` says of the time: true then, and not one nanosecond earlier.
fn check_waits(
    window: &Window,
    limit: &RateLimit,
    cost: u64,
    now: u64,
) -> Result<(), TestCaseError> {
    let quota = limit.quota();
    let status = window.assess(quota, cost, now);
    let mut charged = *window;
    if status.is_admitted() {
        charged.charge(cost, now);
    }
    let remaining_at = |at| charged.assess(quota, 0, at).remaining();
    prop_assert_eq!(status.remaining(), remaining_at(now));
    let reset = nanos(status.resets_in());
    if reset == 0 {
        prop_assert_eq!(status.remaining(), quota);
    } else {
        prop_assert_eq!(remaining_at(now + reset - 1), status.remaining());
        prop_assert!(remaining_at(now + reset) > status.remaining());
    }
    match status.verdict() {
        Verdict::Admitted => prop_assert!(cost == 0 || cost <= quota),
        Verdict::Denied { retry_after } => {
            prop_assert!(status.resets_in() <= retry_after);
            let retry = nanos(retry_after);
            let admitted_at = |at| window.assess(quota, cost, at).is_admitted();
            prop_assert!(!admitted_at(now + retry - 1) && admitted_at(now + retry));
        }
        Verdict::Impossible => prop_assert!(cost > quota),
    }
    Ok(())
}

/// Admits as much as any limiter can that keeps to the quota in each half-open window.
struct ExactLog {
    quota: u64,
    window: u64,
    entries: std::collections::VecDeque<(u64, u64)>,
    total: u64,
}

impl ExactLog {
    fn new(quota: u64, window: u64) -> Self {
        Self {
            quota,
            window,
            entries: std::collections::VecDeque::new(),
            total: 0,
        }
    }

    fn acquire(&mut self, cost: u64, now: u64) -> bool {
        while let Some((at, left)) = self.entries.front().copied()
            && at + self.window <= now
        {
            self.total -= left;
            self.entries.pop_front();
        }
        let admitted = self.total + cost <= self.quota;
        if admitted {
            self.total += cost;
            self.entries.push_back((now, cost));
        }
        admitted
    }
}

mod edges;
mod schedules;
