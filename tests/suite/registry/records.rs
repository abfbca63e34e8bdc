//! What is returned, stored and shown of a key.

use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tower_api_key::{
    Attempt, DenialReason, Key, KeyDigest, KeyErrorKind, KeyFilter, KeyId, KeyUpdate, RateLimit,
    Requirements, UsageDelta,
};

use super::{DAY, MINUTE, billing, kind, over_each_store};
use crate::core_support::{NANOSECOND, SECOND, verify};

#[tokio::test]
async fn what_is_returned_is_what_is_stored() {
    over_each_store(async |keys, clock| {
        let new = billing()
            .owner("acme")
            .prefix("pk")
            .environment("test")
            .limit(RateLimit::per_minute(5))
            .limit(RateLimit::per_day(50))
            .expires_at(keys.now() + 30 * DAY + NANOSECOND)
            .metadata("plan", "gold")
            .allowed_addresses(["10.0.0.0/8".parse().unwrap()]);
        let issued = keys.issue(new.clone()).await.unwrap();
        let key = issued.key();
        let id = key.record.id;
        assert_eq!(keys.get(id).await.unwrap(), *key);
        assert_eq!(key.record.created_at, keys.now());
        assert_eq!(key.record.expires_at, Some(keys.now() + 30 * DAY));
        assert_eq!(key.record.version, 1);
        assert_eq!(key.credentials[0].start, issued.secret().start());
        assert!(issued.secret().expose().starts_with("pk_test_"));

        for change in 0..7 {
            clock.advance(SECOND + NANOSECOND);
            let update = KeyUpdate::new();
            let changed = match change {
                0 => keys
                    .rotate(id, MINUTE + NANOSECOND)
                    .await
                    .unwrap()
                    .key()
                    .clone(),
                1 => keys.rotate(id, Duration::MAX).await.unwrap().key().clone(),
                2 => keys
                    .update(id, update.name("other"))
                    .await
                    .unwrap()
                    .into_key(),
                3 => keys
                    .update(id, update.expires_at(None))
                    .await
                    .unwrap()
                    .into_key(),
                4 => keys.disable(id).await.unwrap().into_key(),
                5 => keys.enable(id).await.unwrap().into_key(),
                _ => keys.revoke(id).await.unwrap().into_key(),
            };
            assert_eq!(changed.record.version, 2 + change);
            assert_eq!(keys.get(id).await.unwrap(), changed);
            assert_whole_microseconds(&changed);
        }
        let digest = KeyDigest::sha256("imported");
        let imported = keys.import(new, digest, "imp").await.unwrap().into_key();
        assert_eq!(keys.get(imported.record.id).await.unwrap(), imported);
        assert!(imported.credentials[0].imported);

        let page = keys.list(&KeyFilter::default()).await.unwrap();
        assert_eq!(page.keys.len(), 2);
        assert_eq!(page.keys[0], imported, "newest first");
        for event in keys.events(id, None, 100).await.unwrap().events {
            assert_eq!(event.at.as_nanosecond() % 1_000, 0);
        }
        let missing = KeyId::generate(keys.now());
        let never = (Timestamp::MIN, Timestamp::MAX);
        for refused in [
            kind(keys.get(missing).await),
            kind(keys.update(missing, KeyUpdate::new()).await),
            kind(keys.rotate(missing, DAY).await),
            kind(keys.revoke(missing).await),
            kind(keys.disable(missing).await),
            kind(keys.events(missing, None, 1).await),
            kind(keys.usage(missing, never.0, never.1).await),
        ] {
            assert_eq!(refused, KeyErrorKind::NotFound);
        }
    })
    .await;
}

fn assert_whole_microseconds(key: &Key) {
    let record = &key.record;
    let mut times = vec![
        Some(record.created_at),
        record.expires_at,
        record.revoked_at,
    ];
    for credential in &key.credentials {
        times.push(Some(credential.created_at));
        times.push(credential.expires_at);
        times.push(credential.last_used_at);
    }
    for time in times.into_iter().flatten() {
        assert_eq!(time.as_nanosecond() % 1_000, 0, "{time}");
    }
}

