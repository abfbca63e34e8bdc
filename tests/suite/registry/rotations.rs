//! What a rotation changes, and what it leaves as it was.

use std::time::Duration;

use jiff::Timestamp;
use tower_api_key::{DenialReason, EventAction, RateLimit};

use super::{DAY, MINUTE, actions, billing, over_each_store};
use crate::core_support::{refusal, verify};

#[tokio::test]
async fn a_rotation_only_ever_shortens_what_was_before() {
    over_each_store(async |keys, clock| {
        let first = keys.issue(billing()).await.unwrap();
        let id = first.key().record.id;
        let second = keys.rotate(id, MINUTE).await.unwrap();
        // A longer grace gives the first no longer life, and the second its own.
        let third = keys.rotate(id, DAY).await.unwrap();
        let ends: Vec<_> = third
            .key()
            .credentials
            .iter()
            .map(|credential| credential.expires_at)
            .collect();
        let now = keys.now();
        assert_eq!(ends, [Some(now + MINUTE), Some(now + DAY), None]);
        let good = async || {
            let mut good = [false; 3];
            for (good, issued) in good.iter_mut().zip([&first, &second, &third]) {
                let outcome = verify(keys.verifier(), issued.secret().expose()).await;
                *good = outcome.is_ok();
            }
            good
        };
        assert_eq!(good().await, [true; 3]);
        clock.advance(MINUTE);
        assert_eq!(good().await, [false, true, true]);
        // One that has ended stays ended.
        let fourth = keys.rotate(id, DAY).await.unwrap();
        assert_eq!(good().await, [false, true, true]);
        assert_eq!(
            fourth.key().credentials[0].expires_at,
            Some(now + MINUTE),
            "and keeps its end"
        );
        // Without a grace the others end at once.
        let fifth = keys.rotate(id, Duration::ZERO).await.unwrap();
        assert_eq!(good().await, [false; 3]);
        let text = fifth.secret().expose();
        verify(keys.verifier(), text).await.unwrap();
        clock.advance(1_000 * DAY);
        verify(keys.verifier(), text).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_rotation_does_not_outlive_the_key() {
    over_each_store(async |keys, clock| {
        let new = billing().expires_at(keys.now() + MINUTE);
        let issued = keys.issue(new).await.unwrap();
        let rotated = keys.rotate(issued.key().record.id, DAY).await.unwrap();
        clock.advance(MINUTE);
        for issued in [issued, rotated] {
            let outcome = verify(keys.verifier(), issued.secret().expose()).await;
            assert_eq!(refusal(outcome), DenialReason::Expired);
        }
    })
    .await;
}

#[tokio::test]
async fn a_rotation_keeps_identity_use_and_limits() {
    over_each_store(async |keys, _| {
        let new = billing().owner("acme").limit(RateLimit::per_hour(3));
        let old = keys.issue(new).await.unwrap();
        let id = old.key().record.id;
        let text = old.secret().expose();
        verify(keys.verifier(), text).await.unwrap();
        let new = keys.rotate(id, DAY).await.unwrap();
        let mut record = new.key().record.clone();
        record.version = 1;
        assert_eq!(record, old.key().record);
        assert_ne!(new.secret().expose(), text);

        // Both secrets draw on one quota.
        verify(keys.verifier(), new.secret().expose())
            .await
            .unwrap();
        verify(keys.verifier(), text).await.unwrap();
        for issued in [&old, &new] {
            let outcome = verify(keys.verifier(), issued.secret().expose()).await;
            assert_eq!(refusal(outcome), DenialReason::Quota);
        }
        keys.flush().await.unwrap();
        let usage = keys.usage(id, Timestamp::MIN, Timestamp::MAX).await;
        let [bucket] = usage.unwrap()[..] else {
            panic!("it was used in one hour")
        };
        assert_eq!((bucket.allowed, bucket.denied), (3, 2));
        let expected = [EventAction::Issued, EventAction::Rotated];
        assert_eq!(actions(&keys, id).await, expected);
    })
    .await;
}

#[tokio::test]
async fn a_disabled_key_can_be_rotated_and_stays_disabled() {
    over_each_store(async |keys, _| {
        let issued = keys.issue(billing()).await.unwrap();
        let id = issued.key().record.id;
        keys.disable(id).await.unwrap();
        let rotated = keys.rotate(id, DAY).await.unwrap();
        let text = rotated.secret().expose();
        let outcome = verify(keys.verifier(), text).await;
        assert_eq!(refusal(outcome), DenialReason::Disabled);
        keys.enable(id).await.unwrap();
        verify(keys.verifier(), text).await.unwrap();
    })
    .await;
}
