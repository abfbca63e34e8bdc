//! The page that administers keys in a browser. Its parts are plain files beside this one; they are
//! put together here, once, and served as one answer.

use std::fmt::Write;
use std::sync::LazyLock;

use axum::Router;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HeaderMap, HeaderName, HeaderValue,
    IF_NONE_MATCH, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use sha2::{Digest, Sha256};

/// A page for people who hand out keys: it lists, issues, edits, rotates, disables and revokes
/// them, and shows how each is used. Merge it with the [`router`](super::router) whose requests it
/// makes:
///
/// ```
/// use axum::Router;
/// use tower_api_key::{ApiKeys, MemoryStore, admin};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let keys = ApiKeys::builder(MemoryStore::new()).build();
/// let app: Router = Router::new().nest("/admin", admin::router(&keys).merge(admin::page()));
/// # }
/// ```
///
/// The page is then at `/admin` and asks `/admin/keys…`. It needs no key itself and holds no data:
/// whoever opens it signs in with an admin key, which stays in the page's memory and is sent as
/// `X-API-Key`. A layer with other credential sources has to accept that header.
///
/// It is one answer of less than 100 KB, it asks no other origin for anything, and its
/// `Content-Security-Policy` allows nothing but what is in it, by hash: no other script or style,
/// no frame around it, no form that leaves it, no requests but to its own origin. A layer of the
/// application that sets a policy of its own must leave this one as it is.
pub fn page() -> Router {
    Router::new().route("/", get(show))
}

async fn show(request: HeaderMap) -> Response {
    let page = &*PAGE;
    let known = request.get_all(IF_NONE_MATCH).iter();
    let mut known = known
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','));
    // RFC 9110 §13.1.2: a weak comparison, for a proxy that compresses makes the tag a weak one.
    let unchanged = known.any(|tag| {
        let tag = tag.trim();
        tag == "*" || tag.strip_prefix("W/").unwrap_or(tag).as_bytes() == page.tag.as_bytes()
    });
    let mut response = if unchanged {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        page.text.as_str().into_response()
    };
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert(CONTENT_SECURITY_POLICY, page.policy.clone());
    headers.insert(ETAG, page.tag.clone());
    response
}

/// The policies on opener and resource keep the page out of the reach of other sites' windows and
/// processes.
const HEADERS: [(HeaderName, &str); 7] = [
    (CONTENT_TYPE, "text/html; charset=utf-8"),
    (CACHE_CONTROL, "no-cache"),
    (REFERRER_POLICY, "no-referrer"),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (X_FRAME_OPTIONS, "DENY"),
    (
        HeaderName::from_static("cross-origin-opener-policy"),
        "same-origin",
    ),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
];

const DOCUMENT: &str = include_str!("index.html");
const STYLE: &str = include_str!("page.css");
/// One script: what stands at the top of a later file may use the earlier ones.
const SCRIPT: &str = concat!(
    "'use strict';\n",
    include_str!("dom.js"),
    include_str!("api.js"),
    include_str!("form.js"),
    include_str!("dialogs.js"),
    include_str!("list.js"),
    include_str!("chart.js"),
    include_str!("key.js"),
    include_str!("page.js"),
);

static PAGE: LazyLock<Page> = LazyLock::new(Page::assemble);

struct Page {
    text: String,
    policy: HeaderValue,
    tag: HeaderValue,
}

impl Page {
    /// Puts style and script into the document, in the places of its links to them.
    fn assemble() -> Self {
        let text = DOCUMENT
            .replace(
                r#"<link rel="stylesheet" href="page.css">"#,
                &format!("<style>{STYLE}</style>"),
            )
            .replace(
                r#"<script src="page.js"></script>"#,
                &format!("<script>{SCRIPT}</script>"),
            );
        let mut tag = String::from("\"");
        for byte in &Sha256::digest(&text)[..16] {
            let _ = write!(tag, "{byte:02x}");
        }
        tag.push('"');
        Self {
            text,
            policy: header(&policy()),
            tag: header(&tag),
        }
    }
}

/// Content Security Policy Level 3. `data:` is for the icon, and trusted types make the browser
/// refuse to read markup from a string.
fn policy() -> String {
    let hash = |text: &str| STANDARD.encode(Sha256::digest(text));
    format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src 'self'; \
         img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
         require-trusted-types-for 'script'; trusted-types 'none'",
        hash(SCRIPT),
        hash(STYLE),
    )
}

fn header(text: &str) -> HeaderValue {
    HeaderValue::try_from(text).expect("visible ASCII")
}
