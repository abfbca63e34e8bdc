//! A key from its first to its last day.

use serde_json::json;
use tower_api_key::{Credits, KeyUpdate, NewKey, Refill};

use super::{Browser, Service, per_minute};

#[tokio::test]
async fn a_key_lives_its_whole_life_in_the_page() {
    let service = Service::start().await;
    let browser = service.signed_in().await;
    let first = is_issued(&browser).await;
    is_used(&service, &browser, &first).await;
    let second = is_rotated(&service, &browser, &first).await;
    is_edited(&browser).await;
    is_switched_off_and_on(&service, &browser, &second).await;
    is_revoked(&service, &browser, &second).await;
    has_a_history(&browser).await;
    browser.assert_no_errors();
}

/// With everything that a key can have.
async fn is_issued(browser: &Browser) -> String {
    browser.click("#issue").await;
    browser.fill("#new-name", "billing worker").await;
    browser.fill("#new-owner", "acme").await;
    browser.fill("#new-environment", "test").await;
    browser.fill("#new-prefix", "sk").await;
    browser.fill("#new-scopes", "orders:read, invoices:*").await;
    browser.click("#add-limit").await;
    browser.fill("[data-field='limits[0].name']", "burst").await;
    browser.fill("[data-field='limits[0].quota']", "100").await;
    browser.choose("#new-refill", "month").await;
    browser.fill("#new-refill-amount", "1000").await;
    browser.choose("#new-expiry", "90").await;
    browser.click("#add-metadata").await;
    browser.fill("#new-metadata input", "team").await;
    browser.fill("#new-metadata textarea", "payments").await;
    browser.click("#key-dialog-submit").await;
    browser
        .sees("#secret-warning", "It is shown this once")
        .await;
    let secret = copied_secret(browser).await;
    assert!(secret.starts_with("sk_test_"), "{secret}");
    browser.sees("#key-title", "billing worker").await;
    for (row, text) in [
        (1, "acme"),
        (2, "test"),
        (4, "invoices:* orders:read"),
        (5, "burst 100 per minute"),
        (6, "1,000 left\nRefilled to 1,000 each month, next in "),
        (8, "in 3 months"),
        (11, "team payments"),
    ] {
        browser
            .sees(&format!("#key dl > div:nth-child({row}) dd"), text)
            .await;
    }
    browser.sees("#use", "0 allowed, 0 refused").await;
    secret
}

async fn is_used(service: &Service, browser: &Browser, secret: &str) {
    assert_eq!(service.use_secret(secret).await, 200);
    assert_eq!(service.use_secret(secret).await, 200);
    service.keys.flush().await.unwrap();
    browser.click("#do-refresh").await;
    browser.sees("#use", "2 allowed, 0 refused").await;
    browser
        .until("!document.querySelector('#key .stack tbody tr').innerText.includes('Never')")
        .await;
    for (period, bars) in [("#period-day", 30), ("#period-hour", 24)] {
        browser.click(period).await;
        browser
            .until(&format!(
                "document.querySelectorAll('.chart .column').length === {bars}"
            ))
            .await;
        let label = "document.querySelector('.chart').getAttribute('aria-label')";
        browser
            .until(&format!("{label}.endsWith('2 allowed, 0 refused')"))
            .await;
    }
    browser.click("#as-table").await;
    browser.sees("#use tbody", "2\t0").await;
}

/// Both secrets work, and the old one is seen to be in use.
async fn is_rotated(service: &Service, browser: &Browser, old: &str) -> String {
    browser.click("#do-rotate").await;
    browser.fill("#grace", "2").await;
    browser.click("#rotate-dialog .primary").await;
    let new = copied_secret(browser).await;
    assert_ne!(old, new);
    browser.sees("#notice", "The key has a new secret.").await;
    browser
        .sees("#key .stack tbody tr:nth-child(1)", "Current")
        .await;
    browser
        .sees("#key .stack tbody tr:nth-child(2)", "Ends in 2 days")
        .await;
    let known = format!("The old secret {}… was last used ", &old[..12]);
    browser.sees("#key .remark", &known).await;
    browser.sees("#key .remark", "It ends in 2 days.").await;
    assert_eq!(service.use_secret(old).await, 200);
    assert_eq!(service.use_secret(&new).await, 200);
    new
}

