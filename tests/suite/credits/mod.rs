//! Credits: a budget for each key that is never overspent.

mod answers;
mod edges;
mod histories;
mod leases;
mod refills;
mod sharing;

use futures_util::FutureExt;
use tower_api_key::{
    ApiKeys, Attempt, Credits, Denial, DenialKind, Issued, KeyId, NewKey, Requirements, Verified,
};

use crate::core_support::Bench;

/// A key with so many credits, and none after them.
fn with(credits: u64) -> NewKey {
    NewKey::named("x").credits(Credits::new(credits))
}

async fn issue(keys: &ApiKeys, new: NewKey) -> (KeyId, String) {
    let (secret, key) = keys.issue(new).await.unwrap().into_parts();
    (key.record.id, secret.expose().to_owned())
}

/// One request of this cost.
async fn spend(keys: &ApiKeys, text: &str, cost: u64) -> Result<Verified, Denial> {
    let needs = Requirements::new().cost(cost);
    keys.verifier().verify(Attempt::new(text), &needs).await
}

/// Whether it is let through; the only other answer may be that too few credits remain.
async fn admits(keys: &ApiKeys, text: &str, cost: u64) -> bool {
    match spend(keys, text, cost).await {
        Ok(_) => true,
        Err(denial) => {
            assert_eq!(denial.kind(), DenialKind::CreditsExhausted, "{denial:?}");
            false
        }
    }
}

/// What is left, as this instance tells it.
async fn left(keys: &ApiKeys, id: KeyId) -> u64 {
    keys.credits(id).await.unwrap().unwrap().remaining
}

/// What the store has, without what instances have leased.
async fn stored(bench: &Bench, id: KeyId) -> u64 {
    left(&bench.elsewhere(), id).await
}

/// Requests of cost 1, and how many are let through without anybody waiting for anything.
fn rush(keys: &ApiKeys, text: &str, requests: usize) -> usize {
    let admitted = |_: &usize| {
        let outcome = spend(keys, text, 1).now_or_never();
        outcome.is_some_and(|outcome| outcome.is_ok())
    };
    (0..requests).filter(admitted).count()
}

fn text(issued: &Issued) -> &str {
    issued.secret().expose()
}
