//! Finding a key among many, on any screen.

use serde_json::json;
use tower_api_key::{KeyFilter, KeyUpdate, NewKey};

use super::Service;
use super::browser::Browser;

#[tokio::test]
async fn keys_are_filtered_and_paged() {
    let service = Service::start().await;
    for number in 0..120 {
        let owner = if number % 60 == 0 { "rare" } else { "common" };
        let environment = if number % 2 == 0 { "live" } else { "test" };
        let new = NewKey::named(format!("key {number}"))
            .owner(owner)
            .environment(environment);
        let issued = service.issue(new).await;
        if number == 60 {
            service.keys.disable(issued.key().record.id).await.unwrap();
        }
    }
    // Newest first, but keys of the same millisecond are in no order that could be foretold.
    let mut all = KeyFilter::default();
    all.limit = 200;
    let all = service.keys.list(&all).await.unwrap().keys;
    let names: Vec<_> = all.iter().map(|key| key.record.name.as_str()).collect();

    let browser = service.signed_in().await;
    let shown = async |names: &[&str], place: &str| {
        browser.sees("#page-count", place).await;
        let links = "[...document.querySelectorAll('.keys tbody a')]";
        let found = format!("{links}.map((link) => link.innerText).join('|')");
        browser
            .until(&format!("{found} === {}", json!(names.join("|"))))
            .await;
    };
    shown(&names[..50], "Keys 1–50").await;
    assert_eq!(browser.eval("$('newer').disabled").await, json!(true));
    browser.click("#older").await;
    shown(&names[50..100], "Keys 51–100").await;
    browser.click("#older").await;
    shown(&names[100..], "Keys 101–121").await;
    assert_eq!(browser.eval("$('older').disabled").await, json!(true));
    browser.click("#newer").await;
    shown(&names[50..100], "Keys 51–100").await;

    let rare: Vec<_> = names
        .iter()
        .copied()
        .filter(|name| ["key 0", "key 60"].contains(name))
        .collect();
    browser.fill("#filter-owner", "rare").await;
    shown(&rare, "2 keys").await;
    browser.choose("#filter-status", "disabled").await;
    shown(&["key 60"], "1 key").await;
    browser.fill("#filter-environment", "test").await;
    browser.sees("#list-body", "No key matches.").await;
    browser.click("#filter-reset").await;
    shown(&names[..50], "Keys 1–50").await;

    // A way back from a key, and a way on to the same key.
    browser.click(".keys tbody tr:nth-child(3) a").await;
    browser.sees("#key-title", names[2]).await;
    browser.back().await;
    shown(&names[..50], "Keys 1–50").await;
    browser.assert_no_errors();
}

#[tokio::test]
async fn it_fits_a_phone() {
    let service = Service::start().await;
    let long = "w".repeat(200);
    let new = NewKey::named(&long)
        .owner(&long)
        .scopes([format!("a:{}", "s".repeat(60))]);
    let id = service
        .issue(new.metadata("m".repeat(64), "v".repeat(500)))
        .await
        .key()
        .record
        .id;
    let browser = Browser::start().await;
    browser.set_width(360);
    browser.open(&service.page).await;
    browser.until("innerWidth === 360").await;
    browser.sign_in(&service.root).await;
    let fits = "document.documentElement.scrollWidth <= innerWidth";
    browser.until(fits).await;
    browser.click("#issue").await;
    browser.click("#add-limit").await;
    let inside = "(dialog) => dialog.getBoundingClientRect().right <= innerWidth && dialog.scrollWidth <= dialog.clientWidth";
    browser.until(&format!("({inside})($('key-dialog'))")).await;
    browser.click("#key-dialog [data-close]").await;
    browser.open(&format!("{}#{id}", service.page)).await;
    browser
        .until("document.querySelector('.chart') && document.querySelector('#events li')")
        .await;
    browser.until(fits).await;
    for button in ["#do-rotate", "#do-revoke"] {
        browser.click(button).await;
        browser
            .until(&format!(
                "({inside})(document.querySelector('dialog[open]'))"
            ))
            .await;
        browser.click("dialog[open] [data-close]").await;
    }
}

#[tokio::test]
async fn older_events_come_page_by_page() {
    let service = Service::start().await;
    let id = service.issue(NewKey::named("busy")).await.key().record.id;
    for name in 0..150 {
        let update = KeyUpdate::new().name(format!("busy {name}"));
        service.keys.update(id, update).await.unwrap();
    }
    let browser = service.signed_in().await;
    browser.open(&format!("{}#{id}", service.page)).await;
    let count =
        |events: usize| format!("document.querySelectorAll('#events li').length === {events}");
    browser.until(&count(100)).await;
    browser.click("#older-events").await;
    browser.until(&count(151)).await;
    browser.until("!$('older-events')").await;
    browser.sees("#events li:last-child", "Issued").await;
    // The reader goes on where the new ones begin.
    browser
        .until("document.activeElement === document.querySelectorAll('#events li')[100]")
        .await;
}

/// Lets the page see other answers of the API than there are.
async fn answers(browser: &Browser, method: &str, path: &str, members: serde_json::Value) {
    let changed = format!(
        "const real = window.fetch;
         window.fetch = async (url, options) => {{
           const answer = await real(url, options);
           if (options.method !== '{method}' || !String(url).includes('{path}')) return answer;
           const body = {{ ...(await answer.json()), ...{members} }};
           return new Response(JSON.stringify(body), answer);
         }}"
    );
    browser
        .eval(&format!("(() => {{ {changed}; return true; }})()"))
        .await;
}

#[tokio::test]
async fn what_cannot_be_read_is_named_above_the_list() {
    let service = Service::start().await;
    let browser = service.signed_in().await;
    browser.sees("#list-body", "root").await;
    let unreadable = json!({
        "unreadable": [{ "id": "key_torn", "detail": "column `scopes` cannot be read" }],
    });
    answers(&browser, "GET", "/keys?", unreadable).await;
    browser.eval("loadList()").await;
    browser
        .sees("#list-body .failure", "1 stored key cannot be read")
        .await;
    browser
        .sees("#list-body .failure", "key_torn column `scopes`")
        .await;
    browser.sees("#list-body table", "root").await;
}

#[tokio::test]
async fn a_change_that_is_not_propagated_is_no_plain_success() {
    let service = Service::start().await;
    let id = service.issue(NewKey::named("leaked")).await.key().record.id;
    let browser = service.signed_in().await;
    browser.open(&format!("{}#{id}", service.page)).await;
    browser.sees("#key-title", "leaked").await;
    let members = json!({ "propagated": false });
    answers(&browser, "DELETE", "/keys/", members).await;
    browser.click("#do-revoke").await;
    browser.click("#confirm-submit").await;
    browser
        .sees(
            "#notice",
            "The key is revoked. Other servers could not be notified",
        )
        .await;
    browser.until("$('notice').dataset.kind === 'failed'").await;
}