async fn is_edited(browser: &Browser) {
    browser.click("#do-edit").await;
    browser.fill("#new-name", "billing worker 2").await;
    browser.fill("#new-scopes", "orders:read").await;
    browser.click("#key-dialog-submit").await;
    browser.sees("#key-title", "billing worker 2").await;
    browser
        .sees("#key dl > div:nth-child(4) dd", "orders:read")
        .await;
}

async fn is_switched_off_and_on(service: &Service, browser: &Browser, secret: &str) {
    browser.click("#do-switch").await;
    browser.sees("#confirm-text", "billing worker 2").await;
    browser.click("#confirm-submit").await;
    browser.sees("#key-title", "Disabled").await;
    assert_eq!(service.use_secret(secret).await, 401);
    browser.click("#do-switch").await;
    browser.sees("#key-title", "Active").await;
    assert_eq!(service.use_secret(secret).await, 200);
}

/// At the second thought.
async fn is_revoked(service: &Service, browser: &Browser, secret: &str) {
    browser.click("#do-revoke").await;
    browser
        .sees("#confirm-text", "This cannot be undone.")
        .await;
    browser.click("#confirm-dialog [data-close]").await;
    assert_eq!(service.use_secret(secret).await, 200);
    browser.click("#do-revoke").await;
    browser.click("#confirm-submit").await;
    browser.sees("#key-title", "Revoked").await;
    assert_eq!(service.use_secret(secret).await, 401);
    browser
        .until("!$('do-rotate') && !$('do-revoke') && !$('do-edit') && !$('do-switch')")
        .await;
}

/// What has happened, and who did it.
async fn has_a_history(browser: &Browser) {
    browser.sees("#events", "Revoked").await;
    let actions =
        "[...document.querySelectorAll('#events strong')].map((action) => action.innerText)";
    let expected = [
        "Revoked", "Enabled", "Disabled", "Updated", "Rotated", "Issued",
    ];
    assert_eq!(browser.eval(actions).await, json!(expected));
    let actors = "[...document.querySelectorAll('#events .actor')]";
    browser
        .until(&format!(
            "{actors}.every((actor) => actor.innerText === 'by root')"
        ))
        .await;
}

#[tokio::test]
async fn an_edit_sends_what_was_changed_and_nothing_else() {
    let service = Service::start().await;
    let new = NewKey::named("reports")
        .scopes(["a:read"])
        .limit(per_minute(10));
    let id = service
        .issue(new.metadata("note", "two\nlines"))
        .await
        .key()
        .record
        .id;
    let browser = service.signed_in().await;
    browser.open(&format!("{}#{id}", service.page)).await;
    browser.click("#do-edit").await;
    browser.until("$('new-name').value === 'reports'").await;
    // Meanwhile somebody else.
    let other = KeyUpdate::new().scopes(["b:read"]);
    service.keys.update(id, other).await.unwrap();
    browser.fill("#new-name", "reporting").await;
    browser.click("#key-dialog-submit").await;
    browser.sees("#key-title", "reporting").await;

    let record = service.keys.get(id).await.unwrap().record;
    assert_eq!(json!(record.scopes), json!(["b:read"]));
    assert_eq!(record.metadata["note"], "two\nlines");
    assert_eq!(record.limits.len(), 1);
}

