//! What has ended stays so.

use std::time::Duration;

use jiff::Timestamp;
use tower_api_key::{DenialReason, EventAction, KeyErrorKind, KeyStatus, KeyUpdate};

use super::{DAY, MINUTE, actions, billing, kind, over_each_store};
use crate::core_support::{SECOND, refusal, verify};

#[tokio::test]
async fn nothing_revoked_comes_back() {
    over_each_store(async |keys, clock| {
        let issued = keys.issue(billing()).await.unwrap();
        let id = issued.key().record.id;
        let revoked = keys.revoke(id).await.unwrap();
        assert_eq!(revoked.record.revoked_at, Some(keys.now()));
        clock.advance(SECOND);
        for refused in [
            kind(keys.enable(id).await),
            kind(keys.disable(id).await),
            kind(keys.rotate(id, DAY).await),
            kind(keys.update(id, KeyUpdate::new().name("other")).await),
            kind(keys.update(id, KeyUpdate::new().expires_at(None)).await),
        ] {
            assert_eq!(refused, KeyErrorKind::Revoked);
        }
        // Again is no change, and no second event.
        assert_eq!(keys.revoke(id).await.unwrap(), revoked);
        assert_eq!(keys.get(id).await.unwrap(), *revoked);
        let expected = [EventAction::Issued, EventAction::Revoked];
        assert_eq!(actions(&keys, id).await, expected);
        let outcome = verify(keys.verifier(), issued.secret().expose()).await;
        assert_eq!(refusal(outcome), DenialReason::Revoked);
    })
    .await;
}

#[tokio::test]
async fn nothing_expired_comes_back() {
    over_each_store(async |keys, clock| {
        let new = billing().expires_at(keys.now() + MINUTE);
        let issued = keys.issue(new).await.unwrap();
        let id = issued.key().record.id;
        let later = keys.now() + DAY;
        // To the microsecond that stores keep.
        clock.advance(MINUTE.saturating_sub(Duration::from_micros(1)));
        keys.disable(id).await.unwrap();
        clock.advance(Duration::from_micros(1));
        for refused in [
            kind(keys.rotate(id, DAY).await),
            kind(keys.update(id, KeyUpdate::new().expires_at(later)).await),
            kind(keys.update(id, KeyUpdate::new().expires_at(None)).await),
        ] {
            assert_eq!(refused, KeyErrorKind::Expired);
        }
        // It can be renamed and switched on, and has expired all the same.
        keys.update(id, KeyUpdate::new().name("old")).await.unwrap();
        keys.enable(id).await.unwrap();
        let outcome = verify(keys.verifier(), issued.secret().expose()).await;
        assert_eq!(refusal(outcome), DenialReason::Expired);
        let key = keys.revoke(id).await.unwrap();
        assert_eq!(key.record.status(keys.now()), KeyStatus::Revoked);
    })
    .await;
}

#[tokio::test]
async fn an_end_can_be_moved_until_it_has_come() {
    over_each_store(async |keys, clock| {
        let new = billing().expires_at(keys.now() + MINUTE);
        let issued = keys.issue(new).await.unwrap();
        let id = issued.key().record.id;
        let end = |end: Option<Timestamp>| KeyUpdate::new().expires_at(end);
        let good = async || {
            verify(keys.verifier(), issued.secret().expose())
                .await
                .is_ok()
        };
        keys.update(id, end(Some(keys.now() + 2 * MINUTE)))
            .await
            .unwrap();
        clock.advance(MINUTE);
        assert!(good().await);
        keys.update(id, end(None)).await.unwrap();
        clock.advance(MINUTE);
        assert!(good().await);
        keys.update(id, end(Some(keys.now() + SECOND)))
            .await
            .unwrap();
        clock.advance(SECOND);
        assert!(!good().await);
    })
    .await;
}
