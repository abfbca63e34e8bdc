use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, Request, Response, StatusCode};
use serde::Serialize;

use super::DenialBody;
use super::fields::{whole_seconds, write_limits};
use super::layer::Policy;
use super::owed::{NestedReport, NestedReports};
use crate::denial::{Denial, DenialKind};

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
    let mut response = answer(denial, &policy.realm);
    if !nested {
        let (limits, none) = (denial.limits().standing(), std::iter::empty());
        write_limits(
            response.headers_mut(),
            policy.legacy_headers,
            Some(limits),
            none,
        );
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
        };
        NestedReports::add(response.extensions_mut(), policy.verifier.realm(), report);
    }
    response.map(ResBody::from)
}

/// The answer to a denial, as the contract has it: RFC 6750 §3 for the challenge, RFC 9457 for
/// the body, RFC 6585 §4 for 429.
pub(crate) fn answer(denial: &Denial, realm: &str) -> Response<DenialBody> {
    let kind = denial.kind();
    let violated: Vec<_> = denial
        .limits()
        .violated()
        .map(crate::RateLimit::name)
        .collect();
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
        headers.insert(RETRY_AFTER, whole_seconds(time).max(1).into());
    }
    response
}

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
    let body = serde_json::to_vec(&ProblemBody {
        r#type,
        title: status.canonical_reason().unwrap_or_default(),
        status: status.as_u16(),
        code,
        detail,
        field: *field,
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
    let scopes: Vec<_> = denial
        .required_scopes()
        .iter()
        .map(crate::Scope::as_str)
        .collect();
    let scope = match scopes.as_slice() {
        [] => String::new(),
        scopes => format!(", scope=\"{}\"", scopes.join(" ")),
    };
    HeaderValue::try_from(format!(
        "Bearer realm=\"{realm}\", error=\"{error}\"{scope}"
    ))
    .ok()
}
