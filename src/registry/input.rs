use std::collections::BTreeMap;

use ipnet::IpNet;
use jiff::Timestamp;

use super::KeyError;
use super::checks::{
    check_text, checked_addresses, checked_end, checked_limits, checked_metadata, checked_name,
    checked_scopes, plan, valid_scopes,
};
use crate::key::{KeyDigest, KeyFormat};
use crate::limit::RateLimit;
use crate::record::{Credential, Credits, KeyId, KeyRecord};
use crate::scope::Scope;

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

    /// What it may do, beside what was named before. At most
    /// [`ScopeSet::MAX_LEN`](crate::ScopeSet::MAX_LEN). Default: nothing that takes a scope.
    pub fn scopes<S: Into<String>>(mut self, scopes: impl IntoIterator<Item = S>) -> Self {
        self.scopes.extend(scopes.into_iter().map(Into::into));
        self
    }

    /// Adds a rate limit. At most [`RateLimits::MAX_LEN`](crate::RateLimits::MAX_LEN), each with
    /// another name. Default: none, so that a layer's defaults apply.
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

    /// The scopes that it grants, as far as they are valid.
    pub(super) fn granted(&self) -> impl Iterator<Item = Scope> + '_ {
        valid_scopes(&self.scopes)
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

    /// Returns true where the key is switched off and nothing else changes.
    pub(super) fn only_disables(&self) -> bool {
        // Taken apart, so that a new field is not forgotten here.
        let Self {
            name,
            scopes,
            limits,
            credits,
            metadata,
            allowed_addresses,
            expires_at,
            enabled,
        } = self;
        *enabled == Some(false)
            && name.is_none()
            && scopes.is_none()
            && limits.is_none()
            && credits.is_none()
            && metadata.is_none()
            && allowed_addresses.is_none()
            && expires_at.is_none()
    }

    /// The scopes that it grants, as far as they are valid.
    pub(super) fn granted(&self) -> impl Iterator<Item = Scope> + '_ {
        self.scopes.iter().flat_map(|scopes| valid_scopes(scopes))
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
