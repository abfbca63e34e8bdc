//! What a layer owes to the answer of a request that it let through, and what nested layers tell it.

use std::sync::Arc;

use http::header::{CACHE_CONTROL, VARY};
use http::{Extensions, HeaderMap, HeaderValue, Response};

use super::credential::{CredentialSources, Source};
use super::fields::write_limits;
use super::layer::Policy;
use crate::limit::LimitReport;
use crate::principal::{KeyPrincipal, Realm};

/// What is owed to an answer.
pub(super) struct Owed {
    pub(super) principal: KeyPrincipal,
    pub(super) limits: LimitReport,
    pub(super) place: Place,
    pub(super) policy: Arc<Policy>,
}

/// Where a layer stands among those of the same keys.
#[derive(Clone, Copy)]
pub(super) enum Place {
    /// It has verified the key, which came in this source unless a test gave the principal, and
    /// writes the headers.
    Outermost(Option<Source>),
    /// Another one has, and is told what to write.
    Nested,
}

impl Owed {
    pub(super) fn pay<B>(self, response: &mut Response<B>) {
        let Self {
            principal,
            limits,
            place,
            policy,
        } = self;
        let refused = NestedReports::refused(response.extensions(), principal.realm);
        if refused {
            let outermost = matches!(place, Place::Outermost(_));
            policy.verifier.withdraw(&principal, outermost);
        }
        match place {
            // A refusal tells all limits, those of the layers around it included.
            Place::Nested if refused => {}
            Place::Nested => {
                let report = NestedReport::Charged(limits);
                NestedReports::add(response.extensions_mut(), principal.realm, report);
            }
            Place::Outermost(source) => {
                let nested = NestedReports::take(response.extensions_mut(), principal.realm);
                let headers = response.headers_mut();
                // The answer to a key that is not accepted is that to any bad key: nothing may be
                // added to it.
                if nested.not_accepted() {
                    return;
                }
                let own = (!refused).then_some(&limits);
                write_limits(headers, policy.legacy_headers, own, nested.limits());
                if let Some(source) = source {
                    mark_private(headers, &policy.sources, source);
                }
            }
        }
    }
}

/// Tells caches that the answer depends on the header that the key came in, and is for this
/// client only. For `Authorization` they know (RFC 9111 §3.5).
fn mark_private(headers: &mut HeaderMap, sources: &CredentialSources, source: Source) {
    if let Some(name) = sources.varies_by(source) {
        headers.append(VARY, name.clone());
    }
    if !matches!(source, Source::Authorization) && !headers.contains_key(CACHE_CONTROL) {
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("private"));
    }
}

/// What nested layers found, on its way out in the answer's extensions.
#[derive(Clone, Debug, Default)]
pub(super) struct NestedReports(Vec<(Realm, NestedReport)>);

/// What a nested layer found.
#[derive(Clone, Debug)]
pub(super) enum NestedReport {
    /// It let the request through, and charged these limits.
    Charged(LimitReport),
    /// It did not accept the key.
    NotAccepted,
    /// It refused the request, and this is how it stands with all limits once every layer has
    /// taken back what it charged.
    Refused(LimitReport),
}

impl NestedReports {
    /// Tells the layers around what one of `realm` found.
    pub(super) fn add(extensions: &mut Extensions, realm: Realm, report: NestedReport) {
        if !matches!(&report, NestedReport::Charged(limits) if limits.is_empty()) {
            let reports = extensions.get_or_insert_default::<Self>();
            reports.0.push((realm, report));
        }
    }

    /// Whether a nested layer refused the request.
    fn refused(extensions: &Extensions, realm: Realm) -> bool {
        let is_refusal = |(of, report): &(Realm, NestedReport)| {
            *of == realm && !matches!(report, NestedReport::Charged(_))
        };
        let reports = extensions.get::<Self>();
        reports.is_some_and(|reports| reports.0.iter().any(is_refusal))
    }

    /// Takes the reports of the layers of one service.
    fn take(extensions: &mut Extensions, realm: Realm) -> Self {
        let Some(all) = extensions.get_mut::<Self>() else {
            return Self::default();
        };
        let (ours, others) = std::mem::take(&mut all.0)
            .into_iter()
            .partition(|(of, _)| *of == realm);
        all.0 = others;
        Self(ours)
    }

    fn not_accepted(&self) -> bool {
        let not_accepted = |report: &_| matches!(report, NestedReport::NotAccepted);
        self.0.iter().any(|(_, report)| not_accepted(report))
    }

    /// The limits, the outermost layer's first: answers pass the innermost first.
    fn limits(&self) -> impl Iterator<Item = &LimitReport> + Clone {
        self.0.iter().rev().filter_map(|(_, report)| match report {
            NestedReport::Charged(limits) | NestedReport::Refused(limits) => Some(limits),
            NestedReport::NotAccepted => None,
        })
    }
}
