//! The write side: what it changes, what it refuses, and what it leaves behind.

mod authority;
mod contention;
mod ends;
mod records;
mod rotations;
mod trail;
mod values;

use std::time::Duration;

use tower_api_key::testing::ManualClock;
use tower_api_key::{
    ApiKeys, EventAction, KeyError, KeyErrorKind, KeyFilter, KeyFormat, KeyId, KeyRepository,
    MemoryStore, NewKey, SqliteStore,
};

const MINUTE: Duration = Duration::from_mins(1);
const DAY: Duration = Duration::from_hours(24);

/// Runs `test` over every store that needs no server.
async fn over_each_store(test: impl AsyncFn(ApiKeys, ManualClock)) {
    async fn run<S: KeyRepository + Clone>(store: S, test: &impl AsyncFn(ApiKeys, ManualClock)) {
        // With all that a clock can show: what a store does not keep must be nowhere.
        let clock = ManualClock::new("2026-01-01T00:00:00.123456789Z".parse().unwrap());
        let format = KeyFormat::new("sk").prefix("pk");
        let builder = ApiKeys::builder(store).clock(clock.clone());
        test(builder.format(format).build(), clock).await;
    }
    run(MemoryStore::new(), &test).await;
    let store = SqliteStore::open("sqlite::memory:").await.unwrap();
    run(store, &test).await;
}

fn billing() -> NewKey {
    NewKey::named("billing").scopes(["orders:read"])
}

#[track_caller]
fn kind<T>(outcome: Result<T, KeyError>) -> KeyErrorKind {
    match outcome {
        Ok(_) => panic!("it was accepted"),
        Err(error) => error.kind(),
    }
}

/// Oldest first.
async fn actions(keys: &ApiKeys, id: KeyId) -> Vec<EventAction> {
    let page = keys.events(id, None, 100).await.unwrap();
    page.events.iter().rev().map(|event| event.action).collect()
}
