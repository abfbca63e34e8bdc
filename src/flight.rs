//! Work that is done once, however many tasks need its outcome.
//!
//! The first task that needs an outcome [starts](Departure::start) the work, the others clone the
//! [`Flight`], and all of them wait for it to [land](Flight::landed). The work runs in a task of
//! its own, so any of them may go away:
//!
//! ```text
//! request A   starts the flight ── waits ─────────┐ has the outcome
//! request B              waits ── is dropped      │
//! request C                          waits ───────┤ has the outcome
//! the flight  ═══════════ the work ═══ unlisted ──┘
//! ```
//!
//! Three rules make it safe to wait:
//!
//! 1. The outcome stays readable after it was announced, so a task that starts to wait too late
//!    still finds it. [`watch`] wakes every waiter by itself. `Shared` of the futures crate lets
//!    one waiter poll for all; when that one is dropped at the wrong moment, the others are never
//!    woken: a known race of that crate.
//! 2. The guard that a flight carries is dropped before the outcome is announced, also when the
//!    work panics. The guard removes the flight from where later tasks look for it, so none of them
//!    joins work that has ended.
//! 3. A waiter has a deadline of its own, whatever becomes of the work.

use std::error::Error;
use std::fmt;
use std::future::Future;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

/// The outcome of work under way, which any number of tasks wait for. A clone is the same flight.
#[derive(Clone, Debug)]
pub(crate) struct Flight<T>(watch::Receiver<Option<T>>);

/// The start of a flight's work. Dropped instead, it leaves waiters without an outcome.
#[derive(Debug)]
pub(crate) struct Departure<T>(watch::Sender<Option<T>>);

/// The reason why a waiter has no outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotLanded {
    /// The work was still under way at the waiter's deadline.
    Late,
    /// The work panicked, or its runtime shuts down.
    Lost,
}

impl fmt::Display for NotLanded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Late => "the call takes longer than its deadline",
            Self::Lost => "the key store panicked, or the runtime shuts down",
        })
    }
}

impl Error for NotLanded {}

impl<T: Clone + Send + Sync + 'static> Flight<T> {
    /// Returns a flight that can be listed and waited for, and the means to start its work.
    pub(crate) fn prepare() -> (Self, Departure<T>) {
        let (sender, receiver) = watch::channel(None);
        (Self(receiver), Departure(sender))
    }

    /// Returns the outcome, which every waiter gets a clone of.
    ///
    /// # Errors
    ///
    /// [`NotLanded::Late`] at `deadline`, if there is one, and [`NotLanded::Lost`] when the work
    /// ended without an outcome.
    pub(crate) async fn landed(mut self, deadline: Option<Instant>) -> Result<T, NotLanded> {
        let outcome = async {
            let landed = self.0.wait_for(Option::is_some).await;
            landed.ok().and_then(|outcome| outcome.clone())
        };
        let outcome = match deadline {
            Some(deadline) => timeout_at(deadline, outcome).await,
            None => Ok(outcome.await),
        };
        outcome.map_err(|_| NotLanded::Late)?.ok_or(NotLanded::Lost)
    }
}

impl<T: Send + Sync + 'static> Departure<T> {
    /// Runs `work` in a task of its own. `guard` is dropped when the work has ended and before any waiter is woken.
    ///
    /// The caller must hold no lock that the guard takes: a runtime that shuts down drops a new task at once, on the
    /// thread that spawns it.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime, after `guard` was dropped.
    pub(crate) fn start<W, G>(self, work: W, guard: G)
    where
        W: Future<Output = T> + Send + 'static,
        G: Send + 'static,
    {
        let flying = Flying {
            guard,
            departure: self,
        };
        tokio::spawn(async move {
            // As a whole, so that the guard goes first also when the work panics or never begins.
            let flying = flying;
            let outcome = work.await;
            flying.land(outcome);
        });
    }
}

/// The parts of a flight that its task holds. They are dropped in this order: the end of the second wakes the waiters.
struct Flying<G, T> {
    guard: G,
    departure: Departure<T>,
}

