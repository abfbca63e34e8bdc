//! What a layer owes to the answer of a request that it let through, and what nested layers tell
//! it.

use std::time::Duration;

use http::header::{CACHE_CONTROL, VARY};
use http::{Extensions, HeaderMap, HeaderValue, Response};

use super::credential::Caches;
use super::fields::{write_limits, write_limits_of_refusal};
use crate::limit::{LimitReport, Standing};
use crate::principal::{KeyPrincipal, Realm};
use crate::verify::Verifier;

/// What is owed to an answer.
pub(super) enum Owed {
    /// To that of a request whose key was verified.
    Verified {
        principal: KeyPrincipal,
        place: Place,
    },
    /// To that of a request that had none of these headers, in any of which a key may come.
    Anonymous(HeaderValue),
}

/// Where a layer stands among those of the same keys.
pub(super) enum Place {
    /// It has verified the key, unless a test gave the principal, and writes the headers.
    Outermost {
        legacy_headers: bool,
        caches: Caches,
    },
    /// Another one has, and is told what to write.
    Nested,
}

impl Place {
    pub(super) fn is_nested(&self) -> bool {
        matches!(self, Self::Nested)
    }
}

impl Owed {
    #[inline]
    pub(super) fn pay<B>(&self, response: &mut Response<B>) {
        let (principal, place) = match self {
            Self::Verified { principal, place } => (principal, place),
            Self::Anonymous(headers) => return tell_of_keys(headers, response.headers_mut()),
        };
        let (admission, realm) = (&*principal.admission, principal.realm());
        let refused_by = NestedReports::refused_by(response.extensions(), realm);
        let refused = refused_by.is_some();
        if let Some(verifier) = refused_by {
            verifier.withdraw(principal, !place.is_nested());
        }
        match place {
            // A refusal tells all limits, those of the layers around it included.
            Place::Nested if refused => {}
            Place::Nested => {
                let report = NestedReport::Charged(admission.standing().to_report());
                NestedReports::add(response.extensions_mut(), realm, report);
            }
            Place::Outermost {
                legacy_headers,
                caches,
            } => {
                let nested = NestedReports::take(response.extensions_mut(), realm);
                let headers = response.headers_mut();
                // The answer to a key that is not accepted is that to any bad key: nothing may be
                // added to it.
                if nested.not_accepted() {
                    return;
                }
                match nested.refusal() {
                    Some((limits, retry_after)) => {
                        write_limits_of_refusal(headers, *legacy_headers, limits, retry_after);
                    }
                    None => {
                        write_limits(
                            headers,
                            *legacy_headers,
                            admission.standing(),
                            nested.charged(),
                        );
                    }
                }
                tell(caches, headers);
            }
        }
    }
}

/// Tells caches that the answer depends on the header that the key came in, and is for this
/// client only.
fn tell(caches: &Caches, headers: &mut HeaderMap) {
    match caches {
        Caches::Know => return,
        Caches::Private => {}
        Caches::Vary(name) => drop(headers.append(VARY, name.clone())),
    }
    if !headers.contains_key(CACHE_CONTROL) {
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("private"));
    }
}

/// Tells caches that a request with one of these headers may be answered in another way (RFC 9110
/// §12.5.5). `Authorization` is among them: what RFC 9111 §3.5 forbids is to reuse the answer to a
/// request that had it, not to give one that had it what was answered to another without.
fn tell_of_keys(names: &HeaderValue, headers: &mut HeaderMap) {
    // A nested layer may have.
    if !headers.get_all(VARY).iter().any(|told| told == names) {
        headers.append(VARY, names.clone());
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
    /// It refused the request, and this is how it stands with all limits once every layer has
    /// taken back what it charged, and when the request may come again. No limits, where it did not
    /// accept the key.
    Refused {
        by: Verifier,
        limits: Option<LimitReport>,
        retry_after: Option<Duration>,
    },
}

impl NestedReports {
    /// Tells the layers around what one of `realm` found.
    pub(super) fn add(extensions: &mut Extensions, realm: Realm, report: NestedReport) {
        if !matches!(&report, NestedReport::Charged(limits) if limits.is_empty()) {
            let reports = extensions.get_or_insert_default::<Self>();
            reports.0.push((realm, report));
        }
    }

    /// By whom the request was refused, if a nested layer refused it.
    fn refused_by(extensions: &Extensions, realm: Realm) -> Option<&Verifier> {
        let mut reports = extensions.get::<Self>()?.0.iter();
        reports.find_map(|(of, report)| match report {
            NestedReport::Refused { by, .. } if *of == realm => Some(by),
            _ => None,
        })
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
        let not_accepted =
            |report: &_| matches!(report, NestedReport::Refused { limits: None, .. });
        self.0.iter().any(|(_, report)| not_accepted(report))
    }

    /// The limits that were charged, the outermost layer's first: answers pass the innermost first.
    fn charged(&self) -> impl Iterator<Item = Standing<'_>> {
        self.0.iter().rev().filter_map(|(_, report)| match report {
            NestedReport::Charged(limits) => Some(limits.standing()),
            NestedReport::Refused { .. } => None,
        })
    }

    /// The limits of a layer that refused the request, and when it may come again.
    fn refusal(&self) -> Option<(Standing<'_>, Option<Duration>)> {
        self.0.iter().find_map(|(_, report)| match report {
            NestedReport::Charged(_) => None,
            NestedReport::Refused {
                limits,
                retry_after,
                ..
            } => Some((limits.as_ref()?.standing(), *retry_after)),
        })
    }
}
