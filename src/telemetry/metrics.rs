use std::sync::LazyLock;
use std::time::Duration;

use metrics::{Counter, Histogram, Unit, counter, gauge, histogram};

use super::Path;
use crate::cache::{Cached, OutageKind};
use crate::credits::CreditOutage;
use crate::invalidation::Role;
use crate::record::{CreditGrant, CreditReturn};

const VERIFICATIONS: &str = "api_key_verifications_total";
const VERIFICATION_DURATION: &str = "api_key_verification_duration_seconds";
const CACHE_LOOKUPS: &str = "api_key_cache_lookups_total";
const CACHE_ENTRIES: &str = "api_key_cache_entries";
const STORE_LOOKUPS: &str = "api_key_store_lookups_total";
const STORE_LOOKUP_DURATION: &str = "api_key_store_lookup_duration_seconds";
const LIMITER_CALLS: &str = "api_key_limiter_calls_total";
const LIMITER_UP: &str = "api_key_limiter_up";
const BUS_UP: &str = "api_key_bus_up";
const BUS_PROOF_DURATION: &str = "api_key_bus_proof_duration_seconds";
const BUS_INVALIDATIONS: &str = "api_key_bus_invalidations_total";
const CREDIT_LEASES: &str = "api_key_credit_leases_total";
const CREDIT_RETURNS: &str = "api_key_credit_returns_total";
const CREDITS: &str = "api_key_credits_total";
const USAGE_FLUSHES: &str = "api_key_usage_flushes_total";

/// Tells the installed recorder what each metric means, which exporters pass on. Call it once,
/// after the recorder is installed.
pub fn describe() {
    let counter = |name: &'static str, text: &'static str| {
        metrics::describe_counter!(name, Unit::Count, text);
    };
    let seconds = |name: &'static str, text: &'static str| {
        metrics::describe_histogram!(name, Unit::Seconds, text);
    };
    let gauge = |name: &'static str, text: &'static str| {
        metrics::describe_gauge!(name, Unit::Count, text);
    };
    counter(VERIFICATIONS, "Requests that were let through or refused.");
    seconds(VERIFICATION_DURATION, "How long a verification took.");
    counter(CACHE_LOOKUPS, "Texts that were looked for in the cache.");
    gauge(
        CACHE_ENTRIES,
        "Entries that the cache held after the last lookup in the store.",
    );
    counter(STORE_LOOKUPS, "Lookups of keys in the store.");
    seconds(
        STORE_LOOKUP_DURATION,
        "How long a lookup in the store took.",
    );
    counter(LIMITER_CALLS, "Calls of the limiter in Redis.");
    gauge(LIMITER_UP, "Whether the limiter in Redis is asked.");
    gauge(BUS_UP, "Whether the invalidation bus is heard.");
    seconds(
        BUS_PROOF_DURATION,
        "How long the bus took to prove that it is heard.",
    );
    counter(BUS_INVALIDATIONS, "What was heard on the invalidation bus.");
    counter(CREDIT_LEASES, "Calls of the store that asked for credits.");
    counter(
        CREDIT_RETURNS,
        "Batches of credits given back to the store.",
    );
    counter(CREDITS, "Credits that were leased, given back or lost.");
    counter(USAGE_FLUSHES, "Batches of gathered use.");
}

/// For what happens with every request: to look a counter up costs more than to count.
#[inline]
fn increment(counter: &'static LazyLock<Counter>) {
    counter.increment(1);
}

#[inline]
pub(crate) fn allowed() {
    static ALLOWED: LazyLock<Counter> =
        LazyLock::new(|| counter!(VERIFICATIONS, "outcome" => "allowed"));
    increment(&ALLOWED);
}

pub(super) fn denied(reason: &'static str) {
    counter!(VERIFICATIONS, "outcome" => "denied", "reason" => reason).increment(1);
}