#[tokio::test]
async fn allowed_addresses_are_seen_and_set() {
    let service = Service::start().await;
    let networks = ["10.0.0.0/8", "2001:db8::/32"].map(|network| network.parse().unwrap());
    let new = NewKey::named("reports").allowed_addresses(networks);
    let id = service.issue(new).await.key().record.id;
    let stored = async || {
        let record = service.keys.get(id).await.unwrap().record;
        (record.version, json!(record.allowed_addresses))
    };
    let browser = service.signed_in().await;
    browser.open(&format!("{}#{id}", service.page)).await;
    let shown = "#key dl > div:nth-child(7) dd";
    browser.sees(shown, "10.0.0.0/8\n2001:db8::/32").await;

    // What nobody touched is not sent.
    browser.click("#do-edit").await;
    browser
        .until("$('new-addresses').value === '10.0.0.0/8\\n2001:db8::/32'")
        .await;
    browser.click("#key-dialog-submit").await;
    browser.sees("#notice", "The key was changed.").await;
    assert_eq!(stored().await.0, 1);

    browser.click("#do-edit").await;
    browser.fill("#new-addresses", "10.0.0.0/8 192.0.2.7").await;
    browser.click("#key-dialog-submit").await;
    browser.sees(shown, "10.0.0.0/8\n192.0.2.7/32").await;
    let networks = json!(["10.0.0.0/8", "192.0.2.7/32"]);
    assert_eq!(stored().await, (2, networks));

    browser.click("#do-edit").await;
    browser.fill("#new-addresses", "10.0.0.0/8 nowhere").await;
    browser.click("#key-dialog-submit").await;
    browser.sees("#new-addresses-error", "nowhere").await;
    browser.fill("#new-addresses", "").await;
    browser.click("#key-dialog-submit").await;
    browser.sees(shown, "Everywhere").await;
    assert_eq!(stored().await, (3, json!([])));
    browser.assert_no_errors();
}

#[tokio::test]
async fn credits_are_seen_and_set() {
    let service = Service::start().await;
    let new = NewKey::named("trial").scopes(["orders:read"]);
    let issued = service.issue(new.credits(Credits::new(2))).await;
    let id = issued.key().record.id;
    for status in [200, 200, 429] {
        let secret = issued.secret().expose();
        assert_eq!(service.use_secret(secret).await, status);
    }
    let browser = service.signed_in().await;
    browser.open(&format!("{}#{id}", service.page)).await;
    let shown = "#key dl > div:nth-child(6) dd";
    browser.sees(shown, "0 left").await;
    browser.sees("#key .remark", "No credits are left").await;

    // What nobody touched is not set anew.
    browser.click("#do-edit").await;
    browser.until("$('new-credits').value === '0'").await;
    browser.fill("#new-name", "paid").await;
    browser.click("#key-dialog-submit").await;
    browser.sees("#key-title", "paid").await;
    let plan = service.keys.get(id).await.unwrap().record.credits.unwrap();
    assert_eq!(plan.since_version, 1);

    browser.click("#do-edit").await;
    browser.fill("#new-credits", "2000").await;
    browser.until("$('new-refill-to').hidden").await;
    browser.choose("#new-refill", "day").await;
    browser
        .until("document.activeElement === $('new-refill-amount')")
        .await;
    for (amount, wrong) in [
        ("", "from 1"),
        ("0", "from 1"),
        ("9000000000000000", "1 to"),
    ] {
        browser.fill("#new-refill-amount", amount).await;
        browser.click("#key-dialog-submit").await;
        browser.sees("#new-credits-error", wrong).await;
    }
    browser.fill("#new-refill-amount", "100").await;
    browser.click("#key-dialog-submit").await;
    browser
        .sees(shown, "2,000 left\nRefilled to 100 each day, next in ")
        .await;
    let left = service.keys.credits(id).await.unwrap().unwrap();
    assert_eq!(
        (left.remaining, left.refill),
        (2_000, Some(Refill::daily(100)))
    );
    let remark = "[...document.querySelectorAll('#key .remark')]";
    browser.until(&format!("!{remark}.length")).await;

    browser.click("#do-edit").await;
    browser.fill("#new-credits", "").await;
    browser.choose("#new-refill", "").await;
    browser.click("#key-dialog-submit").await;
    browser.sees(shown, "None needed").await;
    assert_eq!(service.keys.credits(id).await.unwrap(), None);
    browser.assert_no_errors();
}

/// The secret as it is shown, and as it is on the clipboard after the button was pressed.
async fn copied_secret(browser: &Browser) -> String {
    browser.until("$('secret-dialog').open").await;
    let secret = browser.text("#secret").await;
    browser.click("#copy").await;
    browser.sees("#copied", "Copied.").await;
    browser.click("#secret-done").await;
    // Nothing of it stays in the page.
    let page = "document.documentElement.outerHTML";
    browser
        .until(&format!(
            "!$('secret-dialog').open && !{page}.includes({})",
            json!(secret)
        ))
        .await;
    secret
}
