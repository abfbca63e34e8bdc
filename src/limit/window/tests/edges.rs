//! Single cases, and what the numbers can be at most.

use std::time::Duration;

use super::{acquire, limit, nanos, part_nanos, window_nanos};
use crate::limit::{RateLimit, Verdict, Window};

#[test]
fn a_burst_leaves_when_it_is_a_window_old() {
    let limit = limit(100, 16);
    let second = 1_000_000_000;
    let mut window = Window::new(&limit);
    let status = acquire(&mut window, &limit, 100, 3 * second + 1);
    assert_eq!(status.remaining(), 0);
    assert_eq!(nanos(status.resets_in()), 16 * second);
    let retry_after = Duration::from_secs(16);
    let denied = window.assess(100, 1, 3 * second + 1);
    assert_eq!(denied.verdict(), Verdict::Denied { retry_after });
    assert!(!window.assess(100, 1, 19 * second).is_admitted());
    assert!(window.assess(100, 100, 19 * second + 1).is_admitted());
}

#[test]
fn charges_that_are_close_together_are_merged_first() {
    let limit = limit(1_000, 16);
    let milli = 1_000_000;
    let mut window = Window::new(&limit);
    // A slot is 50 milliseconds, and a sub-window a second.
    for place in 0..Window::PLACES as u64 {
        window.charge(1, place * 30 * milli);
    }
    assert_eq!(window.buckets().count(), Window::PLACES);
    window.charge(1, 690 * milli + milli);
    let newest = window.buckets().last().unwrap();
    assert_eq!(
        (newest.time, newest.units),
        (691 * milli, 2),
        "the same slot"
    );
    window.charge(1, 5_000 * milli);
    let first = window.buckets().next().unwrap();
    assert_eq!(
        (first.time, first.units),
        (30 * milli, 2),
        "the first of the closest pairs"
    );
    assert_eq!(window.buckets().count(), Window::PLACES);
    window.charge(1, 16_000 * milli);
    assert_eq!(
        window.total(),
        27,
        "a charge leaves with the one it was merged with"
    );
    window.advance(16_030 * milli);
    assert_eq!(window.total(), 25);
}

#[test]
fn a_clock_that_went_back_gives_nothing_back() {
    let limit = limit(10, 1);
    let length = window_nanos(&limit);
    let mut window = Window::new(&limit);
    window.charge(10, 0);
    // They left the count at the end of their window, and others are charged in the next one.
    window.advance(length);
    window.charge(10, length / 2);
    assert!(!window.assess(10, 1, 2 * length - 1).is_admitted());
    assert!(window.assess(10, 10, 2 * length).is_admitted());
}

#[test]
fn a_cost_above_the_quota_is_impossible_and_a_cost_of_none_always_admitted() {
    let mut window = Window::new(&limit(5, 1));
    assert_eq!(window.assess(5, 6, 0).verdict(), Verdict::Impossible);
    assert_eq!(window.assess(5, 0, 0).resets_in(), Duration::ZERO);
    window.charge(5, 0);
    let lowered = window.assess(3, 0, 0);
    assert_eq!(
        (lowered.verdict(), lowered.remaining()),
        (Verdict::Admitted, 0)
    );
}

#[test]
fn a_sum_that_does_not_fit_is_not_forgotten_early() {
    let limit = limit(RateLimit::MAX_QUOTA, 1);
    let mut window = Window::new(&limit);
    window.charge(u64::MAX, 0);
    window.charge(u64::MAX, part_nanos(&limit));
    // Wrapped around, the sum of all three would be nothing.
    window.charge(2, 2 * part_nanos(&limit));
    for gone in [15, 16] {
        assert_eq!(
            window
                .assess(limit.quota(), 0, gone * part_nanos(&limit))
                .remaining(),
            0
        );
    }
    assert_eq!(
        window
            .assess(limit.quota(), 0, 17 * part_nanos(&limit))
            .remaining(),
        limit.quota() - 2
    );
}

#[test]
fn it_takes_as_many_bytes_as_the_docs_of_the_limiter_count_with() {
    assert_eq!(size_of::<Window>(), 424);
}

/// By then another charge would be taken back, which still counts in the window of its own time.
#[test]
fn a_refund_after_the_clock_went_back_takes_nothing_from_others() {
    let limit = limit(10, 1);
    let length = window_nanos(&limit);
    for quiet in [false, true] {
        let mut window = Window::new(&limit);
        window.charge(4, length);
        window.charge(5, length + length / 2);
        // The first charge leaves the count.
        if quiet {
            window.advance(2 * length + 2);
        } else {
            window.charge(1, 2 * length + 2);
        }
        let before = window.total();
        window.refund(4, length, 2 * length - 1);
        assert_eq!(window.total(), before);
    }
}
