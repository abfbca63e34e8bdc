//! What is refused, and by which name.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use tower_api_key::{EventAction, KeyDigest, KeyErrorKind, KeyUpdate, NewKey, RateLimit};

use super::{actions, billing, kind, over_each_store};
use crate::core_support::{NANOSECOND, SECOND};

#[tokio::test]
async fn values_are_checked() {
    over_each_store(async |keys, _| {
        let x = |length| "x".repeat(length);
        let ok = "";
        let now = keys.now();
        let network = "10.0.0.0/8".parse().unwrap();
        let metadata = |name: String, value: String| billing().metadata(name, value);
        let many_metadata = |entries| {
            (0..entries).fold(billing(), |new, entry| new.metadata(format!("{entry}"), ""))
        };
        let scopes = |scopes: usize| {
            let scopes = (0..scopes).map(|scope| format!("s{scope}"));
            NewKey::named("x").scopes(scopes)
        };
        let limits = |limits: usize| {
            (0..limits).fold(billing(), |new, limit| {
                new.limit(RateLimit::per_minute(1).named(&format!("l{limit}")))
            })
        };
        let table = [
            (NewKey::named(""), "name"),
            (NewKey::named("x"), ok),
            (NewKey::named(x(200)), ok),
            (NewKey::named(x(201)), "name"),
            (NewKey::named("ü".repeat(200)), ok),
            (NewKey::named("ü".repeat(201)), "name"),
            (NewKey::named("日本語 🔑"), ok),
            (NewKey::named("a\nb"), "name"),
            (NewKey::named("a\0b"), "name"),
            (NewKey::named("a\u{85}b"), "name"),
            (billing().owner(""), "owner"),
            (billing().owner(x(200)), ok),
            (billing().owner(x(201)), "owner"),
            (billing().owner("a\tb"), "owner"),
            (billing().prefix("rk"), "prefix"),
            (billing().prefix(""), "prefix"),
            (billing().prefix("pk"), ok),
            (billing().environment("test"), ok),
            (billing().environment("staging"), "environment"),
            (billing().scopes(["Bad Scope"]), "scopes"),
            (billing().scopes([""]), "scopes"),
            (billing().scopes(["orders:*", "*"]), ok),
            (scopes(100), ok),
            (scopes(101), "scopes"),
            (limits(8), ok),
            (limits(9), "limits"),
            (
                limits(1).limit(RateLimit::per_hour(1).named("l0")),
                "limits",
            ),
            (billing().expires_at(now), "expires_at"),
            (billing().expires_at(now - SECOND), "expires_at"),
            (billing().expires_at(Timestamp::MIN), "expires_at"),
            (billing().expires_at(now + NANOSECOND), "expires_at"),
            (billing().expires_at(now + Duration::from_micros(1)), ok),
            (billing().expires_at(Timestamp::MAX), ok),
            (many_metadata(50), ok),
            (many_metadata(51), "metadata"),
            (metadata(String::new(), x(1)), "metadata"),
            (metadata(x(64), x(1_024)), ok),
            (metadata("ü".repeat(64), "ü".repeat(1_024)), ok),
            (metadata(x(65), x(1)), "metadata"),
            (metadata(x(1), x(1_025)), "metadata"),
            (metadata("a\nb".into(), x(1)), "metadata"),
            (metadata(x(1), "two\nlines".into()), ok),
            (metadata(x(1), "a\0b".into()), "metadata"),
            (billing().allowed_addresses([network; 100]), ok),
            (
                billing().allowed_addresses([network; 101]),
                "allowed_addresses",
            ),
        ];
        for (new, field) in table {
            let shown = format!("{new:?}");
            match keys.issue(new).await {
                Ok(issued) => {
                    assert_eq!(field, ok, "{shown}");
                    let stored = keys.get(issued.key().record.id).await.unwrap();
                    assert_eq!(stored, *issued.key());
                }
                Err(error) => {
                    assert_eq!(error.kind(), KeyErrorKind::Invalid, "{shown}");
                    assert_eq!(error.field(), Some(field), "{shown}");
                    assert!(error.to_string().starts_with(field), "{error}");
                }
            }
        }
    })
    .await;
}

#[tokio::test]
async fn an_update_is_checked_like_a_new_key_and_changes_nothing_if_it_is_wrong() {
    over_each_store(async |keys, _| {
        let issued = keys.issue(billing()).await.unwrap();
        let id = issued.key().record.id;
        let now = keys.now();
        let update = KeyUpdate::new;
        let network = "10.0.0.0/8".parse().unwrap();
        let two = [RateLimit::per_hour(1), RateLimit::per_hour(2)];
        let value = BTreeMap::from([("a".to_owned(), "\0".to_owned())]);
        for (wrong, field) in [
            (update().name(""), "name"),
            (update().name("x".repeat(201)), "name"),
            (update().name("a\rb"), "name"),
            (update().scopes(["bad scope"]), "scopes"),
            (update().limits(two), "limits"),
            (update().metadata(value), "metadata"),
            (
                update().allowed_addresses([network; 101]),
                "allowed_addresses",
            ),
            (update().expires_at(now), "expires_at"),
        ] {
            let error = keys.update(id, wrong.enabled(false)).await.unwrap_err();
            assert_eq!(error.kind(), KeyErrorKind::Invalid);
            assert_eq!(error.field(), Some(field));
        }
        assert_eq!(keys.get(id).await.unwrap(), *issued.key());
        assert_eq!(actions(&keys, id).await, [EventAction::Issued]);
    })
    .await;
}

#[tokio::test]
async fn what_an_import_shows_is_checked() {
    over_each_store(async |keys, _| {
        for (number, (start, good)) in [
            (String::new(), true),
            ("old_".into(), true),
            ("x".repeat(32), true),
            ("x".repeat(33), false),
            ("a b".into(), false),
            ("a\n".into(), false),
            ("é".into(), false),
        ]
        .into_iter()
        .enumerate()
        {
            let digest = KeyDigest::sha256(&number.to_string());
            let outcome = keys.import(billing(), digest, &start).await;
            assert_eq!(outcome.is_ok(), good, "{start}");
            if let Err(error) = outcome {
                assert_eq!(error.field(), Some("start"));
            }
        }
        // No secret can come back under another key, also not when it has ended.
        let issued = keys.issue(billing()).await.unwrap();
        keys.revoke(issued.key().record.id).await.unwrap();
        let digest = KeyDigest::sha256(issued.secret().expose());
        let refused = kind(keys.import(billing(), digest, "").await);
        assert_eq!(refused, KeyErrorKind::Duplicate);
    })
    .await;
}
