//! More subjects than places.

use super::{SECOND, address, charge, limit, moment, remaining};
use crate::limit::{LocalLimiter, Subject};

#[test]
fn a_million_subjects_fit_into_ten_thousand_places() {
    let limiter = LocalLimiter::new(10_000);
    let second = limit("second", 5, 1);
    for number in 0..1_000_000_u32 {
        let subject = Subject::new(address(number));
        let now = moment(u64::from(number) * 100);
        limiter.acquire(&subject, &[charge(&second, 1)], now);
        if number % 100_000 == 0 {
            assert!(limiter.len() <= 10_000);
        }
    }
    assert!(limiter.len() <= 10_000);
}

#[test]
fn idle_subjects_make_room_before_others_are_evicted() {
    let limiter = LocalLimiter::new(200);
    let limits = [limit("second", 5, 1), limit("hour", 5, 3_600)];
    let mut busy = Vec::new();
    for number in 0..200 {
        let subject = Subject::new(address(number));
        let of_an_hour = number % 4 == 0;
        let charges = [charge(&limits[usize::from(of_an_hour)], 3)];
        limiter.acquire(&subject, &charges, moment(0));
        busy.extend(of_an_hour.then_some(subject));
    }
    // Two seconds later three of four are idle.
    for number in 1_000..1_100 {
        let subject = Subject::new(address(number));
        limiter.acquire(&subject, &[charge(&limits[0], 1)], moment(2 * SECOND));
        assert!(limiter.len() <= 200);
    }
    assert!(limiter.len() < 200, "idle ones were dropped");
    for subject in busy {
        let decision = limiter.acquire(&subject, &[charge(&limits[1], 0)], moment(2 * SECOND));
        assert_eq!(remaining(&decision), [2], "none of the others was");
    }
    // A subject that nobody has seen starts with its whole quota: nothing was evicted.
    let decision = limiter.acquire(
        &Subject::new(address(5_000)),
        &[charge(&limits[1], 1)],
        moment(2 * SECOND),
    );
    assert_eq!(remaining(&decision), [4]);
}

#[test]
fn only_a_forgetful_limiter_forgets_what_the_evicted_used() {
    let limit = limit("failures", 5, 60);
    for (limiter, used_up) in [(LocalLimiter::forgetful(4), 4), (LocalLimiter::new(4), 100)] {
        for number in 0..100 {
            limiter.acquire(
                &Subject::new(address(number)),
                &[charge(&limit, 5)],
                moment(0),
            );
        }
        let left = |number| {
            let subject = Subject::new(address(number));
            let decision = limiter.acquire(&subject, &[charge(&limit, 0)], moment(0));
            remaining(&decision)[0]
        };
        let without = (0..100).filter(|number| left(*number) == 0).count();
        assert_eq!(without, used_up);
        assert_eq!(limiter.len(), 4);
    }
}

/// The numbers in `docs/limits.md`: more subjects than places, each of which uses ten units of 100
/// a minute at random times.
#[test]
fn more_subjects_than_places_are_counted_together_and_hardly_refused() {
    const PLACES: u32 = 512;
    let mut random = 7_u64;
    let mut below = |most: u64| {
        // Marsaglia's xorshift.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % most
    };
    for (times, most_refused) in [(1, 0), (2, 1), (10, 1)] {
        let limiter = LocalLimiter::new(PLACES as usize);
        let minute = limit("minute", 100, 60);
        let subjects = u64::from(PLACES) * times * 9 / 10;
        let (requests, mut refused) = (subjects * 10 * 2, 0);
        for request in 0..requests {
            let now = moment(120 * SECOND / requests * request);
            let number = u32::try_from(below(subjects)).unwrap();
            let subject = Subject::new(address(number));
            let decision = limiter.acquire(&subject, &[charge(&minute, 1)], now);
            refused += u64::from(!decision.is_admitted());
        }
        println!("{subjects} subjects in {PLACES} places: {refused} of {requests} refused");
        assert!(refused * 100 <= requests * most_refused);
    }
}
