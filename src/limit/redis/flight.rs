//! A call to Redis, which is followed to its end even if its request does not wait for it.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use redis::RedisError;
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout, timeout_at};

use super::gate::{Gate, Pass};
use super::ledger::{Call, Step};
use super::lock;
use super::outage::Cause;
use super::request::Request;
use super::wire::Reply;
use crate::limit::Charge;

/// A call that has been made, or is about to be. Dropped without an answer, it is ended, and its
/// answer is taken in when it comes.
pub(super) struct Flight {
    request: Request,
    call: Arc<Call>,
    pass: Option<Pass>,
    /// The answer, until somebody else waits for it.
    asked: Option<Asked>,
    is_sent: bool,
    due: Instant,
}

type Asked = BoxFuture<'static, Result<Reply, RedisError>>;

/// The outcome of a call while its request waited.
#[expect(clippy::large_enum_variant, reason = "each call moves it once")]
pub(super) enum Landed {
    Answered(Step),
    Failed(Cause),
    /// The request does not wait any longer.
    Late(Late),
}

/// A call whose request has been decided without it.
pub(super) struct Late {
    request: Request,
    call: Arc<Call>,
    asked: Asked,
    /// None where the call was counted as failed already.
    pass: Option<Pass>,
    due: Instant,
}

impl Flight {
    /// A call that has failed if there is no answer when it is `due`.
    pub(super) fn new(request: Request, call: Call, pass: Pass, due: Instant) -> Self {
        let call = Arc::new(call);
        let (asking, limiter) = (Arc::clone(&call), request.limiter.clone());
        let entry = Arc::clone(&request.entry);
        let asked = async move {
            let link = &limiter.0.link;
            link.ask(&asking.question, &entry.tag, 0).await
        };
        Self {
            request,
            call,
            pass: Some(pass),
            asked: Some(Box::pin(asked)),
            is_sent: false,
            due,
        }
    }

    /// Waits for the answer until it is due, and not beyond `until`.
    pub(super) async fn land(mut self, charges: &[Charge<'_>], until: Instant) -> Landed {
        self.is_sent = true;
        let asked = self.asked.as_mut().expect("a call is waited for once");
        let answer = timeout_at(until.min(self.due), asked).await;
        let request = self.request.clone();
        let inner = &*request.limiter.0;
        match answer {
            Ok(Ok(reply)) => {
                self.asked = None;
                let now = request.since.now().monotonic_nanos();
                let mut ledger = request.entry.lock();
                let step = ledger.answered(charges, &self.call, &reply, now);
                *lock(&inner.clock) = ledger.clock();
                drop(ledger);
                request.entry.ended.notify_waiters();
                request.tend();
                if let Some(pass) = self.pass.take() {
                    pass.succeeded(self.request.since.now());
                }
                Landed::Answered(step)
            }
            Ok(Err(error)) => {
                self.asked = None;
                let cause = Cause::Failed(Arc::new(error));
                fail(&request, self.pass.take(), &cause);
                request.end(&self.call);
                Landed::Failed(cause)
            }
            Err(_) => {
                if self.due <= until {
                    fail(&request, self.pass.take(), &Cause::Late);
                }
                request.end(&self.call);
                Landed::Late(self.leave().expect("it has not been answered"))
            }
        }
    }

    /// Returns the unanswered call, so that another task can wait for it.
    fn leave(&mut self) -> Option<Late> {
        Some(Late {
            request: self.request.clone(),
            call: Arc::clone(&self.call),
            asked: self.asked.take()?,
            pass: self.pass.take(),
            due: self.due,
        })
    }
}

/// The client went away: Redis may count the cost, but nobody spends it.
impl Drop for Flight {
    fn drop(&mut self) {
        let is_sent = self.is_sent;
        if let Some(late) = self.leave() {
            self.request.end(&self.call);
            if is_sent {
                late.follow(false);
            }
        }
    }
}

impl Late {
    /// The time after its deadline for which an answer is awaited, so that its units are not lost.
    const PATIENCE: Duration = Duration::from_secs(5);

    pub(super) fn has_failed(&self) -> bool {
        self.pass.is_none()
    }

    /// Takes the answer in when it comes. `is_spent` says whether the request was admitted without
    /// it; what it cost is given back otherwise.
    pub(super) fn follow(mut self, is_spent: bool) {
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        runtime.spawn(async move {
            let mut answer = None;
            if let Some(pass) = self.pass.take() {
                match timeout_at(self.due, &mut self.asked).await {
                    Ok(Ok(reply)) => {
                        pass.succeeded(self.request.since.now());
                        answer = Some(reply);
                    }
                    Ok(Err(error)) => {
                        let cause = Cause::Failed(Arc::new(error));
                        return fail(&self.request, Some(pass), &cause);
                    }
                    Err(_) => fail(&self.request, Some(pass), &Cause::Late),
                }
            }
            if answer.is_none() {
                let late = timeout(Self::PATIENCE, &mut self.asked).await;
                answer = late.ok().and_then(Result::ok);
            }
            let Some(reply) = answer else { return };
            let Request { entry, since, .. } = &self.request;
            let now = since.now().monotonic_nanos();
            entry
                .lock()
                .answered_late(&self.call, &reply, is_spent, now);
            entry.ended.notify_waiters();
            self.request.tend();
        });
    }
}

/// Counts a call as failed.
fn fail(request: &Request, pass: Option<Pass>, cause: &Cause) {
    let (inner, now) = (&*request.limiter.0, request.since.now());
    if let Some(pass) = pass {
        if pass.is_probe() {
            inner.link.renew();
        }
        pass.failed(cause, now);
    }
    if inner.link.is_cluster() && matches!(cause, Cause::Late) {
        let until = now.monotonic() + Gate::PROBE_AFTER;
        let until = u64::try_from(until.as_nanos()).unwrap_or(u64::MAX);
        request.entry.bar_until(until);
    }
}
