use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::clock::Moment;
use crate::telemetry;

/// Lets calls through to Redis as long as they come back: a circuit breaker, and a cap on the calls
/// in flight.
///
/// It opens when [`Gate::FAILURES`] calls in a row have failed. While it is open nothing is called,
/// so that nobody waits for what will not come. [`Gate::PROBE_AFTER`] later one call goes through;
/// if it comes back the gate closes again, and otherwise the wait begins anew.
pub(super) struct Gate {
    state: Mutex<State>,
    in_flight: AtomicUsize,
    most_in_flight: usize,
    /// Which limits it is about, for metrics.
    limits: &'static str,
    calls: AtomicU64,
    /// The time of the last answer, in monotonic nanoseconds; 0 where none has come yet.
    answered_at: AtomicU64,
    /// Wakes those that wait for room, one for each call that ends, and all when it opens.
    room: Notify,
}

/// The gate's answer to a caller that wants to make a call.
pub(super) enum Entrance {
    /// It may be made.
    Pass(Pass),
    /// Redis fails.
    Barred,
    /// Redis is well, but too many calls wait for it.
    Full,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Closed { failures: u32 },
    Open { until: Duration },
    Probing,
}

impl Gate {
    /// How many failures in a row open it.
    pub(super) const FAILURES: u32 = 5;
    /// How long it stays open before Redis is tried again.
    pub(super) const PROBE_AFTER: Duration = Duration::from_secs(1);
    /// The most calls of a limiter that wait for an answer at one time.
    pub(super) const IN_FLIGHT: usize = 1_024;

    /// A gate that is closed, or open until a call comes back where Redis is not `reached` yet.
    pub(super) fn new(most_in_flight: usize, limits: &'static str, reached: bool) -> Self {
        telemetry::limiter_up(limits, reached);
        let state = if reached {
            State::Closed { failures: 0 }
        } else {
            State::Open {
                until: Duration::ZERO,
            }
        };
        Self {
            most_in_flight,
            limits,
            state: Mutex::new(state),
            in_flight: AtomicUsize::new(0),
            calls: AtomicU64::new(0),
            answered_at: AtomicU64::new(0),
            room: Notify::new(),
        }
    }

    /// Whether a call may be made now.
    pub(super) fn enter(self: &Arc<Self>, now: Moment) -> Entrance {
        let mut state = self.lock();
        let probe = match *state {
            State::Closed { .. } => false,
            State::Open { until } if now.monotonic() >= until => true,
            State::Open { .. } | State::Probing => return Entrance::Barred,
        };
        if self.in_flight.fetch_add(1, Ordering::Relaxed) >= self.most_in_flight {
            self.in_flight.fetch_sub(1, Ordering::Relaxed);
            return Entrance::Full;
        }
        if probe {
            *state = State::Probing;
        }
        self.calls.fetch_add(1, Ordering::Relaxed);
        Entrance::Pass(Pass {
            gate: Arc::clone(self),
            probe,
        })
    }

    /// Waits until a call has ended or the gate has opened.
    pub(super) async fn room(&self) {
        self.room.notified().await;
    }

    /// Returns true if the last call that ended has failed, or if no answer has come for `silence`.
    ///
    /// A server with too much to do answers one call after the other all the time. One that has stopped
    /// answers none, and until the first call is past its deadline nothing else shows that.
    pub(super) fn is_failing(&self, silence: Duration, now: Moment) -> bool {
        let answered_at = Duration::from_nanos(self.answered_at.load(Ordering::Relaxed));
        now.monotonic().saturating_sub(answered_at) >= silence
            || !matches!(*self.lock(), State::Closed { failures: 0 })
    }

    /// How many calls were let through.
    pub(super) fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to make one call. One that is dropped says nothing about Redis.
pub(super) struct Pass {
    gate: Arc<Gate>,
    /// Whether this call decides if the gate closes again.
    probe: bool,
}

impl Pass {
    /// Whether the gate is open except for this call.
    pub(super) fn is_probe(&self) -> bool {
        self.probe
    }

    pub(super) fn succeeded(mut self, now: Moment) {
        telemetry::limiter_called(self.gate.limits, true);
        let answered_at = &self.gate.answered_at;
        answered_at.fetch_max(now.monotonic_nanos(), Ordering::Relaxed);
        let mut state = self.gate.lock();
        match *state {
            State::Probing if self.probe => {
                tracing::info!("Redis answers again, limits are shared again");
                telemetry::limiter_up(self.gate.limits, true);
                *state = State::Closed { failures: 0 };
            }
            State::Closed { .. } => *state = State::Closed { failures: 0 },
            // It left before the gate was opened: too old to tell anything.
            State::Open { .. } | State::Probing => {}
        }
        drop(state);
        self.probe = false;
    }

