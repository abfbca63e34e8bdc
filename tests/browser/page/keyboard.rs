//! The way through the page without a pointer.

use serde_json::json;
use tower_api_key::NewKey;

use super::Service;
use super::browser::{Browser, CONTROL, ENTER, ESCAPE, SHIFT, TAB};

#[tokio::test]
async fn a_key_is_issued_and_revoked_without_a_pointer() {
    let service = Service::start().await;
    let browser = Browser::start().await;
    browser.open(&service.page).await;

    // The focus is where one begins.
    browser.until(&focused("admin-key")).await;
    browser.press(service.root.chars()).await;
    browser.press([ENTER]).await;
    browser.until(&focused("list-title")).await;

    tab_to(&browser, "issue").await;
    browser.press([ENTER]).await;
    browser.until(&focused("new-name")).await;
    // Esc closes a dialog and the focus goes back to what opened it.
    browser.press([ESCAPE]).await;
    browser
        .until(&format!("!$('key-dialog').open && {}", focused("issue")))
        .await;

    browser.press([ENTER]).await;
    browser.until(&focused("new-name")).await;
    browser.press("keyboard".chars()).await;
    tab_to(&browser, "new-scopes").await;
    browser.press("orders:read".chars()).await;
    tab_to(&browser, "add-limit").await;
    browser.press([ENTER]).await;
    browser
        .until("document.activeElement.dataset.field === 'limits[0].name'")
        .await;
    browser
        .press("burst".chars().chain([TAB]).chain("5".chars()))
        .await;
    // Enter in a field issues the key.
    browser.press([ENTER]).await;

    browser.until(&focused("copy")).await;
    let secret = browser.text("#secret").await;
    // Esc warns before it takes away what nobody has copied.
    browser.press([ESCAPE]).await;
    browser
        .sees("#copied", "The secret was not copied yet.")
        .await;
    browser.until("$('secret-dialog').open").await;
    browser.press([ENTER]).await;
    browser.sees("#copied", "Copied.").await;
    browser.press([ESCAPE]).await;
    browser.until("!$('secret-dialog').open").await;
    browser.until(&focused("key-title")).await;
    assert_eq!(service.use_secret(&secret).await, 200);

    // It is on the clipboard.
    browser.press_with(SHIFT, TAB).await;
    browser.press([ENTER]).await;
    browser.until(&focused("list-title")).await;
    tab_to(&browser, "filter-owner").await;
    browser.press_with(CONTROL, 'v').await;
    browser
        .until(&format!("$('filter-owner').value === {}", json!(secret)))
        .await;
    browser.sees("#list-body", "No key matches.").await;
    tab_to(&browser, "filter-reset").await;
    browser.press([ENTER]).await;

    // The first link of the list is the newest key.
    browser.sees(".keys tbody tr", "keyboard").await;
    browser.press([TAB]).await;
    browser
        .until("document.activeElement.innerText === 'keyboard'")
        .await;
    assert_visible_focus(&browser).await;
    browser.press([ENTER]).await;
    browser.until(&focused("key-title")).await;
    tab_to(&browser, "do-revoke").await;
    browser.press([ENTER]).await;
    // What cannot be undone is not where the focus is.
    browser
        .until("document.activeElement.innerText === 'Cancel'")
        .await;
    browser.press([TAB, ENTER]).await;
    browser.sees("#key-title", "Revoked").await;
    // The button that was pressed is gone, and the focus is not lost with it.
    browser.until(&focused("key-title")).await;
    assert_eq!(service.use_secret(&secret).await, 401);
    browser.assert_no_errors();
}

#[tokio::test]
async fn the_focus_stays_at_a_button_that_changes() {
    let service = Service::start().await;
    let id = service.issue(NewKey::named("n")).await.key().record.id;
    let browser = service.signed_in().await;
    browser.open(&format!("{}#{id}", service.page)).await;
    browser.until(&focused("key-title")).await;
    tab_to(&browser, "do-switch").await;
    browser.press([ENTER]).await;
    browser.until("$('confirm-dialog').open").await;
    browser.press([TAB, ENTER]).await;
    browser.sees("#key-title", "Disabled").await;
    browser
        .until(&format!(
            "{} && $('do-switch').innerText === 'Enable'",
            focused("do-switch")
        ))
        .await;
    browser.press([ENTER]).await;
    browser
        .until(&format!(
            "{} && $('do-switch').innerText === 'Disable'",
            focused("do-switch")
        ))
        .await;
    tab_to(&browser, "period-day").await;
    browser.press([ENTER]).await;
    let pressed = "$('period-day').ariaPressed === 'true'";
    browser
        .until(&format!("{pressed} && {}", focused("period-day")))
        .await;
}

#[tokio::test]
async fn every_control_has_a_name_and_shows_that_it_has_the_focus() {
    let service = Service::start().await;
    let id = service.issue(NewKey::named("n")).await.key().record.id;
    let browser = service.signed_in().await;
    assert_named(&browser, "#list, header").await;
    browser.click("#issue").await;
    browser.click("#add-limit").await;
    browser.click("#add-metadata").await;
    browser.choose("#new-expiry", "at").await;
    assert_named(&browser, "#key-dialog").await;
    browser.press([ESCAPE]).await;
    browser.open(&format!("{}#{id}", service.page)).await;
    browser.sees("#use", "0 allowed").await;
    assert_named(&browser, "#key").await;
    browser.click("#do-rotate").await;
    assert_named(&browser, "#rotate-dialog").await;
}

/// Every control that is shown below a selector has a label, and an outline with the focus.
async fn assert_named(browser: &Browser, css: &str) {
    let controls = format!(
        "[...document.querySelectorAll({})].flatMap((part) => \
         [...part.querySelectorAll('input, select, textarea, button, a')]) \
         .filter((control) => control.checkVisibility())",
        json!(css)
    );
    let text = "control.matches('button, a') && control.innerText";
    let nameless = format!("!(control.ariaLabel || control.labels?.length || ({text}))");
    let found = browser
        .eval(&format!(
            "{controls}.filter((control) => {nameless}).map((control) => control.outerHTML)"
        ))
        .await;
    assert_eq!(found, json!([]), "{css}");
    assert!(
        browser.eval(&format!("{controls}.length")).await.as_u64() > Some(2),
        "{css}"
    );
}

async fn assert_visible_focus(browser: &Browser) {
    let outline = "[null, '::after'].some((part) => \
        getComputedStyle(document.activeElement, part).outlineStyle === 'solid')";
    assert_eq!(browser.eval(outline).await, json!(true));
}

/// Presses Tab until the element with this id has the focus, which has to be visible on the way.
async fn tab_to(browser: &Browser, id: &str) {
    for _ in 0..40 {
        browser.press([TAB]).await;
        assert_visible_focus(browser).await;
        if browser.eval(&focused(id)).await == json!(true) {
            return;
        }
    }
    panic!("Tab does not lead to {id}");
}

fn focused(id: &str) -> String {
    format!("document.activeElement.id === {}", json!(id))
}
