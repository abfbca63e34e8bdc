//! Proofs of the bus, and the use of known keys when the bus, the store or both are away.

use std::time::Duration;

use tower_api_key::testing::{ManualClock, ScriptedStore};
use tower_api_key::{
    ApiKeys, CacheConfig, Denial, DenialReason, Issued, KeyId, MemoryStore, NewKey, OutageKind,
    Verified,
};

use super::TTL;
use crate::core_support::{NANOSECOND, almost, outage, refusal, settle, verify};
use crate::invalidation::ScriptedBus;

const SILENCE: Duration = Duration::from_secs(5);
const STALE: Duration = Duration::from_secs(30);

/// An instance with a bus, and one key that it knows.
struct Subscribed {
    store: ScriptedStore<MemoryStore>,
    clock: ManualClock,
    bus: ScriptedBus,
    keys: ApiKeys,
    elsewhere: ApiKeys,
    issued: Issued,
}

impl Subscribed {
    async fn new(stale_if_error: Duration) -> Self {
        let (memory, clock, bus) = (
            MemoryStore::new(),
            ManualClock::default(),
            ScriptedBus::new(),
        );
        let elsewhere = ApiKeys::builder(memory.clone()).clock(clock.clone());
        let elsewhere = elsewhere.build();
        let store = ScriptedStore::new(memory);
        let config = CacheConfig::default()
            .ttl(TTL)
            .stale_if_error(stale_if_error)
            .max_bus_silence(SILENCE);
        let builder = ApiKeys::builder(store.clone()).clock(clock.clone());
        let keys = builder.cache(config).bus(bus.clone()).build();
        bus.heard(1).await;
        let new = NewKey::named("x").scopes(["orders:read"]);
        let issued = elsewhere.issue(new).await.unwrap();
        let subscribed = Self {
            store,
            clock,
            bus,
            keys,
            elsewhere,
            issued,
        };
        subscribed.verify().await.unwrap();
        subscribed
    }

    fn id(&self) -> KeyId {
        self.issued.key().record.id
    }

    async fn verify(&self) -> Result<Verified, Denial> {
        verify(self.keys.verifier(), self.issued.secret().expose()).await
    }

    /// Lets time pass while the bus works.
    async fn pass(&self, time: Duration) {
        self.clock.advance(time);
        // The first answers a question that was asked before the time passed.
        self.bus.prove().await;
        self.bus.prove().await;
    }
}

