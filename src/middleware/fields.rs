//! The `RateLimit-Policy` and `RateLimit` fields (draft-ietf-httpapi-ratelimit-headers-11 §3, §4)
//! and their older kin.

use std::time::Duration;

use bytes::Bytes;
use http::{Extensions, HeaderMap, HeaderName, HeaderValue};

use super::layer::Policy;
use crate::limit::{LimitReport, LimitSpace, LimitStatus, RateLimit};
use crate::principal::{KeyPrincipal, Realm};

static RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
static RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
static X_RATELIMIT_LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
static X_RATELIMIT_REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
static X_RATELIMIT_RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// What nested layers found, on its way to the outermost one in the answer's extensions: how it
/// stands with limits, or none of it where the key was not accepted after all.
#[derive(Clone, Debug, Default)]
pub(super) struct NestedReports(Vec<(Realm, Option<LimitReport>)>);

impl NestedReports {
    /// Tells the limits that a nested layer charged, or held the request against.
    pub(super) fn add(extensions: &mut Extensions, realm: Realm, report: LimitReport) {
        if !report.is_empty() {
            Self::push(extensions, realm, Some(report));
        }
    }

    /// Tells that a nested layer did not accept the key.
    pub(super) fn add_not_accepted(extensions: &mut Extensions, realm: Realm) {
        Self::push(extensions, realm, None);
    }

    /// Takes the reports of the layers of one service.
    pub(super) fn take(extensions: &mut Extensions, realm: Realm) -> Self {
        let Some(all) = extensions.get_mut::<Self>() else {
            return Self::default();
        };
        let (ours, others) = std::mem::take(&mut all.0)
            .into_iter()
            .partition(|(of, _)| *of == realm);
        all.0 = others;
        Self(ours)
    }

    /// Whether a nested layer did not accept the key. Its answer is that to any bad key, so
    /// nothing may be added to it.
    pub(super) fn not_accepted(&self) -> bool {
        self.0.iter().any(|(_, report)| report.is_none())
    }

    fn push(extensions: &mut Extensions, realm: Realm, report: Option<LimitReport>) {
        let reports = extensions.get_or_insert_default::<Self>();
        reports.0.push((realm, report));
    }

    /// The limits, the outermost layer's first. Answers pass the innermost first.
    fn limits(&self) -> impl Iterator<Item = &LimitReport> {
        self.0
            .iter()
            .rev()
            .filter_map(|(_, report)| report.as_ref())
    }
}

/// Writes how it stands with all limits, those of nested layers included.
pub(super) fn write_limits(
    headers: &mut HeaderMap,
    policy: &Policy,
    principal: Option<&KeyPrincipal>,
    report: &LimitReport,
    nested: &NestedReports,
) {
    if !nested.0.is_empty() {
        return write_merged(headers, policy, report, nested);
    }
    if report.is_empty() {
        return;
    }
    // Written once for each key and for each layer, so here they only cost a reference count.
    if !report.base().is_empty() {
        let field = match principal {
            Some(principal) if !principal.key.record.limits.is_empty() => {
                principal.key.policy_field.clone()
            }
            Some(_) => policy.default_policy_field.clone(),
            None => report.base().policy_field(),
        };
        append(headers, &RATELIMIT_POLICY, field);
    }
    if !report.route().is_empty() {
        append(
            headers,
            &RATELIMIT_POLICY,
            policy.route_policy_field.clone(),
        );
    }
    write_state(headers, policy, report.iter());
}

/// Writes each limit once, as the innermost layer that charged it left it.
fn write_merged(
    headers: &mut HeaderMap,
    policy: &Policy,
    report: &LimitReport,
    nested: &NestedReports,
) {
    let mut merged: Vec<(LimitSpace, &RateLimit, &LimitStatus)> = Vec::new();
    for (space, limit, status) in [report]
        .into_iter()
        .chain(nested.limits())
        .flat_map(LimitReport::iter_spaces)
    {
        match merged
            .iter_mut()
            .find(|(of, known, _)| (*of, *known) == (space, limit))
        {
            Some((.., known)) => *known = status,
            None => merged.push((space, limit, status)),
        }
    }
    let merged: Vec<_> = merged
        .into_iter()
        .map(|(_, limit, status)| (limit, status))
        .collect();
    let policies = merged.iter().map(|(limit, _)| limit.policy_item());
    append(
        headers,
        &RATELIMIT_POLICY,
        policies.collect::<Vec<_>>().join(", ").into(),
    );
    write_state(headers, policy, merged.into_iter());
}

fn write_state<'a>(
    headers: &mut HeaderMap,
    policy: &Policy,
    limits: impl Iterator<Item = (&'a RateLimit, &'a LimitStatus)> + Clone,
) {
    let mut state = Vec::with_capacity(64);
    let mut number = itoa::Buffer::new();
    for (limit, status) in limits.clone() {
        if !state.is_empty() {
            state.extend_from_slice(b", ");
        }
        state.push(b'"');
        state.extend_from_slice(limit.name().as_bytes());
        state.extend_from_slice(b"\";r=");
        state.extend_from_slice(number.format(status.remaining).as_bytes());
        state.extend_from_slice(b";t=");
        state.extend_from_slice(number.format(whole_seconds(status.resets_in)).as_bytes());
    }
    append(headers, &RATELIMIT, state.into());
    if policy.legacy_headers
        && let Some((limit, status)) = limits.min_by_key(|(_, status)| status.remaining)
    {
        for (name, value) in [
            (&X_RATELIMIT_LIMIT, limit.quota()),
            (&X_RATELIMIT_REMAINING, status.remaining),
            (&X_RATELIMIT_RESET, whole_seconds(status.resets_in)),
        ] {
            headers.insert(name, value.into());
        }
    }
}

/// Rounded up: after that many seconds it is true.
pub(super) fn whole_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

/// Appends, since the handler or a layer of other keys may speak of limits of its own.
fn append(headers: &mut HeaderMap, name: &'static HeaderName, text: Bytes) {
    // The names of limits are such that this cannot fail.
    if let Ok(value) = HeaderValue::from_maybe_shared(text) {
        headers.append(name, value);
    }
}