#[tokio::test]
async fn the_last_use_is_kept_to_the_microsecond() {
    over_each_store(async |keys, _| {
        let issued = keys.issue(billing()).await.unwrap();
        let text = issued.secret().expose();
        verify(keys.verifier(), text).await.unwrap();
        keys.flush().await.unwrap();
        let key = keys.get(issued.key().record.id).await.unwrap();
        assert_eq!(key.last_used_at(), Some(keys.now()));
    })
    .await;
}

#[tokio::test]
async fn records_survive_serde() {
    fn assert_round_trip<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(value: &T) {
        let json = serde_json::to_string(value).unwrap();
        assert_eq!(serde_json::from_str::<T>(&json).unwrap(), *value, "{json}");
    }
    over_each_store(async |keys, clock| {
        let new = billing()
            .owner("acme \"quoted\" 🔑")
            .limit(RateLimit::per_minute(5))
            .expires_at(Timestamp::MAX)
            .metadata("a", "two\nlines")
            .allowed_addresses(["0.0.0.0/0".parse().unwrap(), "::1/128".parse().unwrap()]);
        let issued = keys.issue(new).await.unwrap();
        let id = issued.key().record.id;
        let attempt = Attempt::new(issued.secret().expose());
        let attempt = attempt.from_address(IpAddr::from([10, 0, 0, 1]));
        let needs = Requirements::new();
        keys.verifier().verify(attempt, &needs).await.unwrap();
        keys.flush().await.unwrap();
        keys.rotate(id, DAY).await.unwrap();
        clock.advance(SECOND);
        let key = keys.revoke(id).await.unwrap();
        assert_round_trip(key.key());
        assert_round_trip(&key.record);
        assert_round_trip(&key.record.limits);
        assert_round_trip(&key.record.scopes);
        assert_round_trip(&key.record.status(keys.now()));
        for credential in &key.credentials {
            assert_round_trip(credential);
            assert_round_trip(&credential.digest);
            assert_round_trip(&UsageDelta {
                key: id,
                credential: credential.digest,
                hour: key.record.created_at,
                allowed: u64::MAX,
                denied: 0,
                last_used_at: credential.last_used_at,
            });
        }
        for event in keys.events(id, None, 100).await.unwrap().events {
            assert_round_trip(&event);
        }
        let usage = keys.usage(id, Timestamp::MIN, Timestamp::MAX).await;
        assert_round_trip(&usage.unwrap());
    })
    .await;
}

#[tokio::test]
async fn a_principal_tells_what_the_key_is() {
    over_each_store(async |keys, _| {
        let new = billing()
            .owner("acme")
            .expires_at(keys.now() + DAY)
            .metadata("plan", "gold");
        let old = keys.issue(new).await.unwrap();
        let id = old.key().record.id;
        let new = keys.rotate(id, MINUTE).await.unwrap();
        for (issued, end) in [(&old, MINUTE), (&new, DAY)] {
            let attempt = Attempt::new(issued.secret().expose());
            let verified = keys.verifier().verify(attempt, &Requirements::new()).await;
            let (principal, _) = verified.unwrap().into_parts();
            assert_eq!(principal.key_id(), id);
            assert_eq!(principal.name(), "billing");
            assert_eq!(principal.owner(), Some("acme"));
            assert_eq!(
                (principal.prefix(), principal.environment()),
                ("sk", "live")
            );
            assert_eq!(principal.metadata()["plan"], "gold");
            assert_eq!(principal.credential_start(), issued.secret().start());
            assert_eq!(principal.expires_at(), Some(keys.now() + end));
            assert!(principal.require("orders:read").is_ok());
            for refused in ["orders:write", "orders:*", "*", "no scope"] {
                let denial = principal.require(refused).unwrap_err();
                assert_eq!(denial.reason(), DenialReason::Scope);
            }
        }
    })
    .await;
}