    pub(super) fn failed(mut self, why: &dyn fmt::Display, now: Moment) {
        telemetry::limiter_called(self.gate.limits, false);
        let open = State::Open {
            until: now.monotonic() + Gate::PROBE_AFTER,
        };
        let mut state = self.gate.lock();
        match *state {
            State::Probing if self.probe => *state = open,
            State::Closed { failures } if failures + 1 >= Gate::FAILURES => {
                telemetry::limiter_up(self.gate.limits, false);
                tracing::warn!(error = %why, "Redis fails, requests follow the outage policy");
                *state = open;
                self.gate.room.notify_waiters();
            }
            State::Closed { failures } => {
                *state = State::Closed {
                    failures: failures + 1,
                };
            }
            State::Open { .. } | State::Probing => {}
        }
        drop(state);
        self.probe = false;
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.gate.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.gate.room.notify_one();
        if self.probe {
            // Whoever made the call went away: the next one may try.
            *self.gate.lock() = State::Open {
                until: Duration::ZERO,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn at(millis: u64) -> Moment {
        Moment::new(Timestamp::UNIX_EPOCH, Duration::from_millis(millis))
    }

    fn pass(gate: &Arc<Gate>, millis: u64) -> Pass {
        match gate.enter(at(millis)) {
            Entrance::Pass(pass) => pass,
            Entrance::Barred | Entrance::Full => panic!("a call may be made"),
        }
    }

    fn enters(gate: &Arc<Gate>, millis: u64) -> bool {
        matches!(gate.enter(at(millis)), Entrance::Pass(_))
    }

    fn opened() -> Arc<Gate> {
        let gate = Arc::new(Gate::new(Gate::IN_FLIGHT, "keys", true));
        for _ in 0..Gate::FAILURES {
            pass(&gate, 0).failed(&"down", at(0));
        }
        gate
    }

    #[test]
    fn failures_in_a_row_open_it() {
        let gate = Arc::new(Gate::new(Gate::IN_FLIGHT, "keys", true));
        for _ in 0..10 {
            for _ in 1..Gate::FAILURES {
                pass(&gate, 0).failed(&"down", at(0));
            }
            pass(&gate, 0).succeeded(at(0));
        }
        assert!(enters(&gate, 0));
        assert!(!enters(&opened(), 999));
    }

    #[test]
    fn one_call_tries_whether_it_can_close_again() {
        let gate = opened();
        let probe = pass(&gate, 1_000);
        assert!(probe.is_probe());
        assert!(!enters(&gate, 5_000), "one at a time");
        probe.failed(&"still down", at(1_050));
        assert!(!enters(&gate, 2_049));
        pass(&gate, 2_050).succeeded(at(2_050));
        assert!(!pass(&gate, 2_050).is_probe());
    }

    #[test]
    fn a_probe_that_is_given_up_leaves_its_place() {
        let gate = opened();
        drop(pass(&gate, 1_000));
        assert!(pass(&gate, 1_000).is_probe());
    }

    #[test]
    fn until_redis_was_reached_one_call_at_a_time_tries() {
        let gate = Arc::new(Gate::new(Gate::IN_FLIGHT, "keys", false));
        let first = pass(&gate, 0);
        assert!(first.is_probe());
        assert!(!enters(&gate, 0));
        first.succeeded(at(0));
        assert!(!pass(&gate, 0).is_probe());
    }

    /// The first call after the server has stopped is not past its deadline yet.
    #[test]
    fn a_server_that_has_stopped_answering_is_failing_and_a_busy_one_is_not() {
        const SILENCE: Duration = Duration::from_millis(50);
        let gate = Arc::new(Gate::new(Gate::IN_FLIGHT, "keys", true));
        let waiting: Vec<_> = (0..3).map(|_| pass(&gate, 1_000)).collect();
        for (millis, waiting) in (1_020..).step_by(40).zip(waiting) {
            waiting.succeeded(at(millis));
            assert!(!gate.is_failing(SILENCE, at(millis + 49)));
        }
        assert!(gate.is_failing(SILENCE, at(1_150)));
        pass(&gate, 1_150).succeeded(at(1_160));
        assert!(!gate.is_failing(SILENCE, at(1_161)));
        pass(&gate, 1_161).failed(&"down", at(1_162));
        assert!(gate.is_failing(SILENCE, at(1_163)));
    }

    #[test]
    fn calls_in_flight_are_capped() {
        let gate = Arc::new(Gate::new(Gate::IN_FLIGHT, "keys", true));
        let mut passes: Vec<_> = (0..Gate::IN_FLIGHT).map(|_| pass(&gate, 0)).collect();
        assert!(!enters(&gate, 0));
        passes.pop();
        assert!(enters(&gate, 0));
    }

    #[test]
    fn what_left_before_it_opened_tells_nothing() {
        let gate = Arc::new(Gate::new(Gate::IN_FLIGHT, "keys", true));
        let late = pass(&gate, 0);
        for _ in 0..Gate::FAILURES {
            pass(&gate, 0).failed(&"down", at(0));
        }
        late.succeeded(at(0));
        assert!(!enters(&gate, 500));
    }
}
