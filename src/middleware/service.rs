use std::sync::Arc;
use std::task::{Context, Poll};

use http::header::{ACCESS_CONTROL_REQUEST_METHOD, ORIGIN};
use http::{Method, Request, Response};
use tower_service::Service;
use tracing::Span;

use super::DenialBody;
use super::client::{client_address, is_secure};
use super::credential::{Caches, Found, Source};
use super::future::{ResponseFuture, Waiting};
use super::layer::Policy;
use super::owed::{Owed, Place};
use super::response::refuse;
use crate::denial::{Denial, DenialReason};
use crate::principal::KeyPrincipal;
use crate::telemetry;
use crate::verify::{Admission, Attempt, Judgement, Step};

/// The service that [`ApiKeyLayer`](super::ApiKeyLayer) makes. Cloning costs a reference count
/// beside the clone of the inner service.
#[derive(Clone, Debug)]
pub struct ApiKeyService<S> {
    inner: S,
    policy: Arc<Policy>,
}

impl<S> ApiKeyService<S> {
    pub(super) fn new(inner: S, policy: Arc<Policy>) -> Self {
        Self { inner, policy }
    }
}

/// In a request's extensions: a layer let it through without a key. Tells an extractor that the
/// layer is not just missing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Anonymous;

impl<S, B, ResBody> Service<Request<B>> for ApiKeyService<S>
where
    S: Service<Request<B>, Response = Response<ResBody>> + Clone,
    ResBody: From<DenialBody>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<S, B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let policy = &*self.policy;
        let keys = &policy.verifier;
        if policy.allow_preflight && is_preflight(&request) {
            policy.withhold_credentials(&mut request);
            return self.pass_anonymous(request);
        }
        if let Some(principal) = request.extensions().get::<KeyPrincipal>()
            && principal.realm == keys.realm()
        {
            let place = if principal.answered {
                Place::Nested
            } else {
                policy.outermost(None)
            };
            let judgement = keys.extend(principal, &policy.needs);
            policy.withhold_credentials(&mut request);
            return self.follow(judgement, request, place);
        }
        let (source, text) = match policy.sources.find(&request) {
            Found::One(source, text) => (source, text),
            Found::Nothing if policy.optional => return self.pass_anonymous(request),
            Found::Nothing => return self.refuse(&Denial::missing_key(), request),
            Found::Several => {
                policy.withhold_credentials(&mut request);
                return self.refuse(&Denial::ambiguous(), request);
            }
        };
        if policy.require_tls && !is_secure(&request, policy.proxies.as_ref()) {
            if let Some(exposure) = &policy.exposure {
                exposure.disable(text);
            }
            policy.withhold_credentials(&mut request);
            return self.refuse(&Denial::insecure_transport(), request);
        }
        let address = client_address(&request, policy.proxies.as_ref());
        let step = match text {
            [] => Step::Refused(keys.refuse_text(DenialReason::Empty, address)),
            text => keys.begin(Attempt::of_bytes(text).from_address(address)),
        };
        if policy.keep_credential {
            policy.sources.mark_sensitive(source, &mut request);
        } else {
            policy.sources.remove(source, &mut request);
        }
        let place = policy.outermost(Some(source));
        let judgement = match step {
            Step::Found(key, now) => keys.judge(key, address, &policy.needs, now),
            Step::Refused(denial) => Judgement::Made(Err(denial)),
            Step::Lookup(lookup) => {
                let policy = Arc::clone(&self.policy);
                Judgement::Pending(Box::pin(async move {
                    let Policy {
                        verifier, needs, ..
                    } = &*policy;
                    verifier.look_up(lookup, address, needs).await
                }))
            }
        };
        self.follow(judgement, request, place)
    }
}

impl<S> ApiKeyService<S> {
    /// Does with the request as it was judged, at once or when that is known.
    #[inline]
    fn follow<B, ResBody>(
        &mut self,
        judgement: Judgement,
        mut request: Request<B>,
        place: Place,
    ) -> ResponseFuture<S, B>
    where
        S: Service<Request<B>, Response = Response<ResBody>> + Clone,
        ResBody: From<DenialBody>,
    {
        match judgement {
            Judgement::Made(Ok(mut admission)) => {
                let span = admit(&mut admission, &place, &mut request);
                let future = span.in_scope(|| self.inner.call(request));
                ResponseFuture::inner(future, Some(Owed { admission, place }), span)
            }
            Judgement::Made(Err(denial)) => {
                let nested = matches!(place, Place::Nested);
                ResponseFuture::refused(refuse(&self.policy, &denial, request, nested))
            }
            Judgement::Pending(judgement) => {
                // The service that was made ready is the one to be called, when the time comes;
                // a clone of it, which is not ready, takes its place.
                let clone = self.inner.clone();
                let waiting = Waiting {
                    service: std::mem::replace(&mut self.inner, clone),
                    request,
                    place,
                    policy: Arc::clone(&self.policy),
                };
                ResponseFuture::pending(judgement, waiting)
            }
        }
    }

    fn pass_anonymous<B, ResBody>(&mut self, mut request: Request<B>) -> ResponseFuture<S, B>
    where
        S: Service<Request<B>, Response = Response<ResBody>>,
    {
        let realm = self.policy.verifier.realm();
        let extensions = request.extensions_mut();
        // The principal of other keys, from an outer layer, is not what this one speaks of.
        if extensions
            .get::<KeyPrincipal>()
            .is_none_or(|principal| principal.realm != realm)
        {
            extensions.remove::<KeyPrincipal>();
            extensions.insert(Anonymous);
        }
        ResponseFuture::inner(self.inner.call(request), None, Span::none())
    }

    fn refuse<B, ResBody>(&self, denial: &Denial, request: Request<B>) -> ResponseFuture<S, B>
    where
        S: Service<Request<B>, Response = Response<ResBody>>,
        ResBody: From<DenialBody>,
    {
        ResponseFuture::refused(refuse(&self.policy, denial, request, false))
    }
}

impl Policy {
    /// Takes every credential out of a request whose credential is not looked at.
    fn withhold_credentials<B>(&self, request: &mut Request<B>) {
        if !self.keep_credential {
            self.sources.remove_all(request);
        }
    }

    /// The place of the layer that looks for the key, and found it in `source` unless a test gave
    /// the principal.
    #[inline]
    fn outermost(&self, source: Option<Source>) -> Place {
        Place::Outermost {
            legacy_headers: self.legacy_headers,
            caches: source.map_or(Caches::Know, |source| self.sources.caches(source)),
        }
    }
}

/// Lets a verified request through: this is what the handler sees, and where it runs.
#[inline]
pub(super) fn admit<B>(admission: &mut Admission, place: &Place, request: &mut Request<B>) -> Span {
    admission.principal.answered = true;
    let principal = admission.principal.clone();
    let span = match place {
        Place::Nested => Span::none(),
        Place::Outermost { .. } => telemetry::span(&principal.key),
    };
    request.extensions_mut().insert(principal);
    span
}

fn is_preflight<B>(request: &Request<B>) -> bool {
    *request.method() == Method::OPTIONS
        && request.headers().contains_key(ORIGIN)
        && request
            .headers()
            .contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}
