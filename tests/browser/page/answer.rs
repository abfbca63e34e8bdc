//! What the page is as an answer, before any browser has seen it.

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Method, Request, Response};
use tower::ServiceExt;
use tower_api_key::{ApiKeys, MemoryStore, admin};

fn app() -> Router {
    let keys = ApiKeys::builder(MemoryStore::new()).build();
    Router::new().nest("/admin", admin::router(&keys).merge(admin::page()))
}

async fn get(path: &str, headers: &[(&str, &str)]) -> Response<Body> {
    let mut request = Request::get(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    app()
        .oneshot(request.body(Body::empty()).unwrap())
        .await
        .unwrap()
}

async fn text(answer: Response<Body>) -> String {
    let body = to_bytes(answer.into_body(), usize::MAX).await.unwrap();
    String::from_utf8(body.to_vec()).unwrap()
}

#[tokio::test]
async fn nothing_that_is_not_in_the_page_may_run() {
    let answer = get("/admin", &[]).await;
    assert_eq!(answer.status(), 200);
    for (name, value) in [
        ("content-type", "text/html; charset=utf-8"),
        ("cache-control", "no-cache"),
        ("referrer-policy", "no-referrer"),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
    ] {
        assert_eq!(answer.headers()[name], value, "{name}");
    }
    let policy = answer.headers()["content-security-policy"]
        .to_str()
        .unwrap();
    let directives: Vec<_> = policy.split("; ").collect();
    for directive in [
        "default-src 'none'",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    ] {
        assert!(directives.contains(&directive), "{directive}: {policy}");
    }
    // A hash each, of 32 bytes in base64, and no other source.
    for name in ["script-src", "style-src"] {
        let of_kind: Vec<_> = directives
            .iter()
            .filter(|text| text.starts_with(name))
            .collect();
        let [directive] = of_kind[..] else {
            panic!("{policy}")
        };
        let hash = directive
            .strip_prefix(name)
            .and_then(|rest| rest.strip_prefix(" 'sha256-"));
        assert_eq!(
            hash.unwrap().strip_suffix('\'').unwrap().len(),
            44,
            "{directive}"
        );
    }
    assert_eq!(directives.len(), 10, "{policy}");
}

#[tokio::test]
async fn it_is_one_answer_below_100_kilobytes() {
    let text = text(get("/admin", &[]).await).await;
    assert!(text.len() < 100_000, "{} bytes", text.len());
    assert_eq!(text.matches("<script").count(), 1);
    assert_eq!(text.matches("<style").count(), 1);
    for reference in ["src=\"", "stylesheet", "@import", "url(", "import("] {
        assert!(!text.contains(reference), "{reference}");
    }
    for (place, _) in text
        .match_indices("http:")
        .chain(text.match_indices("https:"))
    {
        let name = "http://www.w3.org/2000/svg";
        assert!(
            text[place..].starts_with(name),
            "{}",
            &text[place..place + 60]
        );
    }
}

#[tokio::test]
async fn a_browser_that_has_it_is_told_so() {
    let first = get("/admin", &[]).await;
    let tag = first.headers()["etag"].to_str().unwrap().to_owned();
    for known in [
        tag.clone(),
        format!("W/{tag}"),
        format!("\"other\", {tag}"),
        "*".into(),
    ] {
        let answer = get("/admin", &[("if-none-match", &known)]).await;
        assert_eq!(answer.status(), 304, "{known}");
        assert_eq!(answer.headers()["etag"], tag);
        assert_eq!(answer.headers()["cache-control"], "no-cache");
        assert!(answer.headers().contains_key("content-security-policy"));
        assert_eq!(text(answer).await, "");
    }
    for other in ["\"other\"", "", tag.trim_matches('"')] {
        let answer = get("/admin", &[("if-none-match", other)]).await;
        assert_eq!(answer.status(), 200, "{other}");
    }
}

#[tokio::test]
async fn the_router_beside_it_stays_as_it_is() {
    for path in ["/admin/keys", "/admin/x"] {
        let answer = get(path, &[]).await;
        assert_eq!(answer.status(), 401, "{path}");
        assert_eq!(answer.headers()["cache-control"], "no-store");
    }
    let request = Request::builder().method(Method::POST).uri("/admin");
    let answer = app()
        .oneshot(request.body(Body::empty()).unwrap())
        .await
        .unwrap();
    assert_eq!(answer.status(), 405);
}
