//! Time, injectable.
//!
//! Verification asks the time once and uses that one [`Moment`] for everything that follows: the
//! wall clock decides what has expired, the monotonic clock how old a cached key is and which
//! sub-window of a limit is the current one. A wall clock that is set back therefore never gives
//! quota back, and one that is set forward never takes it.

use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;

/// Where the time comes from. The default is [`SystemClock`]; tests use `testing::ManualClock`.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// The present moment. Called once for each request, so it should be cheap.
    fn now(&self) -> Moment;
}

/// One reading of a [`Clock`]: the same instant on the wall clock and on the monotonic clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    wall_nanos: i64,
    monotonic_nanos: u64,
}

impl Moment {
    /// A moment at `wall` time, `monotonic` after the clock's own, arbitrary origin.
    pub fn new(wall: Timestamp, monotonic: Duration) -> Self {
        Self {
            wall_nanos: saturating_nanos(wall),
            monotonic_nanos: u64::try_from(monotonic.as_nanos()).unwrap_or(u64::MAX),
        }
    }

    /// The wall clock's time, for records and people.
    pub fn timestamp(self) -> Timestamp {
        // 64 bits of nanoseconds are within jiff's range, which ends in the year 9999.
        Timestamp::from_nanosecond(self.wall_nanos.into()).unwrap_or(Timestamp::MAX)
    }

    /// The time since the clock's origin. Never decreases.
    pub fn monotonic(self) -> Duration {
        Duration::from_nanos(self.monotonic_nanos)
    }

    pub(crate) fn wall_nanos(self) -> i64 {
        self.wall_nanos
    }

    pub(crate) fn monotonic_nanos(self) -> u64 {
        self.monotonic_nanos
    }
}

/// `time` in nanoseconds since the Unix epoch; beyond the year 2262 the last that 64 bits hold.
pub(crate) fn saturating_nanos(time: Timestamp) -> i64 {
    let nanos = time.as_nanosecond();
    i64::try_from(nanos).unwrap_or(if nanos < 0 { i64::MIN } else { i64::MAX })
}

/// The operating system's clocks, at the price of reading one of them.
///
/// A moment costs one reading of the monotonic clock; its distance to the wall clock is measured
/// again when the last measurement is [`SystemClock::REANCHOR`] old, so a wall clock that is set
/// anew is followed within that time.
#[derive(Debug)]
pub struct SystemClock {
    origin: Instant,
    /// Wall time at `origin`, in nanoseconds since the Unix epoch.
    wall_at_origin: AtomicI64,
    /// When `wall_at_origin` was measured, in monotonic nanoseconds.
    measured_at: AtomicU64,
}

impl SystemClock {
    /// How long a measurement of the distance between the two clocks is used.
    pub const REANCHOR: Duration = Duration::from_millis(100);

    /// A clock whose monotonic origin is now.
    pub fn new() -> Self {
        let clock = Self {
            origin: Instant::now(),
            wall_at_origin: AtomicI64::new(0),
            measured_at: AtomicU64::new(0),
        };
        clock.measure(0);
        clock
    }

    /// Measures the wall time at the origin and returns it.
    fn measure(&self, monotonic_nanos: u64) -> i64 {
        let wall = Timestamp::try_from(SystemTime::now()).map_or(i64::MAX, saturating_nanos);
        let at_origin = wall.saturating_sub_unsigned(monotonic_nanos);
        self.wall_at_origin.store(at_origin, Ordering::Relaxed);
        self.measured_at.store(monotonic_nanos, Ordering::Relaxed);
        at_origin
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Moment {
        let elapsed = self.origin.elapsed();
        let monotonic_nanos = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
        let age = monotonic_nanos.saturating_sub(self.measured_at.load(Ordering::Relaxed));
        let wall_at_origin = if u128::from(age) < Self::REANCHOR.as_nanos() {
            self.wall_at_origin.load(Ordering::Relaxed)
        } else {
            self.measure(monotonic_nanos)
        };
        Moment {
            wall_nanos: wall_at_origin.saturating_add_unsigned(monotonic_nanos),
            monotonic_nanos,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_clock_agrees_with_the_wall_clock() {
        let clock = SystemClock::new();
        let before = Timestamp::now();
        let moment = clock.now().timestamp();
        let after = Timestamp::now();
        let slack = jiff::SignedDuration::from_millis(5);
        assert!(
            before - slack <= moment && moment <= after + slack,
            "{before} {moment} {after}"
        );
    }

    #[test]
    fn a_measurement_is_renewed_once_it_is_old() {
        let clock = SystemClock::new();
        clock.wall_at_origin.store(0, Ordering::Relaxed);
        assert_eq!(
            clock.now().timestamp().as_second(),
            0,
            "a fresh measurement is used"
        );
        // As if the measurement had been made long before the origin.
        let mut aged = clock;
        aged.origin -= SystemClock::REANCHOR;
        assert!(
            aged.now().timestamp().as_second() > 1_600_000_000,
            "an old one is not"
        );
    }

    #[test]
    fn times_beyond_64_bits_saturate() {
        assert_eq!(saturating_nanos(Timestamp::MAX), i64::MAX);
        assert_eq!(saturating_nanos(Timestamp::MIN), i64::MIN);
        let moment = Moment::new(Timestamp::MAX, Duration::MAX);
        assert_eq!(moment.timestamp().as_nanosecond(), i128::from(i64::MAX));
    }
}
