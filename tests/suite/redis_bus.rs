//! Invalidation over a real Redis.

use std::time::Duration;

use tokio::time::Instant;
use tower_api_key::{ApiKeys, Invalidation, InvalidationBus, MemoryStore, NewKey, RedisBus};

use crate::core_support::{SECOND, verify};
use crate::redis_server::{RedisServer, shared_url};

fn instance(memory: &MemoryStore, bus: &RedisBus) -> ApiKeys {
    ApiKeys::builder(memory.clone()).bus(bus.clone()).build()
}

async fn accepts(keys: &ApiKeys, text: &str) -> bool {
    verify(keys.verifier(), text).await.is_ok()
}

/// Whether it comes true before long.
async fn soon(condition: impl AsyncFn() -> bool) -> bool {
    let give_up = Instant::now() + SECOND * 10;
    while Instant::now() < give_up {
        if condition().await {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    false
}

#[tokio::test]
async fn what_one_instance_changes_holds_on_the_other() {
    let memory = MemoryStore::new();
    let bus = RedisBus::new(&shared_url()).unwrap();
    let channel = format!("test:{}", std::process::id());
    let (here, there) = (
        instance(&memory, &bus.clone().channel(&channel)),
        instance(&memory, &bus.clone().channel(&channel)),
    );
    let mut ear = bus.clone().channel(&channel).subscribe().await.unwrap();
    let mut other_ear = bus
        .channel(&format!("{channel}:other"))
        .subscribe()
        .await
        .unwrap();
    let new = NewKey::named("x").scopes(["orders:read"]);
    let issued = here.issue(new).await.unwrap();
    let (id, secret) = (issued.key().record.id, issued.secret().expose());
    assert!(accepts(&there, secret).await);
    here.revoke(id).await.unwrap();
    assert!(soon(async || !accepts(&there, secret).await).await);

    let told = async |ear: &mut Box<dyn tower_api_key::Subscription>| {
        ear.next(Instant::now() + SECOND).await.unwrap()
    };
    for _ in ["issued", "revoked"] {
        let Some(Invalidation::Key { id: of, digests }) = told(&mut ear).await else {
            panic!("both were told");
        };
        assert_eq!((of, digests.len()), (id, 1));
    }
    assert_eq!(told(&mut ear).await, None);
    assert_eq!(told(&mut other_ear).await, None, "another channel");
}

#[tokio::test]
async fn a_proof_is_due_though_messages_never_end() {
    let bus = RedisBus::new(&shared_url()).unwrap();
    let bus = bus.channel(&format!("test:busy:{}", std::process::id()));
    let mut ear = bus.subscribe().await.unwrap();
    for _ in 0..100 {
        bus.publish(&Invalidation::Everything).await.unwrap();
    }
    assert_eq!(ear.next(Instant::now()).await.unwrap(), None);
    // Those that came before the proof were kept.
    for _ in 0..100 {
        let next = ear.next(Instant::now() + SECOND).await.unwrap();
        assert_eq!(next, Some(Invalidation::Everything));
    }
}

#[tokio::test]
async fn a_redis_that_hangs_proves_nothing() {
    let server = RedisServer::start().await;
    let bus = RedisBus::new(&server.url()).unwrap();
    let mut ear = bus.subscribe().await.unwrap();
    assert_eq!(ear.next(Instant::now()).await.unwrap(), None);
    server.hang(true);
    assert!(ear.next(Instant::now()).await.is_err());
    server.hang(false);
}

#[tokio::test]
async fn a_redis_that_was_restarted_is_subscribed_to_again() {
    let mut server = RedisServer::start().await;
    let memory = MemoryStore::new();
    let here = instance(&memory, &RedisBus::new(&server.url()).unwrap());
    let elsewhere = ApiKeys::builder(memory).build();
    let new = NewKey::named("x").scopes(["orders:read"]);
    let issued = here.issue(new).await.unwrap();
    let (id, secret) = (issued.key().record.id, issued.secret().expose());
    assert!(accepts(&here, secret).await);
    server.kill();
    elsewhere.revoke(id).await.unwrap();
    server.restart().await;
    assert!(soon(async || !accepts(&here, secret).await).await);
}
