//! What a rotation changes, and what it leaves as it was.

use std::time::Duration;

use jiff::Timestamp;
use tower_api_key::{
    ApiKeys, DenialReason, EventAction, Issued, KeyDigest, KeyErrorKind, RateLimit,
};

use super::{DAY, MINUTE, actions, billing, kind, over_each_store};
use crate::core_support::{SECOND, refusal, verify};

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

#[tokio::test]
async fn a_key_has_twenty_live_credentials_at_most() {
    over_each_store(async |keys, clock| {
        let first = keys.issue(billing()).await.unwrap();
        let id = first.key().record.id;
        // The key's nineteen others end one after another, and the newest has no end.
        for minutes in 1..20 {
            keys.rotate(id, minutes * MINUTE).await.unwrap();
        }
        let before = keys.get(id).await.unwrap();
        assert_eq!(before.credentials.len(), 20);
        let refused = keys.rotate(id, SECOND).await.unwrap_err();
        assert_eq!(refused.kind(), KeyErrorKind::TooManyCredentials);
        assert!(refused.to_string().contains(&id.to_string()), "{refused}");
        assert_eq!(keys.get(id).await.unwrap(), before, "nothing was changed");
        verify(keys.verifier(), first.secret().expose())
            .await
            .unwrap();

        // When one has ended there is room for one.
        clock.advance(MINUTE);
        keys.rotate(id, DAY).await.unwrap();
        assert_eq!(
            kind(keys.rotate(id, DAY).await),
            KeyErrorKind::TooManyCredentials
        );
        // After a leak there is always room.
        let only = keys.rotate(id, Duration::ZERO).await.unwrap();
        let now = keys.now();
        let live = only
            .key()
            .credentials
            .iter()
            .filter(|each| each.is_live(now));
        assert_eq!(live.count(), 1);
        verify(keys.verifier(), only.secret().expose())
            .await
            .unwrap();
    })
    .await;
}

#[tokio::test]
async fn credentials_that_ended_long_ago_are_deleted_and_their_events_stay() {
    over_each_store(async |keys, clock| {
        let kept_for = ApiKeys::ENDED_CREDENTIALS_KEPT_FOR;
        let microsecond = Duration::from_micros(1);
        let digest = KeyDigest::sha256("imported");
        let id = keys
            .import(billing(), digest, "imp")
            .await
            .unwrap()
            .record
            .id;
        let second = keys.rotate(id, MINUTE).await.unwrap();
        let third = keys.rotate(id, DAY).await.unwrap();
        // The first two have ended then, one day apart.
        clock.advance(MINUTE + kept_for.saturating_sub(microsecond));
        let starts = |issued: &Issued| {
            let credentials = issued.key().credentials.iter();
            credentials
                .map(|each| each.start.clone())
                .collect::<Vec<_>>()
        };
        let start = |issued: &Issued| issued.secret().start().to_owned();
        let fourth = keys.rotate(id, MINUTE).await.unwrap();
        let all = [
            "imp".to_owned(),
            start(&second),
            start(&third),
            start(&fourth),
        ];
        assert_eq!(starts(&fourth), all, "90 days are not over");

        clock.advance(DAY);
        let fifth = keys.rotate(id, MINUTE).await.unwrap();
        // An imported secret must not come back with the same import under another key.
        let kept = [
            "imp".to_owned(),
            start(&third),
            start(&fourth),
            start(&fifth),
        ];
        assert_eq!(starts(&fifth), kept);
        assert_eq!(keys.get(id).await.unwrap(), *fifth.key());
        assert_eq!(
            kind(keys.import(billing(), digest, "").await),
            KeyErrorKind::Duplicate
        );
        let outcome = verify(keys.verifier(), second.secret().expose()).await;
        assert_eq!(refusal(outcome), DenialReason::Unknown);

        let rotated = actions(&keys, id).await;
        assert_eq!(
            rotated,
            [
                [EventAction::Imported].as_slice(),
                &[EventAction::Rotated; 4]
            ]
            .concat()
        );
    })
    .await;
}

#[tokio::test]
async fn a_key_keeps_a_hundred_ended_credentials_at_most() {
    over_each_store(async |keys, clock| {
        let id = keys.issue(billing()).await.unwrap().key().record.id;
        let mut digests = Vec::new();
        for _ in 0..130 {
            clock.advance(SECOND);
            let rotated = keys.rotate(id, Duration::ZERO).await.unwrap();
            digests.push(rotated.key().credentials.last().unwrap().digest);
        }
        let key = keys.get(id).await.unwrap();
        let kept: Vec<_> = key.credentials.iter().map(|each| each.digest).collect();
        assert_eq!(kept, digests[130 - 101..], "those that ended last");
        let page = keys.events(id, None, 1_000).await.unwrap();
        assert_eq!(page.events.len(), 131);
    })
    .await;
}
