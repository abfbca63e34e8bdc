//! What the audit trail tells.

use tower_api_key::{EventAction, KeyDigest, KeyUpdate};

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
        let events = keys.events(id, 100).await.unwrap();
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
        // The last ones, oldest first.
        assert_eq!(keys.events(id, 2).await.unwrap(), events[4..]);
        assert_eq!(keys.events(id, 0).await.unwrap(), []);

        let digest = KeyDigest::sha256("imported");
        let imported = admin.import(billing(), digest, "").await.unwrap();
        let events = keys.events(imported.record.id, 100).await.unwrap();
        assert_eq!(events.len(), 1);
        assert_eq!(events[0].action, EventAction::Imported);
    })
    .await;
}
