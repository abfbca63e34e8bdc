use std::sync::Arc;
use std::task::{Context, Poll};

use http::header::{ACCESS_CONTROL_REQUEST_METHOD, ORIGIN};
use http::{HeaderValue, Method, Request, Response};
use tower_service::Service;
use tracing::Span;

use super::DenialBody;
use super::client::{is_secure, origin};
use super::credential::{Caches, Found, Source};
use super::future::{PendingJudgement, ResponseFuture, Waiting};
use super::layer::Policy;
use super::owed::{Owed, Place};
use super::response::refuse;
use super::route::route;
use crate::denial::{Denial, DenialReason};
use crate::principal::KeyPrincipal;
use crate::telemetry;
use crate::verify::{Judgement, Origin, Step};

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
        match self.policy.decide(&mut request) {
            Course::Admit(principal, place) => {
                let (owed, span) = admit(principal, place, &mut request);
                let entered = span.enter();
                let future = self.inner.call(request);
                drop(entered);
                ResponseFuture::inner(future, Some(owed), span)
            }
            Course::PassAnonymous(headers) => {
                let owed = headers.map(Owed::Anonymous);
                ResponseFuture::inner(self.inner.call(request), owed, Span::none())
            }
            Course::Refuse(denial, nested) => {
                ResponseFuture::refused(refuse(&self.policy, &denial, request, nested))
            }
            Course::Wait(judgement, place) => {
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
}

/// What is done with a request.
enum Course {
    Admit(KeyPrincipal, Place),
    /// With a key in one of these headers it would be another request.
    PassAnonymous(Option<HeaderValue>),
    /// Whether by a nested layer.
    Refuse(Denial, bool),
    /// The store or the limiter has to be asked first.
    Wait(PendingJudgement, Place),
}

impl Policy {
    /// Decides on a request, and leaves no credential in it.
    #[inline]
    fn decide<B>(self: &Arc<Self>, request: &mut Request<B>) -> Course {
        let keys = &self.verifier;
        if self.require_tls && !is_secure(request, self.proxies.as_ref()) {
            let outer = self.outer_principal(request);
            // Where a test gave the principal, no key was sent.
            if outer.is_none_or(|principal| principal.answered) {
                return self.refuse_clear_text(request);
            }
        }
        if self.allow_preflight && is_preflight(request) {
            self.withhold_credentials(request);
            // No cache keeps what is answered to it (RFC 9110 §9.3.7).
            return self.pass_anonymous(request, None);
        }
        if let Some(principal) = self.outer_principal(request) {
            let principal = principal.clone();
            return self.decide_on_top(&principal, request);
        }
        let (source, text) = match self.sources.find(request) {
            Found::One(source, text) => (source, text),
            Found::Nothing if self.optional => {
                return self.pass_anonymous(request, self.key_headers.clone());
            }
            Found::Nothing => return Course::refuse(Denial::missing_key()),
            Found::Several => {
                self.withhold_credentials(request);
                return Course::refuse(Denial::ambiguous());
            }
        };
        let step = match text {
            [] => Step::Refused(keys.refuse_text(DenialReason::Empty, self.origin(request))),
            text => keys.begin(text, &|| self.origin(request)),
        };
        if self.keep_credential {
            self.sources.mark_sensitive(source, request);
        } else {
            self.sources.remove(source, request);
        }
        let place = self.outermost(Some(source));
        match step {
            Step::Found(key, now) => {
                let judgement = keys.judge(key, &|| self.origin(request), &self.needs, now);
                Course::after(judgement, place)
            }
            Step::Refused(denial) => Course::refuse(denial),
            Step::Lookup(lookup) => {
                let (policy, origin) = (Arc::clone(self), self.origin(request));
                let judgement = async move {
                    let Self {
                        verifier, needs, ..
                    } = &*policy;
                    verifier.look_up(lookup, origin, needs).await
                };
                Course::Wait(Box::pin(judgement), place)
            }
        }
    }

    /// Refuses a request that came in clear text, whatever it holds, and treats each key in it as
    /// exposed (draft-ietf-httpapi-privacy-06, "Disclosure Response" and "Credential Revocation").
    #[cold]
    fn refuse_clear_text<B>(&self, request: &mut Request<B>) -> Course {
        let outer = self.outer_principal(request);
        let is_nested = outer.is_some();
        if let Some(exposure) = &self.exposure {
            if let Some(principal) = outer {
                exposure.disable_key(principal, &self.needs);
            } else {
                let secrets = self.sources.find_all(request);
                exposure.disable_secrets(secrets, self.origin(request), &self.needs);
            }
        }
        self.withhold_credentials(request);
        Course::Refuse(Denial::insecure_transport(), is_nested)
    }

    /// Decides on a request that was verified already, by another layer or by a test.
    fn decide_on_top<B>(&self, principal: &KeyPrincipal, request: &mut Request<B>) -> Course {
        let place = if principal.answered {
            self.verifier
                .note_inner(principal, &self.needs, &route(request));
            Place::Nested
        } else {
            self.outermost(None)
        };
        let judgement = self.verifier.extend(principal, &self.needs);
        self.withhold_credentials(request);
        Course::after(judgement, place)
    }

    fn pass_anonymous<B>(
        &self,
        request: &mut Request<B>,
        key_headers: Option<HeaderValue>,
    ) -> Course {
        let realm = self.verifier.realm();
        let extensions = request.extensions_mut();
        // The principal of other keys, from an outer layer, is not what this one speaks of.
        if extensions
            .get::<KeyPrincipal>()
            .is_none_or(|principal| principal.realm() != realm)
        {
            extensions.remove::<KeyPrincipal>();
            extensions.insert(Anonymous);
        }
        Course::PassAnonymous(key_headers)
    }

    /// Returns the origin of the request, as far as it is known.
    pub(super) fn origin<B>(&self, request: &Request<B>) -> Origin {
        origin(request, self.proxies.as_ref())
    }

    /// The principal that a layer of the same keys around this one has verified, or a test has
    /// given.
    #[inline]
    pub(super) fn outer_principal<'r, B>(
        &self,
        request: &'r Request<B>,
    ) -> Option<&'r KeyPrincipal> {
        let principal = request.extensions().get::<KeyPrincipal>()?;
        (principal.realm() == self.verifier.realm()).then_some(principal)
    }

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

impl Course {
    #[inline]
    fn after(judgement: Judgement, place: Place) -> Self {
        match judgement {
            Judgement::Made(Ok(principal)) => Self::Admit(principal, place),
            Judgement::Made(Err(denial)) => Self::Refuse(denial, place.is_nested()),
            Judgement::Pending(judgement) => Self::Wait(judgement, place),
        }
    }

    /// By an outermost layer.
    fn refuse(denial: Denial) -> Self {
        Self::Refuse(denial, false)
    }
}

/// Lets a verified request through: this is what the handler sees, and where it runs.
#[inline]
pub(super) fn admit<B>(
    mut principal: KeyPrincipal,
    place: Place,
    request: &mut Request<B>,
) -> (Owed, Span) {
    principal.answered = true;
    let span = match place {
        Place::Nested => Span::none(),
        Place::Outermost { .. } => telemetry::span(principal.key()),
    };
    request.extensions_mut().insert(principal.clone());
    (Owed::Verified { principal, place }, span)
}

fn is_preflight<B>(request: &Request<B>) -> bool {
    *request.method() == Method::OPTIONS
        && request.headers().contains_key(ORIGIN)
        && request
            .headers()
            .contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}
