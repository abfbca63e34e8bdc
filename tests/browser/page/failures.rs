//! What the page says when something is refused, broken or out of reach.

use serde_json::json;
use tower_api_key::{KeyUpdate, NewKey};

use super::browser::Browser;
use super::{Service, per_minute, secret};

#[tokio::test]
async fn a_wrong_value_is_told_at_its_field() {
    let service = Service::start().await;
    let browser = service.signed_in().await;
    browser.click("#issue").await;
    let error_at = async |field: &str, text: &str| {
        browser.click("#key-dialog-submit").await;
        let active = format!("document.activeElement.dataset.field === {}", json!(field));
        browser.until(&active).await;
        // The message is what the field is described by.
        let error = "document.activeElement.getAttribute('aria-describedby').split(' ').at(-1)";
        browser
            .until(&format!("$({error}).innerText.includes({})", json!(text)))
            .await;
        browser
            .until("document.activeElement.ariaInvalid === 'true'")
            .await;
        browser.until("[...document.querySelectorAll('.error')].filter((error) => error.checkVisibility()).length === 1").await;
    };
    error_at("name", "1 to 200 characters are needed").await;
    browser.fill("#new-name", "n").await;
    browser.fill("#new-prefix", "zz").await;
    error_at("prefix", "no such prefix").await;
    browser.fill("#new-prefix", "").await;
    browser.fill("#new-environment", "moon").await;
    error_at("environment", "no such environment").await;
    browser.fill("#new-environment", "live").await;
    browser.fill("#new-scopes", "orders:read *:a").await;
    error_at("scopes", "*:a").await;
    browser.fill("#new-scopes", "").await;
    browser.fill("#new-addresses", "10.0.0.1 elsewhere").await;
    error_at("allowed_addresses", "“elsewhere”").await;
    browser
        .fill("#new-addresses", "10.0.0.1 ::1 192.0.2.0/24")
        .await;
    browser.click("#add-limit").await;
    browser.click("#add-limit").await;
    for (index, name) in ["burst", "daily"].iter().enumerate() {
        browser
            .fill(&format!("[data-field='limits[{index}].name']"), name)
            .await;
        browser
            .fill(&format!("[data-field='limits[{index}].quota']"), "5")
            .await;
    }
    browser.fill("[data-field='limits[1].quota']", "many").await;
    error_at("limits[1].quota", "A whole number from 1 is needed.").await;
    browser
        .fill("[data-field='limits[1].quota']", "9000000000000000")
        .await;
    error_at("limits[1].quota", "Quota must be 1 to").await;
    browser.click("#new-limits .row:nth-child(2) button").await;
    browser
        .fill("[data-field='limits[0].name']", "no name")
        .await;
    error_at("limits[0].name", "1 to 64 letters").await;
    browser.fill("[data-field='limits[0].name']", "burst").await;
    browser.choose("#new-expiry", "at").await;
    error_at("expires_at", "A date and a time are needed.").await;
    browser
        .eval("$('new-expires-at').value = '2001-01-01T10:00'")
        .await;
    error_at("expires_at", "It must be in the future.").await;
    browser.choose("#new-expiry", "never").await;
    browser.click("#key-dialog-submit").await;
    browser.sees("#secret-label", "Secret of n").await;
    browser.click("#secret-done").await;
    for network in ["10.0.0.1/32", "::1/128", "192.0.2.0/24"] {
        browser.sees("#key dl", network).await;
    }
    browser.click("#do-rotate").await;
    browser.fill("#grace", "400").await;
    browser.click("#rotate-dialog .primary").await;
    browser
        .sees("#rotate-error", "It must be 0 to 31536000.")
        .await;
    browser.until("document.activeElement.id === 'grace'").await;
    browser.assert_no_errors();
}

