//! What is remembered of the store, and for how long it is trusted.

mod busy;
mod changes;
mod histories;
mod lookups;
mod misses;
mod outages;
mod replicas;
mod subscriptions;
mod times;

use std::time::Duration;

use tower_api_key::{ApiKeys, Issued, KeyDigest, NewKey};

use crate::core_support::Bench;

const TTL: Duration = Duration::from_mins(1);
const STALE: Duration = Duration::from_mins(10);

const IMPORTED: &str = "an-old-key-of-another-make";

async fn import(keys: &ApiKeys) {
    let new = NewKey::named("old").scopes(["orders:read"]);
    let digest = KeyDigest::sha256(IMPORTED);
    keys.import(new, digest, "an-old").await.unwrap();
}

async fn issue_many(bench: &Bench, keys: usize) -> Vec<Issued> {
    let mut issued = Vec::new();
    for _ in 0..keys {
        issued.push(bench.issue().await);
    }
    issued
}
