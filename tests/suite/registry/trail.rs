//! What the audit trail tells.

use tower_api_key::{EventAction, EventPage, KeyDigest, KeyUpdate};

use super::{DAY, billing, over_each_store};
use crate::core_support::SECOND;

#[tokio::test]
async fn the_trail_tells_what_was_done_when_and_by_whom() {
    over_each_store(async |keys, clock| {
        let admin = keys.acting_as("key_of_the_admin");
        let issued = admin.issue(billing()).await.unwrap();
        let id = issued.key().record.id;
        clock.advance(SECOND);
        keys.update(id, KeyUpdate::new().name("other"))
            .await
            .unwrap();
        // What changes nothing leaves nothing behind.
        keys.update(id, KeyUpdate::new().name("other"))
            .await
            .unwrap();
        keys.enable(id).await.unwrap();
        keys.acting_as("first")
            .acting_as("second")
            .disable(id)
            .await
            .unwrap();
        admin.enable(id).await.unwrap();
        clock.advance(SECOND);
        admin.rotate(id, DAY).await.unwrap();
        admin.revoke(id).await.unwrap();
        let mut events = keys.events(id, None, 100).await.unwrap().events;
        events.reverse();
        let trail: Vec<_> = events
            .iter()
            .map(|event| (event.action, event.actor.as_deref()))
            .collect();
        let by = Some("key_of_the_admin");
        let expected = [
            (EventAction::Issued, by),
            (EventAction::Updated, None),
            (EventAction::Disabled, Some("second")),
            (EventAction::Enabled, by),
            (EventAction::Rotated, by),
            (EventAction::Revoked, by),
        ];
        assert_eq!(trail, expected);
        let began = issued.key().record.created_at;
        let seconds: Vec<_> = events
            .iter()
            .map(|event| event.at.duration_since(began).as_secs())
            .collect();
        assert_eq!(seconds, [0, 1, 1, 1, 2, 2]);
        assert!(events.iter().all(|event| event.key == id));
        let none = keys.events(id, None, 0).await.unwrap();
        assert_eq!(none, EventPage::default());

        let digest = KeyDigest::sha256("imported");
        let imported = admin.import(billing(), digest, "").await.unwrap();
        let events = keys.events(imported.record.id, None, 100).await.unwrap();
        let events = events.events;
        assert_eq!(events.len(), 1);
        assert_eq!(events[0].action, EventAction::Imported);
    })
    .await;
}

#[tokio::test]
async fn no_number_of_renames_hides_a_rotation() {
    over_each_store(async |keys, clock| {
        let id = keys.issue(billing()).await.unwrap().key().record.id;
        keys.rotate(id, DAY).await.unwrap();
        for name in 0..1_001 {
            let update = KeyUpdate::new().name(name.to_string());
            keys.update(id, update).await.unwrap();
        }
        clock.advance(SECOND);
        keys.disable(id).await.unwrap();

        let mut trail = Vec::new();
        let mut before = None;
        loop {
            let page = keys.events(id, before, 100).await.unwrap();
            trail.extend(page.events);
            assert!(trail.len() < 2_000, "pages go round in circles");
            before = page.next;
            if before.is_none() {
                break;
            }
        }
        let actions: Vec<_> = trail.iter().map(|event| event.action).collect();
        assert_eq!(actions.len(), 1_004);
        assert_eq!(actions[0], EventAction::Disabled);
        assert!(
            actions[1..1_002]
                .iter()
                .all(|action| *action == EventAction::Updated)
        );
        assert_eq!(
            actions[1_002..],
            [EventAction::Rotated, EventAction::Issued]
        );
    })
    .await;
}
