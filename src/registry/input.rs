use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use jiff::Timestamp;

use super::KeyError;
use crate::key::{KeyDigest, KeyFormat};
use crate::limit::{RateLimit, RateLimits};
use crate::record::{Credential, CreditPlan, Credits, KeyId, KeyRecord};
use crate::scope::ScopeSet;

/// What a new key shall be. Everything but the name has a default; values are checked when the
/// key is issued.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct NewKey {
    name: String,
    owner: Option<String>,
    prefix: Option<String>,
    environment: Option<String>,
    scopes: Vec<String>,
    limits: Vec<RateLimit>,
    credits: Option<Credits>,
    expires_at: Option<Timestamp>,
    metadata: BTreeMap<String, String>,
    allowed_addresses: Vec<IpNet>,
}

impl NewKey {
    /// A key called `name`: 1 to 200 characters, no control characters.
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ..Self::default()
        }
    }

    /// Whom it belongs to: 1 to 200 characters, no control characters. Default: nobody.
    pub fn owner(mut self, owner: impl Into<String>) -> Self {
        self.owner = Some(owner.into());
        self
    }

    /// What kind of key it is. Default: the format's first prefix.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = Some(prefix.into());
        self
    }

    /// Default: the format's first environment.
    pub fn environment(mut self, environment: impl Into<String>) -> Self {
        self.environment = Some(environment.into());
        self
    }

    /// What it may do, beside what was named before. At most [`ScopeSet::MAX_LEN`]. Default:
    /// nothing that takes a scope.
    pub fn scopes<S: Into<String>>(mut self, scopes: impl IntoIterator<Item = S>) -> Self {
        self.scopes.extend(scopes.into_iter().map(Into::into));
        self
    }

    /// Adds a rate limit. At most [`RateLimits::MAX_LEN`], each with another name. Default: none,
    /// so that a layer's defaults apply.
    pub fn limit(mut self, limit: RateLimit) -> Self {
        self.limits.push(limit);
        self
    }

    /// Its budget: each request takes its cost from it, and is refused when there is too little.
    /// Default: none is needed.
    pub fn credits(mut self, credits: impl Into<Option<Credits>>) -> Self {
        self.credits = credits.into();
        self
    }

    /// When it ends by itself, which must be in the future. Default: never.
    pub fn expires_at(mut self, end: Timestamp) -> Self {
        self.expires_at = Some(end);
        self
    }

    /// Adds something to keep with the key: at most 50 entries of 1 to 64 and at most 1,024
    /// characters.
    pub fn metadata(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(name.into(), value.into());
        self
    }

    /// The networks it may be used from, at most 100. Default: everywhere.
    pub fn allowed_addresses(mut self, networks: impl IntoIterator<Item = IpNet>) -> Self {
        self.allowed_addresses.extend(networks);
        self
    }

    pub(crate) fn into_record(
        self,
        format: &KeyFormat,
        now: Timestamp,
    ) -> Result<KeyRecord, KeyError> {
        let prefix = self
            .prefix
            .unwrap_or_else(|| format.default_prefix().to_owned());
        if !format.has_prefix(&prefix) {
            return Err(KeyError::invalid(
                "prefix",
                "the key format has no such prefix",
            ));
        }
        let environment = self
            .environment
            .unwrap_or_else(|| format.default_environment().to_owned());
        if !format.has_environment(&environment) {
            return Err(KeyError::invalid(
                "environment",
                "the key format has no such environment",
            ));
        }
        if let Some(owner) = &self.owner {
            check_text("owner", owner)?;
        }
        Ok(KeyRecord {
            id: KeyId::generate(now),
            version: 1,
            name: checked_name(self.name)?,
            owner: self.owner,
            prefix,
            environment,
            scopes: checked_scopes(&self.scopes)?,
            limits: checked_limits(self.limits)?,
            credits: self.credits.map(|new| plan(&new, 1)).transpose()?,
            metadata: checked_metadata(self.metadata)?,
            allowed_addresses: checked_addresses(self.allowed_addresses)?,
            enabled: true,
            created_at: now,
            expires_at: self
                .expires_at
                .map(|end| checked_end(end, now))
                .transpose()?,
            revoked_at: None,
        })
    }
}

/// What of a key shall change; whatever is not named stays as it is.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct KeyUpdate {
    name: Option<String>,
    scopes: Option<Vec<String>>,
    limits: Option<Vec<RateLimit>>,
    #[expect(
        clippy::option_option,
        reason = "no change, no budget and a budget are three things"
    )]
    credits: Option<Option<Credits>>,
    metadata: Option<BTreeMap<String, String>>,
    allowed_addresses: Option<Vec<IpNet>>,
    expires_at: Option<End>,
    enabled: Option<bool>,
}

/// When a key is to end: at a time, or never.
type End = Option<Timestamp>;

impl KeyUpdate {
    /// No change yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Another name.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// These scopes instead of those it has.
    pub fn scopes<S: Into<String>>(mut self, scopes: impl IntoIterator<Item = S>) -> Self {
        self.scopes = Some(scopes.into_iter().map(Into::into).collect());
        self
    }