#[tokio::test]
async fn after_the_last_proof_a_key_is_used_for_the_stated_time_and_no_longer() {
    // The TTL is longer than each of them.
    for stale_if_error in [Duration::ZERO, STALE] {
        let instance = Subscribed::new(stale_if_error).await;
        // It was read long before the proof.
        instance.pass(TTL / 2).await;
        instance.store.fail(true);
        // The bus is cut off, and nobody has noticed it yet.
        instance.clock.advance(almost(SILENCE));
        instance.verify().await.unwrap();
        if stale_if_error > Duration::ZERO {
            instance.clock.advance(NANOSECOND);
            instance.verify().await.unwrap();
            instance.clock.advance(almost(stale_if_error));
            instance.verify().await.unwrap();
        }
        instance.clock.advance(NANOSECOND);
        let outcome = instance.verify().await;
        assert_eq!(outage(outcome), OutageKind::Store);
        instance.store.fail(false);
        instance.verify().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_brief_return_of_bus_and_store_leaves_known_keys_usable() {
    let instance = Subscribed::new(STALE).await;
    for _ in 0..100 {
        // Both are there, but nobody asks for the key in that moment.
        instance.store.fail(false);
        instance.bus.fail().await;
        instance.store.fail(true);
        instance.verify().await.unwrap();
        instance.clock.advance(STALE / 100);
    }
    assert_eq!(instance.bus.subscriptions(), 101);
    // None of the subscriptions was a proof for what had been read before them.
    instance.clock.advance(almost(SILENCE));
    instance.verify().await.unwrap();
    instance.clock.advance(NANOSECOND);
    assert_eq!(outage(instance.verify().await), OutageKind::Store);
}

#[tokio::test(start_paused = true)]
async fn what_was_proved_before_a_subscription_ended_still_counts() {
    let instance = Subscribed::new(STALE).await;
    instance.pass(TTL / 2).await;
    instance.bus.fail().await;
    instance.pass(SILENCE / 2).await;
    instance.store.fail(true);
    // Half of the silence has passed.
    instance.clock.advance(almost(STALE + SILENCE / 2));
    instance.verify().await.unwrap();
    instance.clock.advance(NANOSECOND);
    assert_eq!(outage(instance.verify().await), OutageKind::Store);
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_known_to_have_changed_comes_back_with_no_return() {
    for change in 0..3 {
        let instance = Subscribed::new(STALE).await;
        match change {
            0 => instance.bus.say(&instance.id().to_string()).await,
            1 => instance.keys.verifier().invalidate(instance.id()),
            _ => instance.bus.say("*").await,
        }
        for _ in 0..3 {
            instance.bus.fail().await;
            instance.store.fail(true);
            assert_eq!(outage(instance.verify().await), OutageKind::Store);
            instance.store.fail(false);
        }
        instance.elsewhere.revoke(instance.id()).await.unwrap();
        instance.bus.fail().await;
        assert_eq!(refusal(instance.verify().await), DenialReason::Revoked);
        instance.store.fail(true);
        assert_eq!(refusal(instance.verify().await), DenialReason::Revoked);
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_was_down_is_asked_again_after_a_subscription() {
    let instance = Subscribed::new(STALE).await;
    instance.clock.advance(SILENCE);
    instance.store.fail(true);
    instance.verify().await.unwrap();
    // This instance alone was cut off.
    instance.elsewhere.revoke(instance.id()).await.unwrap();
    instance.verify().await.unwrap();
    instance.store.fail(false);
    instance.bus.fail().await;
    assert_eq!(refusal(instance.verify().await), DenialReason::Revoked);
}

#[tokio::test(start_paused = true)]
async fn a_lookup_from_before_a_subscription_is_no_proof_that_the_store_is_down() {
    let instance = Subscribed::new(STALE).await;
    let new = NewKey::named("y").scopes(["orders:read"]);
    let other = instance.elsewhere.issue(new).await.unwrap();
    let lookups = instance.store.lookups();
    instance.store.hold_lookups(true);
    let verifier = instance.keys.verifier().clone();
    let early = tokio::spawn(async move { verify(&verifier, other.secret().expose()).await });
    instance.store.begun(lookups + 1).await;
    instance.elsewhere.revoke(instance.id()).await.unwrap();
    instance.bus.fail().await;
    instance.store.fail(true);
    instance.store.hold_lookups(false);
    assert_eq!(outage(early.await.unwrap()), OutageKind::Store);
    instance.store.fail(false);
    assert_eq!(refusal(instance.verify().await), DenialReason::Revoked);
}

#[tokio::test(start_paused = true)]
async fn a_subscription_wins_over_a_lookup_in_flight() {
    let instance = Subscribed::new(STALE).await;
    instance.clock.advance(TTL);
    let lookups = instance.store.lookups();
    instance.store.hold_lookups(true);
    let text = instance.issued.secret().expose().to_owned();
    let begin = || {
        let (verifier, text) = (instance.keys.verifier().clone(), text.clone());
        tokio::spawn(async move { verify(&verifier, &text).await })
    };
    let early = begin();
    instance.store.begun(lookups + 1).await;
    instance.elsewhere.revoke(instance.id()).await.unwrap();
    instance.bus.fail().await;
    let joining = begin();
    settle().await;
    assert_eq!(
        instance.store.lookups(),
        lookups + 1,
        "it joined the flight"
    );
    instance.store.hold_lookups(false);
    assert_eq!(refusal(joining.await.unwrap()), DenialReason::Revoked);
    // It began before, so it may see either; it must only end.
    _ = early.await.unwrap();
    assert_eq!(refusal(instance.verify().await), DenialReason::Revoked);
}
