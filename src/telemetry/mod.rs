//! What logs and metrics are told of.
//!
//! # Logs
//!
//! By [`tracing`]. A request that is let through runs in a span `api_key`; one that is refused is
//! an event. Both have the same fields:
//!
//! | field | |
//! | --- | --- |
//! | `key.id`, `key.environment`, `key.owner` | of the key, where the credential is one that is stored |
//! | `outcome` | `allowed` or `denied` |
//! | `reason` | why it was denied: the true [reason](crate::DenialReason), which the client is not told |
//!
//! The span's target is `tower_api_key::span`: to format it costs a subscriber as much as to verify
//! the key, so where nobody needs it, `tower_api_key::span=off` spares that.
//!
//! Never a secret, and never a digest. A flood of bad keys does not flood the logs: of bad
//! credentials, of refused keys, of keys disabled for being sent in clear text and of outages, 20 a
//! second each are written, and the next one says how many were left out (`untold`).
//!
//! # Metrics
//!
//! By the [`metrics`](https://docs.rs/metrics) facade, with the feature `metrics`. Install a
//! recorder before the first request. No label has more than a few values: none is the id of a key.
//!
//! | name | kind | labels |
//! | --- | --- | --- |
//! | `api_key_verifications_total` | counter | `outcome` (`allowed`, `denied`), `reason` where denied |
//! | `api_key_verification_duration_seconds` | histogram | `path`: `cache`, of which one in 64 is measured, `store`, `limiter` |
//! | `api_key_cache_lookups_total` | counter | `result`: `hit`, `unknown` (a miss that is remembered), `miss` |
//! | `api_key_cache_entries` | gauge | `kind`: `keys`, `unknown`; entries that an invalidation has made useless count until they are replaced |
//! | `api_key_store_lookups_total` | counter | `outcome`: `found`, `unknown`, `failed`, `deadline`, `overloaded` |
//! | `api_key_store_lookup_duration_seconds` | histogram | |
//! | `api_key_limiter_calls_total` | counter | `limits`: `keys`, `addresses` (failed attempts), `outcome`: `answered`, `failed` |
//! | `api_key_limiter_up` | gauge | `limits`: 1 while Redis is asked, 0 while requests follow the outage policy |
//! | `api_key_bus_up` | gauge | `bus`: `trusted`, `beside` |
//! | `api_key_bus_proof_duration_seconds` | histogram | `bus`: how long it took to prove that it is there, and so how late a message can be |
//! | `api_key_bus_invalidations_total` | counter | `bus` |
//! | `api_key_credit_leases_total` | counter | `outcome` of asking the store for credits: `granted`, `short`, `failed`, `deadline`, `no_budget` (taken away meanwhile) |
//! | `api_key_credit_returns_total` | counter | `outcome` of giving a batch of leases back: `written`, `failed` |
//! | `api_key_credits_total` | counter | `flow`: `leased`, `returned`, `lost` (by a return that failed) |
//! | `api_key_usage_flushes_total` | counter | `outcome`: `written`, `failed` |
//!
//! A request that an inner layer refuses counts as allowed by the outer one and as denied by that.

mod budget;
#[cfg(feature = "metrics")]
mod metrics;
#[cfg(not(feature = "metrics"))]
#[path = "no_metrics.rs"]
mod metrics;

use std::error::Error;
use std::fmt;

use tracing::level_filters::LevelFilter;
use tracing::{Level, Span};

pub(crate) use self::budget::LogBudgets;
#[cfg(feature = "metrics")]
pub use self::metrics::describe;
pub(crate) use self::metrics::{
    allowed, bus_told, bus_up, cache_entries, cache_hit, cache_looked_up, credits_asked_for,
    credits_given_back, flushed, store_looked_up, verified_in,
};
#[cfg(feature = "redis")]
pub(crate) use self::metrics::{limiter_called, limiter_up};

use crate::cache::CachedKey;
use crate::clock::Moment;
use crate::denial::{Denial, DenialKind};

/// In which a request runs that was let through.
#[inline]
pub(crate) fn span(key: &CachedKey) -> Span {
    // Where nobody listens, even a span that is off costs as much as a limit: some crates make
    // `tracing` tell the `log` crate of it.
    if LevelFilter::current() < Level::INFO {
        return Span::none();
    }
    open_span(key)
}

#[inline(never)]
fn open_span(key: &CachedKey) -> Span {
    tracing::info_span!(
        target: "tower_api_key::span",
        "api_key",
        key.id = %key.record.id,
        key.environment = &*key.record.environment,
        key.owner = key.record.owner.as_deref(),
        outcome = "allowed",
        reason = tracing::field::Empty,
    )
}

/// Tells of a request that was refused.
pub(crate) fn denied(denial: &Denial, budgets: &LogBudgets, now: Moment) {
    let reason = denial.reason().as_str();
    metrics::denied(reason);
    let key = denial.key();
    let is_outage = denial.kind() == DenialKind::Unavailable;
    let budget = match key {
        _ if is_outage => &budgets.outages,
        Some(_) => &budgets.keys,
        None => &budgets.strangers,
    };
    let Some(untold) = budget.spend(now) else {
        return;
    };
    let untold = (untold > 0).then_some(untold);
    let id = key.map(|key| tracing::field::display(key.record.id));
    let environment = key.map(|key| &*key.record.environment);
    let owner = key.and_then(|key| key.record.owner.as_deref());
    if is_outage {
        tracing::error!(
            key.id = id,
            key.environment = environment,
            key.owner = owner,
            outcome = "denied",
            reason,
            error = denial.source(),
            untold,
            "a request was refused because its key cannot be verified"
        );
    } else {
        tracing::info!(
            key.id = id,
            key.environment = environment,
            key.owner = owner,
            outcome = "denied",
            reason,
            untold,
            "a request was refused"
        );
    }
}

/// Logs that a key was disabled because it was sent in clear text.
pub(crate) fn exposed_key_disabled(id: impl fmt::Display, budgets: &LogBudgets, now: Moment) {
    if let Some(untold) = budgets.exposures.spend(now) {
        tracing::warn!(
            key.id = %id,
            untold = (untold > 0).then_some(untold),
            "a key was sent in clear text and is disabled"
        );
    }
}

/// Logs that a key which was sent in clear text could not be looked up, or not be disabled.
pub(crate) fn exposed_key_unchanged(
    error: &(dyn Error + 'static),
    budgets: &LogBudgets,
    now: Moment,
) {
    if let Some(untold) = budgets.outages.spend(now) {
        tracing::error!(
            error,
            untold = (untold > 0).then_some(untold),
            "a key that was sent in clear text could not be disabled"
        );
    }
}

/// On which way a verification came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Path {
    Cache,
    Limiter,
    Store,
}
