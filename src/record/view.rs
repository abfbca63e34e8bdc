use std::collections::BTreeMap;

use ipnet::IpNet;
use jiff::Timestamp;
use serde::Serialize;

use super::{
    Credential, CreditBalance, EventAction, Key, KeyEvent, KeyId, KeyRecord, KeyStatus, Refill,
};
use crate::limit::RateLimits;
use crate::scope::ScopeSet;

/// A key as it may be shown: serialized, it is the JSON that the admin router answers with. It has
/// no digest, and nothing that is added to the record gets into it by itself.
///
/// ```
/// use tower_api_key::{ApiKeys, KeyView, MemoryStore, NewKey};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let keys = ApiKeys::builder(MemoryStore::new()).build();
/// let issued = keys.issue(NewKey::named("billing")).await?;
/// let shown = serde_json::to_value(KeyView::new(issued.key(), keys.now()))?;
/// assert_eq!(shown["status"], "active");
/// assert!(shown["credentials"][0].get("digest").is_none());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Serialize)]
#[must_use]
pub struct KeyView<'a> {
    id: KeyId,
    name: &'a str,
    owner: Option<&'a str>,
    prefix: &'a str,
    environment: &'a str,
    status: KeyStatus,
    enabled: bool,
    scopes: &'a ScopeSet,
    limits: &'a RateLimits,
    /// Left out of a key that needs none.
    #[serde(skip_serializing_if = "Option::is_none")]
    credits: Option<CreditsView>,
    metadata: &'a BTreeMap<String, String>,
    allowed_addresses: &'a [IpNet],
    created_at: Timestamp,
    expires_at: Option<Timestamp>,
    revoked_at: Option<Timestamp>,
    last_used_at: Option<Timestamp>,
    credentials: Vec<CredentialView<'a>>,
    /// Left out unless it is false.
    #[serde(skip_serializing_if = "Clone::clone")]
    propagated: bool,
}

/// What is left of a key's budget.
#[derive(Clone, Copy, Debug, Serialize)]
struct CreditsView {
    remaining: u64,
    refill: Option<Refill>,
}

/// A credential of a key.
#[derive(Clone, Copy, Debug, Serialize)]
struct CredentialView<'a> {
    start: &'a str,
    created_at: Timestamp,
    expires_at: Option<Timestamp>,
    last_used_at: Option<Timestamp>,
}

impl<'a> KeyView<'a> {
    /// The key with its status at `now`.
    pub fn new(key: &'a Key, now: Timestamp) -> Self {
        // Taken apart, so that a new field of the record asks to be decided on here.
        let KeyRecord {
            id,
            version: _,
            name,
            owner,
            prefix,
            environment,
            scopes,
            limits,
            credits: _,
            metadata,
            allowed_addresses,
            enabled,
            created_at,
            expires_at,
            revoked_at,
        } = &key.record;
        Self {
            id: *id,
            name,
            owner: owner.as_deref(),
            prefix,
            environment,
            status: key.record.status(now),
            enabled: *enabled,
            scopes,
            limits,
            credits: None,
            metadata,
            allowed_addresses,
            created_at: *created_at,
            expires_at: *expires_at,
            revoked_at: *revoked_at,
            last_used_at: key.last_used_at(),
            credentials: key.credentials.iter().map(CredentialView::new).collect(),
            propagated: true,
        }
    }

    /// Shows what is left of the key's budget as well, if it has one. Default: nothing of it.
    pub fn credits(mut self, balance: impl Into<Option<CreditBalance>>) -> Self {
        self.credits = balance.into().map(|balance| CreditsView {
            remaining: balance.remaining,
            refill: balance.refill,
        });
        self
    }

    /// Says `"propagated": false` in the answer to a change that other instances could not be
    /// [notified](crate::Changed::is_propagated) of. Default: true, which is left out.
    pub fn propagated(mut self, propagated: bool) -> Self {
        self.propagated = propagated;
        self
    }
}

impl<'a> CredentialView<'a> {
    fn new(credential: &'a Credential) -> Self {
        let Credential {
            digest: _,
            pepper: _,
            start,
            imported: _,
            created_at,
            expires_at,
            last_used_at,
        } = credential;
        Self {
            start,
            created_at: *created_at,
            expires_at: *expires_at,
            last_used_at: *last_used_at,
        }
    }
}

/// An entry of a key's audit trail as it may be shown: serialized, it is the JSON that the admin
/// router answers with, in a list of entries of one key.
#[derive(Clone, Copy, Debug, Serialize)]
#[must_use]
pub struct KeyEventView<'a> {
    at: Timestamp,
    action: EventAction,
    actor: Option<&'a str>,
}

impl<'a> KeyEventView<'a> {
    /// The entry, without the key that it is about.
    pub fn new(event: &'a KeyEvent) -> Self {
        let KeyEvent {
            key: _,
            at,
            action,
            actor,
        } = event;
        Self {
            at: *at,
            action: *action,
            actor: actor.as_deref(),
        }
    }
}