    /// These limits instead of those it has. A limit that keeps its name and window keeps what
    /// was counted.
    pub fn limits(mut self, limits: impl IntoIterator<Item = RateLimit>) -> Self {
        self.limits = Some(limits.into_iter().collect());
        self
    }

    /// This budget instead of what it has or has left, from now on; or none, so that it needs no
    /// credits. What instances have leased of the old one can be spent until they hear of the
    /// change.
    pub fn credits(mut self, credits: impl Into<Option<Credits>>) -> Self {
        self.credits = Some(credits.into());
        self
    }

    /// This metadata instead of what it has.
    pub fn metadata(mut self, metadata: BTreeMap<String, String>) -> Self {
        self.metadata = Some(metadata);
        self
    }

    /// These networks instead of those it has.
    pub fn allowed_addresses(mut self, networks: impl IntoIterator<Item = IpNet>) -> Self {
        self.allowed_addresses = Some(networks.into_iter().collect());
        self
    }

    /// Another end, in the future, or none. A key that has expired keeps its end.
    pub fn expires_at(mut self, end: impl Into<Option<Timestamp>>) -> Self {
        self.expires_at = Some(end.into());
        self
    }

    /// Switches it on or off.
    pub fn enabled(mut self, enabled: bool) -> Self {
        self.enabled = Some(enabled);
        self
    }

    pub(super) fn applied_to(
        &self,
        record: &KeyRecord,
        now: Timestamp,
    ) -> Result<KeyRecord, KeyError> {
        let mut record = record.clone();
        if let Some(end) = self.expires_at {
            if record.expires_at.is_some_and(|end| now >= end) {
                return Err(KeyError::expired(record.id));
            }
            record.expires_at = end.map(|end| checked_end(end, now)).transpose()?;
        }
        if let Some(name) = &self.name {
            record.name = checked_name(name.clone())?;
        }
        if let Some(scopes) = &self.scopes {
            record.scopes = checked_scopes(scopes)?;
        }
        if let Some(limits) = &self.limits {
            record.limits = checked_limits(limits.clone())?;
        }
        if let Some(credits) = &self.credits {
            let version = record.version + 1;
            let plan = credits.as_ref().map(|new| plan(new, version));
            record.credits = plan.transpose()?;
        }
        if let Some(metadata) = &self.metadata {
            record.metadata = checked_metadata(metadata.clone())?;
        }
        if let Some(networks) = &self.allowed_addresses {
            record.allowed_addresses = checked_addresses(networks.clone())?;
        }
        record.enabled = self.enabled.unwrap_or(record.enabled);
        Ok(record)
    }
}

/// The credential of an imported key.
pub(super) fn imported_credential(
    digest: KeyDigest,
    start: &str,
    now: Timestamp,
) -> Result<Credential, KeyError> {
    if start.len() > 32 || !start.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(KeyError::invalid(
            "start",
            "at most 32 visible ASCII characters are allowed",
        ));
    }
    Ok(Credential {
        digest,
        pepper: None,
        start: start.to_owned(),
        imported: true,
        created_at: now,
        expires_at: None,
        last_used_at: None,
    })
}

/// `time` without what a store does not keep.
pub(super) fn to_microseconds(time: Timestamp) -> Timestamp {
    // `Timestamp::from_microsecond` refuses the last second that a timestamp can have.
    let micros = time.as_nanosecond().div_euclid(1_000);
    Timestamp::from_nanosecond(micros * 1_000).unwrap_or(time)
}

pub(crate) const MAX_TEXT: usize = 200;
pub(crate) const MAX_METADATA: usize = 50;
pub(crate) const MAX_METADATA_NAME: usize = 64;
pub(crate) const MAX_METADATA_VALUE: usize = 1_024;
pub(crate) const MAX_ADDRESSES: usize = 100;

fn check_text(field: &str, text: &str) -> Result<(), KeyError> {
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

fn checked_name(name: String) -> Result<String, KeyError> {
    check_text("name", &name)?;
    Ok(name)
}

fn checked_scopes(scopes: &[String]) -> Result<ScopeSet, KeyError> {
    ScopeSet::new(scopes).map_err(|error| KeyError::invalid("scopes", error))
}

fn checked_limits(limits: Vec<RateLimit>) -> Result<RateLimits, KeyError> {
    RateLimits::new(limits).map_err(|error| KeyError::invalid("limits", error))
}

/// The plan that the key's `version` brings.
fn plan(credits: &Credits, version: u64) -> Result<CreditPlan, KeyError> {
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

fn checked_end(end: Timestamp, now: Timestamp) -> Result<Timestamp, KeyError> {
    let end = to_microseconds(end);
    if end > now {
        Ok(end)
    } else {
        Err(KeyError::invalid("expires_at", "it must be in the future"))
    }
}

fn checked_metadata(
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

fn checked_addresses(networks: Vec<IpNet>) -> Result<Vec<IpNet>, KeyError> {
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
