//! What the page must not do, whatever it is given.

use std::future::IntoFuture;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use serde_json::json;
use tokio::net::TcpListener;
use tower::ServiceExt;
use tower_api_key::NewKey;

use super::{Browser, Service};

#[tokio::test]
async fn no_text_of_a_key_is_ever_markup() {
    let service = Service::start().await;
    let markup = "<img src=x onerror=\"window.pwned=1\"><script>window.pwned=1</script>";
    let text = format!("'\"--></textarea></style>{markup}");
    let new = NewKey::named(&text)
        .owner(&text)
        .metadata(&text[..60], &text);
    let issued = service.issue(new).await;
    let id = issued.key().record.id;
    let actor = service.keys.acting_as(&text);
    actor.rotate(id, Duration::from_mins(1)).await.unwrap();

    let browser = service.signed_in().await;
    browser.sees(".keys tbody th a", &text).await;
    browser.sees(".keys tbody td", &text).await;
    browser.open(&format!("{}#{id}", service.page)).await;
    browser.sees("#key-title", &text).await;
    browser.sees("#key dl", &text).await;
    browser.sees("#events .actor", &text).await;
    browser
        .until(&format!("document.title.startsWith({})", json!(text)))
        .await;
    browser.click("#do-edit").await;
    browser
        .until(&format!("$('new-name').value === {}", json!(text)))
        .await;
    browser
        .until(&format!(
            "document.querySelector('#new-metadata textarea').value === {}",
            json!(text)
        ))
        .await;
    browser.click("#key-dialog [data-close]").await;
    browser.click("#do-rotate").await;
    browser.sees("#rotate-name", &text).await;
    browser.click("#rotate-dialog .primary").await;
    browser.sees("#secret-name", &text).await;
    browser.click("#secret-done").await;
    browser.click("#do-revoke").await;
    browser.sees("#confirm-text", &text).await;
    browser.click("#confirm-submit").await;
    browser.sees("#key-title", "Revoked").await;
    // As an address, in the place of an id.
    browser.open(&format!("{}#{markup}", service.page)).await;
    browser.sees(".failure", "There is no such key.").await;

    assert_eq!(browser.eval("window.pwned").await, json!(null));
    assert_eq!(
        browser
            .eval("document.querySelectorAll('img').length")
            .await,
        json!(0)
    );
    assert_eq!(
        browser
            .eval("document.querySelectorAll('script').length")
            .await,
        json!(1)
    );
    browser.assert_no_errors();
}

#[tokio::test]
async fn the_browser_refuses_what_the_policy_forbids() {
    let service = Service::start().await;
    let browser = service.signed_in().await;
    let refused = "(() => { try { document.body.innerHTML = '<b>x</b>'; return false; } catch { return true; } })()";
    assert_eq!(browser.eval(refused).await, json!(true));
    let elsewhere = "document.body.append(Object.assign(document.createElement('script'), {text: 'window.pwned = 1'}))";
    let inserted = format!("(() => {{ try {{ {elsewhere} }} catch {{}} return window.pwned }})()");
    assert_eq!(browser.eval(&inserted).await, json!(null));
}

#[tokio::test]
async fn an_admin_key_is_kept_nowhere_and_goes_nowhere_else() {
    let service = Service::start().await;
    let id = service.issue(NewKey::named("n")).await.key().record.id;
    let browser = service.signed_in().await;
    browser.click("#issue").await;
    browser.fill("#new-name", "m").await;
    browser.click("#key-dialog-submit").await;
    browser.until("$('secret-dialog').open").await;
    let secret = browser.text("#secret").await;
    browser.click("#secret-done").await;
    browser.open(&format!("{}#{id}", service.page)).await;
    browser.sees("#events", "Issued").await;

    let stores = "[localStorage.length, sessionStorage.length, document.cookie, history.state]";
    assert_eq!(browser.eval(stores).await, json!([0, 0, "", null]));
    assert_eq!(
        browser
            .eval("indexedDB.databases().then((all) => all.length)")
            .await,
        json!(0)
    );
    let field = "$('admin-key').value";
    assert_eq!(browser.eval(field).await, json!(""));

    let requests = browser.requests();
    let origin = service.page.strip_suffix("/admin").unwrap();
    assert!(requests.len() > 5, "{requests:?}");
    for url in requests.iter().chain([&browser.url().await]) {
        let own = url
            .strip_prefix(origin)
            .is_some_and(|path| path.starts_with("/admin"));
        assert!(own || url.starts_with("data:"), "{url}");
        assert!(
            !url.contains(&service.root) && !url.contains(&secret),
            "{url}"
        );
    }
    let page = requests
        .iter()
        .filter(|url| url.split('#').next() == Some(&service.page));
    assert_eq!(page.count(), 1, "{requests:?}");

    // Neither a reload nor the way back from elsewhere finds it.
    browser.open("about:blank").await;
    browser.back().await;
    browser
        .until("$('signed-in').hidden && !$('signed-out').hidden && adminKey === null")
        .await;
    browser.sign_in(&service.root).await;
    browser.click("#sign-out").await;
    browser
        .until("$('signed-in').hidden && adminKey === null && !$('key').hasChildNodes()")
        .await;
    let text = browser.eval("document.documentElement.outerHTML").await;
    assert!(!text.as_str().unwrap().contains(&id.to_string()));
}

#[tokio::test]
async fn a_path_that_looks_like_a_host_is_none() {
    let service = Service::start().await;
    // A server that ignores what stands before its own paths, as some proxies do.
    let behind = "//elsewhere.example";
    let app = service
        .app
        .clone()
        .map_request(move |mut request: Request<Body>| {
            let path = request.uri().to_string();
            let own = path.strip_prefix(behind).unwrap_or(&path);
            *request.uri_mut() = own.parse().unwrap();
            request
        });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    let server = axum::serve(listener, Router::new().fallback_service(app));
    tokio::spawn(server.into_future());

    let browser = Browser::start().await;
    browser.open(&format!("{origin}{behind}/admin")).await;
    browser.sign_in(&service.root).await;
    browser.sees(".keys tbody th a", "root").await;
    let below = format!("{origin}{behind}/admin");
    for url in browser.requests() {
        assert!(url.starts_with(&below) || url.starts_with("data:"), "{url}");
    }
    browser.assert_no_errors();
}