#[tokio::test]
async fn whoever_is_refused_learns_why() {
    let service = Service::start().await;
    let browser = Browser::start().await;
    browser.open(&service.page).await;
    let refused = async |secret: &str, place: &str, text: &str| {
        browser.fill("#admin-key", secret).await;
        browser.click("#sign-in button").await;
        browser.sees(place, text).await;
        browser.until("$('signed-in').hidden").await;
    };
    let (at_field, above) = ("#admin-key-error", "#sign-in .alert");
    refused("", at_field, "A key is needed.").await;
    refused("schlüssel", at_field, "This is no key.").await;
    refused(
        "sk_live_bad",
        at_field,
        "The server does not accept this key.",
    )
    .await;
    let writer = secret(
        &service.keys,
        NewKey::named("writer").scopes(["keys:write"]),
    )
    .await;
    refused(&writer, above, "Your key lacks the scope keys:read.").await;

    let reader = secret(&service.keys, NewKey::named("reader").scopes(["keys:read"])).await;
    browser.sign_in(&reader).await;
    browser.click("#issue").await;
    browser.fill("#new-name", "n").await;
    browser.click("#key-dialog-submit").await;
    browser
        .sees("#key-dialog .alert", "Your key lacks the scope keys:write.")
        .await;
    browser.click("#key-dialog [data-close]").await;
    browser.click("#sign-out").await;

    let both = NewKey::named("both").scopes(["keys:read", "keys:write"]);
    let both = service.issue(both).await;
    browser.sign_in(both.secret().expose()).await;
    browser.click("#issue").await;
    browser.fill("#new-name", "n").await;
    browser
        .fill("#new-scopes", "orders:read orders:write")
        .await;
    browser.click("#key-dialog-submit").await;
    let text = "Your key lacks the scopes orders:read, orders:write: it cannot hand out";
    browser.sees("#key-dialog .alert", text).await;

    // The key ends while it is in use, with a dialog open.
    service.keys.revoke(both.key().record.id).await.unwrap();
    browser.click("#key-dialog-submit").await;
    browser
        .sees(above, "Your key is no longer accepted. Sign in again.")
        .await;
    browser
        .until("!document.querySelector('dialog[open]') && !adminKey")
        .await;
    browser
        .until("document.activeElement.id === 'admin-key' && !$('admin-key').value")
        .await;
}

#[tokio::test]
async fn a_new_secret_is_shown_even_to_whom_it_signs_out() {
    let service = Service::start().await;
    let admin = service.issue(NewKey::named("me").scopes(["*"])).await;
    let browser = Browser::start().await;
    browser.open(&service.page).await;
    browser.sign_in(admin.secret().expose()).await;
    browser
        .open(&format!("{}#{}", service.page, admin.key().record.id))
        .await;
    browser
        .sees("#key .remark", "You are signed in with this key.")
        .await;
    browser.click("#do-rotate").await;
    browser
        .sees("#rotate-own", "You are signed in with this key.")
        .await;
    browser.fill("#grace", "0").await;
    browser.click("#rotate-dialog .primary").await;
    browser.until("$('secret-dialog').open").await;
    let secret = browser.text("#secret").await;
    browser.click("#secret-done").await;
    browser
        .sees("#sign-in .alert", "Your key is no longer accepted.")
        .await;
    browser
        .until("document.activeElement.id === 'admin-key'")
        .await;
    browser.sign_in(&secret).await;
}

#[tokio::test]
async fn what_is_out_of_reach_can_be_tried_again() {
    let service = Service::start().await;
    let id = service.issue(NewKey::named("n")).await.key().record.id;
    let browser = service.signed_in().await;

    service.store.fail(true);
    browser.choose("#filter-status", "active").await;
    browser
        .sees(
            ".failure",
            "The keys cannot be reached at present. Try again in 1 second.",
        )
        .await;
    service.store.fail(false);
    browser.click(".failure button").await;
    browser.sees(".keys", "root").await;

    browser.set_offline(true);
    browser.choose("#filter-status", "").await;
    browser
        .sees(".failure", "The server cannot be reached.")
        .await;
    browser.set_offline(false);
    browser.click(".failure button").await;
    browser.sees(".keys", "root").await;

    browser.open(&format!("{}#{id}", service.page)).await;
    browser.click("#do-revoke").await;
    browser.set_offline(true);
    browser.click("#confirm-submit").await;
    browser
        .sees(
            "#confirm-dialog .alert",
            "it is not known whether the change was made",
        )
        .await;
    browser.set_offline(false);
    browser.click("#confirm-submit").await;
    browser.sees("#key-title", "Revoked").await;

    browser.open(&format!("{}#key_1", service.page)).await;
    browser.sees(".failure", "There is no such key.").await;
}

#[tokio::test]
async fn too_many_requests_are_told_with_the_time_to_wait() {
    let service = Service::start().await;
    let limited = service
        .issue(NewKey::named("limited").scopes(["*"]).limit(per_minute(3)))
        .await;
    let browser = Browser::start().await;
    browser.open(&service.page).await;
    browser.sign_in(limited.secret().expose()).await;
    browser.choose("#filter-status", "active").await;
    browser.sees(".keys", "limited").await;
    browser.choose("#filter-status", "").await;
    browser
        .sees(".failure", "Too many requests. Try again in ")
        .await;
    let lifted = KeyUpdate::new().limits([per_minute(1_000)]);
    service
        .keys
        .update(limited.key().record.id, lifted)
        .await
        .unwrap();
    browser.click(".failure button").await;
    browser.sees(".keys", "limited").await;
}
