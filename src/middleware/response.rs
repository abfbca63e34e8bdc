use std::borrow::Cow;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, Request, Response, StatusCode};
use serde::Serialize;

use super::DenialBody;
use super::fields::{named_limits, retry_seconds, write_limits_of_refusal};
use super::layer::Policy;
use super::owed::{NestedReport, NestedReports};
use super::route::routes;
use crate::denial::{Denial, DenialKind};
use crate::scope::Scope;

/// The challenge's realm, unless the layer says otherwise.
pub(crate) const DEFAULT_REALM: &str = "api";

/// Tells of a denial and makes the answer to it. What a `nested` layer charged is told by the
/// outermost one.
pub(super) fn refuse<B, ResBody: From<DenialBody>>(
    policy: &Policy,
    denial: &Denial,
    request: Request<B>,
    nested: bool,
) -> Response<ResBody> {
    policy.verifier.tell_of(denial);
    let outer = policy.outer_principal(&request);
    let (needs, routes) = (&policy.needs, routes(&request));
    let for_all = policy.verifier.deny_for_inner(denial, outer, needs, routes);
    let denial = for_all.as_ref().unwrap_or(denial);
    let mut response = answer(denial, &policy.realm);
    if !nested {
        let headers = response.headers_mut();
        let (limits, wait) = (denial.limits().standing(), denial.retry_after());
        write_limits_of_refusal(headers, policy.legacy_headers, limits, wait);
    }
    if let Some(hook) = &policy.hook {
        response = hook(denial, &request.into_parts().0, response);
    }
    // After the hook, which may make an answer of its own.
    if nested {
        let accepted = !matches!(
            denial.kind(),
            DenialKind::InsecureTransport | DenialKind::InvalidKey
        );
        let report = NestedReport::Refused {
            by: policy.verifier.clone(),
            limits: accepted.then(|| denial.limits().clone()),
            retry_after: denial.retry_after(),
        };
        NestedReports::add(response.extensions_mut(), policy.verifier.realm(), report);
    }
    response.map(ResBody::from)
}

/// The answer to a denial, as the contract has it: RFC 6750 §3 for the challenge, RFC 9457 for
/// the body, RFC 6585 §4 for 429.
pub(crate) fn answer(denial: &Denial, realm: &str) -> Response<DenialBody> {
    let kind = denial.kind();
    let limits = named_limits(std::iter::once(denial.limits().standing()));
    let violated = limits.iter().filter(|limit| limit.is_violated);
    let violated: Vec<_> = violated.map(|limit| &*limit.name).collect();
    let mut response = problem(&Problem {
        r#type: match kind {
            DenialKind::RateLimited => {
                "https://iana.org/assignments/http-problem-types#quota-exceeded"
            }
            _ => "about:blank",
        },
        status: status(kind),
        code: kind.code(),
        detail: &denial.to_string(),
        field: None,
        violated_policies: (kind == DenialKind::RateLimited).then_some(violated),
    });
    let headers = response.headers_mut();
    if let Some(challenge) = challenge(denial, realm) {
        headers.insert(WWW_AUTHENTICATE, challenge);
    }
    if let Some(time) = denial.retry_after() {
        headers.insert(RETRY_AFTER, retry_seconds(time).into());
    }
    response
}

/// The most bytes of a text in a problem, and of the name of a field. They may repeat what the
/// client sent, and a name may be as long as a body.
const MAX_DETAIL: usize = 1_024;
const MAX_FIELD: usize = 256;

/// A problem (RFC 9457) that no cache keeps.
pub(crate) fn problem(problem: &Problem<'_>) -> Response<DenialBody> {
    let Problem {
        r#type,
        status,
        code,
        detail,
        field,
        violated_policies,
    } = problem;
    let field = field.map(|field| cut(field, MAX_FIELD));
    let body = serde_json::to_vec(&ProblemBody {
        r#type,
        title: status.canonical_reason().unwrap_or_default(),
        status: status.as_u16(),
        code,
        detail: &cut(detail, MAX_DETAIL),
        field: field.as_deref(),
        violated_policies: violated_policies.as_deref(),
    });
    // Strings and a number always have a JSON form.
    let mut response = Response::new(DenialBody::from(Bytes::from(body.unwrap_or_default())));
    *response.status_mut() = *status;
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/problem+json"),
    );
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The beginning of `text`, where it is longer than `most` bytes.
fn cut(text: &str, most: usize) -> Cow<'_, str> {
    if text.len() <= most {
        return text.into();
    }
    format!("{}…", &text[..text.floor_char_boundary(most)]).into()
}

/// What is told of an error.
pub(crate) struct Problem<'a> {
    pub(crate) r#type: &'a str,
    pub(crate) status: StatusCode,
    pub(crate) code: &'a str,
    pub(crate) detail: &'a str,
    /// The field of the request that is wrong.
    pub(crate) field: Option<&'a str>,
    pub(crate) violated_policies: Option<Vec<&'a str>>,
}

#[derive(Serialize)]
struct ProblemBody<'a> {
    r#type: &'a str,
    title: &'a str,
    status: u16,
    code: &'a str,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'a str>,
    #[serde(rename = "violated-policies", skip_serializing_if = "Option::is_none")]
    violated_policies: Option<&'a [&'a str]>,
}

fn status(kind: DenialKind) -> StatusCode {
    match kind {
        DenialKind::InvalidRequest => StatusCode::BAD_REQUEST,
        DenialKind::InvalidKey | DenialKind::MissingKey => StatusCode::UNAUTHORIZED,
        DenialKind::AddressNotAllowed
        | DenialKind::InsecureTransport
        | DenialKind::InsufficientScope => StatusCode::FORBIDDEN,
        DenialKind::CreditsExhausted | DenialKind::RateLimited | DenialKind::TooManyFailures => {
            StatusCode::TOO_MANY_REQUESTS
        }
        DenialKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// RFC 6750 §3.
fn challenge(denial: &Denial, realm: &str) -> Option<HeaderValue> {
    let error = match denial.kind() {
        DenialKind::MissingKey => {
            return HeaderValue::try_from(format!("Bearer realm=\"{realm}\"")).ok();
        }
        DenialKind::InvalidRequest => "invalid_request",
        DenialKind::InvalidKey => "invalid_token",
        DenialKind::InsufficientScope => "insufficient_scope",
        _ => return None,
    };
    let scope = match listed(denial.required_scopes()) {
        scopes if scopes.is_empty() => scopes,
        scopes => format!(", scope=\"{scopes}\""),
    };
    HeaderValue::try_from(format!(
        "Bearer realm=\"{realm}\", error=\"{error}\"{scope}"
    ))
    .ok()
}

/// The first of the required scopes, as many as an intermediary takes: common ones refuse an answer
/// whose header is longer than 4 or 8 KiB, and send a 502 in its place.
fn listed(scopes: &[Scope]) -> String {
    const MOST: usize = 1_024;
    let mut list = String::new();
    for scope in scopes {
        let scope = scope.as_str();
        if list.len() + scope.len() >= MOST {
            break;
        }
        if !list.is_empty() {
            list.push(' ');
        }
        list.push_str(scope);
    }
    list
}