impl<G, T> Flying<G, T> {
    fn land(self, outcome: T) {
        drop(self.guard);
        self.departure.0.send_replace(Some(outcome));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::time::Duration;

    use tokio::sync::{Barrier, oneshot};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn in_time() -> Instant {
        Instant::now() + 10 * SECOND
    }

    fn started<W, G>(work: W, guard: G) -> Flight<W::Output>
    where
        W: Future<Output: Clone + Send + Sync> + Send + 'static,
        G: Send + 'static,
    {
        let (flight, departure) = Flight::prepare();
        departure.start(work, guard);
        flight
    }

    /// Sets its flag when it is dropped.
    struct Guard(Arc<AtomicBool>);

    impl Drop for Guard {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    #[tokio::test]
    async fn all_who_wait_have_the_outcome_of_one_run() {
        let runs = Arc::new(AtomicUsize::new(0));
        let (land, landing) = oneshot::channel();
        let flight = {
            let runs = Arc::clone(&runs);
            let work = async move {
                runs.fetch_add(1, Ordering::SeqCst);
                landing.await.unwrap()
            };
            started(work, ())
        };
        let waiting: Vec<_> = (0..100)
            .map(|_| tokio::spawn(flight.clone().landed(Some(in_time()))))
            .collect();
        tokio::task::yield_now().await;
        land.send(7).unwrap();
        for waiter in waiting {
            assert_eq!(waiter.await.unwrap(), Ok(7));
        }
        assert_eq!(flight.landed(None).await, Ok(7), "also afterwards");
        assert_eq!(runs.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn the_guard_is_gone_before_anyone_has_the_outcome() {
        for panics in [false, true] {
            let gone = Arc::new(AtomicBool::new(false));
            let work = async move {
                tokio::task::yield_now().await;
                assert!(!panics, "the test says so");
            };
            let flight = started(work, Guard(Arc::clone(&gone)));
            let outcome = flight.landed(Some(in_time())).await;
            assert!(gone.load(Ordering::SeqCst));
            let expected = if panics { Err(NotLanded::Lost) } else { Ok(()) };
            assert_eq!(outcome, expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiter_leaves_at_its_own_deadline_and_the_work_goes_on() {
        let (land, landing) = oneshot::channel();
        let flight = started(async move { landing.await.unwrap() }, ());
        let began = Instant::now();
        let late = flight.clone().landed(Some(began + SECOND)).await;
        assert_eq!(late, Err(NotLanded::Late));
        assert_eq!(began.elapsed(), SECOND);
        let patient = tokio::spawn(flight.clone().landed(Some(began + 10 * SECOND)));
        tokio::time::sleep(SECOND).await;
        land.send("landed").unwrap();
        assert_eq!(patient.await.unwrap(), Ok("landed"));
    }

    /// The race of `Shared`, on as many threads as it takes: in each round the outcome is announced
    /// and every second waiter is dropped at the same moment.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn waiters_that_are_dropped_at_the_moment_of_the_outcome_take_nobody_with_them() {
        const ROUNDS: usize = 10_000;
        const WAITERS: usize = 4;
        for round in 0..ROUNDS {
            let (land, landing) = oneshot::channel();
            let flight = started(async move { landing.await.unwrap() }, ());
            let together = Arc::new(Barrier::new(2));
            let waiters: Vec<_> = (0..WAITERS)
                .map(|_| tokio::spawn(flight.clone().landed(Some(in_time()))))
                .collect();
            drop(flight);
            let announcing = {
                let together = Arc::clone(&together);
                tokio::spawn(async move {
                    together.wait().await;
                    land.send(round).unwrap();
                })
            };
            together.wait().await;
            for leaving in waiters.iter().step_by(2) {
                leaving.abort();
            }
            for (number, waiter) in waiters.into_iter().enumerate() {
                match waiter.await {
                    Ok(outcome) => assert_eq!(outcome, Ok(round), "a waiter was never woken"),
                    Err(ended) => assert!(ended.is_cancelled() && number.is_multiple_of(2)),
                }
            }
            announcing.await.unwrap();
        }
    }
}