pub(crate) fn verified_in(time: Duration, path: Path) {
    static CACHE: LazyLock<Histogram> =
        LazyLock::new(|| histogram!(VERIFICATION_DURATION, "path" => "cache"));
    match path {
        Path::Cache => CACHE.record(time),
        Path::Limiter => histogram!(VERIFICATION_DURATION, "path" => "limiter").record(time),
        Path::Store => histogram!(VERIFICATION_DURATION, "path" => "store").record(time),
    }
}

#[inline]
pub(crate) fn cache_hit() {
    static HIT: LazyLock<Counter> = LazyLock::new(|| counter!(CACHE_LOOKUPS, "result" => "hit"));
    increment(&HIT);
}

pub(crate) fn cache_looked_up(found: &Cached) {
    match found {
        Cached::Hit(_) => cache_hit(),
        Cached::Unknown => counter!(CACHE_LOOKUPS, "result" => "unknown").increment(1),
        Cached::Absent => counter!(CACHE_LOOKUPS, "result" => "miss").increment(1),
    }
}

#[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
pub(crate) fn cache_entries(keys: u64, unknown: u64) {
    gauge!(CACHE_ENTRIES, "kind" => "keys").set(keys as f64);
    gauge!(CACHE_ENTRIES, "kind" => "unknown").set(unknown as f64);
}

/// It took so long, if it was made at all.
pub(crate) fn store_looked_up(outcome: Result<bool, OutageKind>, time: Option<Duration>) {
    let outcome = match outcome {
        Ok(true) => "found",
        Ok(false) => "unknown",
        Err(OutageKind::Deadline) => "deadline",
        Err(OutageKind::Overloaded) => "overloaded",
        Err(OutageKind::Store) => "failed",
    };
    counter!(STORE_LOOKUPS, "outcome" => outcome).increment(1);
    if let Some(time) = time {
        histogram!(STORE_LOOKUP_DURATION).record(time);
    }
}

#[cfg(feature = "redis")]
pub(crate) fn limiter_called(of: &'static str, answered: bool) {
    let outcome = if answered { "answered" } else { "failed" };
    counter!(LIMITER_CALLS, "limits" => of, "outcome" => outcome).increment(1);
}

#[cfg(feature = "redis")]
pub(crate) fn limiter_up(of: &'static str, up: bool) {
    gauge!(LIMITER_UP, "limits" => of).set(f64::from(u8::from(up)));
}

pub(crate) fn bus_up(role: Role, up: bool) {
    gauge!(BUS_UP, "bus" => role.as_str()).set(f64::from(u8::from(up)));
}

/// The bus has proved after so long that it is there, or has told of a change.
pub(crate) fn bus_told(role: Role, proof: Option<Duration>) {
    match proof {
        Some(time) => histogram!(BUS_PROOF_DURATION, "bus" => role.as_str()).record(time),
        None => counter!(BUS_INVALIDATIONS, "bus" => role.as_str()).increment(1),
    }
}

pub(crate) fn credits_asked_for(answer: &Result<CreditGrant, CreditOutage>) {
    let outcome = match answer {
        Ok(CreditGrant { granted: 0, .. }) => "short",
        Ok(_) => "granted",
        Err(CreditOutage::Deadline) => "deadline",
        Err(CreditOutage::NoBudget) => "no_budget",
        Err(CreditOutage::ReadOnly | CreditOutage::Store(_)) => "failed",
    };
    counter!(CREDIT_LEASES, "outcome" => outcome).increment(1);
    if let Ok(grant) = answer {
        counter!(CREDITS, "flow" => "leased").increment(grant.granted);
    }
}

pub(crate) fn credits_given_back(batch: &[CreditReturn], taken: bool) {
    let (outcome, flow) = if taken {
        ("written", "returned")
    } else {
        ("failed", "lost")
    };
    counter!(CREDIT_RETURNS, "outcome" => outcome).increment(1);
    let credits = batch.iter().map(|back| back.credits);
    counter!(CREDITS, "flow" => flow).increment(credits.fold(0, u64::saturating_add));
}

pub(crate) fn flushed(written: bool) {
    let outcome = if written { "written" } else { "failed" };
    counter!(USAGE_FLUSHES, "outcome" => outcome).increment(1);
}
