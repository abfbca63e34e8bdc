//! Bounds of the values of a key: what every change of one is checked for.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use jiff::Timestamp;

use super::KeyError;
use super::input::to_microseconds;
use crate::limit::{RateLimit, RateLimits};
use crate::record::{CreditPlan, Credits};
use crate::scope::{Scope, ScopeSet};

pub(crate) const MAX_TEXT: usize = 200;
pub(crate) const MAX_METADATA: usize = 50;
pub(crate) const MAX_METADATA_NAME: usize = 64;
pub(crate) const MAX_METADATA_VALUE: usize = 1_024;
pub(crate) const MAX_ADDRESSES: usize = 100;

pub(super) fn check_text(field: &str, text: &str) -> Result<(), KeyError> {
    if text.is_empty() || text.chars().nth(MAX_TEXT).is_some() {
        return Err(KeyError::invalid(field, "1 to 200 characters are needed"));
    }
    if text.chars().any(char::is_control) {
        return Err(KeyError::invalid(
            field,
            "control characters are not allowed",
        ));
    }
    Ok(())
}

pub(super) fn checked_name(name: String) -> Result<String, KeyError> {
    check_text("name", &name)?;
    Ok(name)
}

/// Those that are not valid fail the change with their field, once it is allowed.
pub(super) fn valid_scopes(scopes: &[String]) -> impl Iterator<Item = Scope> + '_ {
    scopes.iter().filter_map(|scope| Scope::new(scope).ok())
}

pub(super) fn checked_scopes(scopes: &[String]) -> Result<ScopeSet, KeyError> {
    ScopeSet::new(scopes).map_err(|error| KeyError::invalid("scopes", error))
}

pub(super) fn checked_limits(limits: Vec<RateLimit>) -> Result<RateLimits, KeyError> {
    RateLimits::new(limits).map_err(|error| KeyError::invalid("limits", error))
}

/// The plan that the key's `version` brings.
pub(super) fn plan(credits: &Credits, version: u64) -> Result<CreditPlan, KeyError> {
    let Credits { remaining, refill } = *credits;
    if remaining > Credits::MAX {
        let reason = format!("it must be 0 to {}", Credits::MAX);
        return Err(KeyError::invalid("credits.remaining", reason));
    }
    if refill.is_some_and(|refill| !(1..=Credits::MAX).contains(&refill.amount)) {
        let reason = format!("it must be 1 to {}", Credits::MAX);
        return Err(KeyError::invalid("credits.refill.amount", reason));
    }
    Ok(CreditPlan {
        granted: remaining,
        refill,
        since_version: version,
    })
}

pub(super) fn checked_end(end: Timestamp, now: Timestamp) -> Result<Timestamp, KeyError> {
    let end = to_microseconds(end);
    if end > now {
        Ok(end)
    } else {
        Err(KeyError::invalid("expires_at", "it must be in the future"))
    }
}

pub(super) fn checked_metadata(
    metadata: BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, KeyError> {
    let invalid = |reason| Err(KeyError::invalid("metadata", reason));
    if metadata.len() > MAX_METADATA {
        return invalid("at most 50 entries are allowed");
    }
    for (name, value) in &metadata {
        if name.is_empty() || name.chars().nth(MAX_METADATA_NAME).is_some() {
            return invalid("a name must have 1 to 64 characters");
        }
        if value.chars().nth(MAX_METADATA_VALUE).is_some() {
            return invalid("a value can have at most 1024 characters");
        }
        // PostgreSQL keeps no NUL in a text.
        if name.chars().any(char::is_control) || value.contains('\0') {
            return invalid("control characters are not allowed in a name, nor NUL in a value");
        }
    }
    Ok(metadata)
}

pub(super) fn checked_addresses(networks: Vec<IpNet>) -> Result<Vec<IpNet>, KeyError> {
    if networks.len() > MAX_ADDRESSES {
        return Err(KeyError::invalid(
            "allowed_addresses",
            "at most 100 networks are allowed",
        ));
    }
    Ok(networks.into_iter().map(to_canonical).collect())
}

/// A network of IPv4 addresses written as IPv6 ones (RFC 4291 §2.5.5.2) as what it is: addresses
/// are compared in that form.
fn to_canonical(network: IpNet) -> IpNet {
    const MAPPED_BITS: u8 = 96;
    let own_bits = network.prefix_len().checked_sub(MAPPED_BITS);
    match (network.addr().to_canonical(), own_bits) {
        (address @ IpAddr::V4(_), Some(bits)) => IpNet::new(address, bits).unwrap_or(network),
        _ => network,
    }
}
