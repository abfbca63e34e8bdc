use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_util::future::BoxFuture;
use http::{Request, Response};
use pin_project_lite::pin_project;
use tower_service::Service;
use tracing::Span;

use super::DenialBody;
use super::layer::Policy;
use super::owed::{Owed, Place};
use super::response::refuse;
use super::service::admit;
use crate::denial::Denial;
use crate::principal::KeyPrincipal;

pin_project! {
    /// The future of [`ApiKeyService`](super::ApiKeyService).
    pub struct ResponseFuture<S, B>
    where
        S: Service<Request<B>>,
    {
        #[pin]
        state: State<S, B, S::Response, S::Future>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<S, B, R, F> {
        /// The store or the limiter is being asked.
        Pending { judgement: PendingJudgement, waiting: Option<Box<Waiting<S, B>>> },
        /// The request was let through.
        Inner { #[pin] future: F, owed: Option<Owed>, span: Span },
        /// The request was refused.
        Refused { response: Option<R> },
    }
}

pub(super) type PendingJudgement = BoxFuture<'static, Result<KeyPrincipal, Denial>>;

/// What waits for it.
pub(super) struct Waiting<S, B> {
    pub(super) service: S,
    pub(super) request: Request<B>,
    pub(super) place: Place,
    pub(super) policy: Arc<Policy>,
}

impl<S, B> ResponseFuture<S, B>
where
    S: Service<Request<B>>,
{
    #[inline]
    pub(super) fn inner(future: S::Future, owed: Option<Owed>, span: Span) -> Self {
        Self {
            state: State::Inner { future, owed, span },
        }
    }

    pub(super) fn refused(response: S::Response) -> Self {
        Self {
            state: State::Refused {
                response: Some(response),
            },
        }
    }

    pub(super) fn pending(judgement: PendingJudgement, waiting: Waiting<S, B>) -> Self {
        Self {
            state: State::Pending {
                judgement,
                // Apart, so that the futures of all other requests are small.
                waiting: Some(Box::new(waiting)),
            },
        }
    }
}

impl<S, B, ResBody> Future for ResponseFuture<S, B>
where
    S: Service<Request<B>, Response = Response<ResBody>>,
    ResBody: From<DenialBody>,
{
    type Output = Result<S::Response, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            let next = match state.as_mut().project() {
                StateProjection::Pending { judgement, waiting } => {
                    let judgement = ready!(judgement.as_mut().poll(cx));
                    let Waiting {
                        mut service,
                        mut request,
                        place,
                        policy,
                    } = *waiting.take().expect("a judgement is made once");
                    match judgement {
                        Ok(principal) => {
                            let (owed, span) = admit(principal, place, &mut request);
                            State::Inner {
                                future: span.in_scope(|| service.call(request)),
                                owed: Some(owed),
                                span,
                            }
                        }
                        Err(denial) => {
                            let nested = place.is_nested();
                            let response = Some(refuse(&policy, &denial, request, nested));
                            State::Refused { response }
                        }
                    }
                }
                StateProjection::Inner { future, owed, span } => {
                    let entered = span.enter();
                    let mut outcome = ready!(future.poll(cx));
                    drop(entered);
                    if let (Ok(response), Some(owed)) = (&mut outcome, owed) {
                        owed.pay(response);
                    }
                    return Poll::Ready(outcome);
                }
                StateProjection::Refused { response } => {
                    return Poll::Ready(Ok(response.take().expect("polled after completion")));
                }
            };
            state.set(next);
        }
    }
}

impl<S, B> fmt::Debug for ResponseFuture<S, B>
where
    S: Service<Request<B>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
