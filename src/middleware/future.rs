use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::{Request, Response};
use pin_project_lite::pin_project;
use tower_service::Service;

use super::DenialBody;
use super::fields::{NestedReports, write_limits};
use super::layer::Policy;
use super::response::{mark_private, refuse};
use super::service::{Arrival, admit};
use crate::denial::Denial;
use crate::limit::LimitReport;
use crate::principal::KeyPrincipal;
use crate::verify::Verified;

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
        /// The store is being asked.
        Lookup { lookup: LookupFuture, waiting: Option<Waiting<S, B>> },
        /// The request was let through.
        Inner { #[pin] future: F, after: After },
        /// The request was refused.
        Refused { response: Option<R> },
    }
}

type LookupFuture = Pin<Box<dyn Future<Output = Result<Verified, Denial>> + Send>>;

/// What waits for the store.
struct Waiting<S, B> {
    service: S,
    request: Request<B>,
    arrival: Arrival,
    policy: Arc<Policy>,
}

impl<S, B> ResponseFuture<S, B>
where
    S: Service<Request<B>>,
{
    pub(super) fn inner(future: S::Future, after: After) -> Self {
        Self {
            state: State::Inner { future, after },
        }
    }

    pub(super) fn refused(response: S::Response) -> Self {
        Self {
            state: State::Refused {
                response: Some(response),
            },
        }
    }

    pub(super) fn lookup(
        lookup: LookupFuture,
        service: S,
        request: Request<B>,
        arrival: Arrival,
        policy: Arc<Policy>,
    ) -> Self {
        let waiting = Some(Waiting {
            service,
            request,
            arrival,
            policy,
        });
        Self {
            state: State::Lookup { lookup, waiting },
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
                StateProjection::Lookup { lookup, waiting } => {
                    let verdict = ready!(lookup.as_mut().poll(cx));
                    let Waiting {
                        mut service,
                        mut request,
                        arrival,
                        policy,
                    } = waiting.take().expect("a lookup ends once");
                    match verdict {
                        Ok(verified) => {
                            let after = admit(verified, arrival, &policy, &mut request);
                            State::Inner {
                                future: service.call(request),
                                after,
                            }
                        }
                        Err(denial) => {
                            let response = Some(refuse(&policy, &denial, request, false));
                            State::Refused { response }
                        }
                    }
                }
                StateProjection::Inner { future, after } => {
                    let mut response = ready!(future.poll(cx))?;
                    after.apply(&mut response);
                    return Poll::Ready(Ok(response));
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

/// What is owed to the answer of a request that was let through.
#[derive(Default)]
pub(super) enum After {
    /// Nothing: it has no key, or its key has no limits and came in `Authorization`.
    #[default]
    Nothing,
    /// The outermost layer of these keys writes the headers.
    Root {
        principal: KeyPrincipal,
        limits: LimitReport,
        arrival: Arrival,
        policy: Arc<Policy>,
    },
    /// A nested one tells it what to write.
    Nested {
        principal: KeyPrincipal,
        limits: LimitReport,
    },
}

impl After {
    pub(super) fn root(
        principal: &KeyPrincipal,
        limits: LimitReport,
        arrival: Arrival,
        policy: &Arc<Policy>,
    ) -> Self {
        Self::Root {
            principal: principal.clone(),
            limits,
            arrival,
            policy: Arc::clone(policy),
        }
    }

    pub(super) fn nested(principal: &KeyPrincipal, limits: LimitReport) -> Self {
        if limits.is_empty() {
            return Self::Nothing;
        }
        Self::Nested {
            principal: principal.clone(),
            limits,
        }
    }

    fn apply<B>(&mut self, response: &mut Response<B>) {
        match std::mem::take(self) {
            Self::Nothing => {}
            Self::Root {
                principal,
                limits,
                arrival,
                policy,
            } => {
                let nested = NestedReports::take(response.extensions_mut(), principal.realm);
                if nested.not_accepted() {
                    return;
                }
                let headers = response.headers_mut();
                write_limits(headers, &policy, Some(&principal), &limits, &nested);
                mark_private(headers, &arrival);
            }
            Self::Nested { principal, limits } => {
                NestedReports::add(response.extensions_mut(), principal.realm, limits);
            }
        }
    }
}
