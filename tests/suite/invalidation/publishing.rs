//! Changes that a bus does not take at once.

use std::time::Duration;

use tower_api_key::{ApiKeys, KeyDigest, KeyUpdate, MemoryStore, NewKey};

use super::{Instance, ScriptedBus, eventually};
use crate::core_support::SECOND;

#[tokio::test(start_paused = true)]
async fn what_could_not_be_published_is_made_up_for() {
    let (memory, bus) = (MemoryStore::new(), ScriptedBus::new());
    let here = Instance::of(&memory, bus.clone());
    bus.refuse_to_publish(true);
    let issued = here.issue().await;
    let id = issued.key().record.id;
    for _ in 0..20 {
        // One of them fails while another is being made up for.
        tokio::time::sleep(SECOND / 4).await;
        here.keys.disable(id).await.unwrap();
        here.keys.enable(id).await.unwrap();
    }
    here.keys.revoke(id).await.unwrap();
    assert!(bus.published().is_empty());
    bus.refuse_to_publish(false);
    assert!(eventually(async || !bus.published().is_empty()).await);
    assert_eq!(bus.published(), ["*"]);
    tokio::time::sleep(SECOND * 10).await;
    assert_eq!(bus.published(), ["*"], "once is enough");
}

#[tokio::test]
async fn a_change_that_could_not_be_published_says_so_until_it_is() {
    let (memory, bus) = (MemoryStore::new(), ScriptedBus::new());
    let here = Instance::of(&memory, bus.clone());
    let there = Instance::of(&memory, bus.clone());
    let issued = here.issue().await;
    assert!(issued.is_propagated());
    let id = issued.key().record.id;
    assert!(there.accepts(&issued).await);

    // Only this instance is cut off: to the other one the bus is as good as ever.
    bus.refuse_to_publish(true);
    let rename = || KeyUpdate::new().name("renamed");
    assert!(
        !here
            .keys
            .update(id, rename())
            .await
            .unwrap()
            .is_propagated()
    );
    assert!(!here.keys.disable(id).await.unwrap().is_propagated());
    assert!(!here.keys.enable(id).await.unwrap().is_propagated());
    let rotated = here.keys.rotate(id, Duration::ZERO).await.unwrap();
    assert!(!rotated.is_propagated());
    let digest = KeyDigest::sha256("elsewhere");
    let imported = here.keys.import(NewKey::named("x"), digest, "").await;
    assert!(!imported.unwrap().is_propagated());
    let revoked = here.keys.revoke(id).await.unwrap();
    assert!(!revoked.is_propagated() && revoked.record.revoked_at.is_some());
    assert!(!here.accepts(&rotated).await);
    assert!(there.accepts(&issued).await, "it cannot know yet");
    // It changes nothing any more, and the others do not know it any better.
    assert!(!here.keys.revoke(id).await.unwrap().is_propagated());

    // The same call again is how to notify them, also on another instance.
    bus.refuse_to_publish(false);
    let again = there.keys.revoke(id).await.unwrap();
    assert!(again.is_propagated());
    assert_eq!(*again, *revoked);
    assert!(
        bus.published()
            .iter()
            .any(|text| text.starts_with(&id.to_string()))
    );
    assert!(there.refuses_soon(&issued).await);
}

#[tokio::test]
async fn a_change_is_propagated_when_the_bus_that_is_trusted_has_it() {
    let buses = || (ScriptedBus::new(), ScriptedBus::new());
    for (first_refuses, second_refuses) in [(false, true), (true, false), (false, false)] {
        let (first, second) = buses();
        first.refuse_to_publish(first_refuses);
        second.refuse_to_publish(second_refuses);
        let builder = ApiKeys::builder(MemoryStore::new()).bus(first).bus(second);
        let issued = builder.build().issue(NewKey::named("x")).await.unwrap();
        assert_eq!(issued.is_propagated(), !first_refuses);
    }
    let alone = ApiKeys::builder(MemoryStore::new()).build();
    let issued = alone.issue(NewKey::named("x")).await.unwrap();
    assert!(issued.is_propagated(), "there is nobody else");
}
