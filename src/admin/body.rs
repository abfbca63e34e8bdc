//! The JSON of the answers. Each shape names its members one by one, so that nothing which is
//! added to what is stored, least of all a digest, gets into an answer by itself.

use std::collections::BTreeMap;

use ipnet::IpNet;
use jiff::Timestamp;
use serde::Serialize;

use crate::limit::RateLimits;
use crate::record::{
    Credential, CreditBalance, EventAction, Key, KeyEvent, KeyId, KeyRecord, KeyStatus, Refill,
    UsageBucket,
};
use crate::registry::Issued;
use crate::scope::ScopeSet;
use crate::store::KeyPage;

/// A key.
#[derive(Serialize)]
pub(super) struct KeyBody<'a> {
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
    credits: Option<CreditsBody>,
    metadata: &'a BTreeMap<String, String>,
    allowed_addresses: &'a [IpNet],
    created_at: Timestamp,
    expires_at: Option<Timestamp>,
    revoked_at: Option<Timestamp>,
    last_used_at: Option<Timestamp>,
    credentials: Vec<CredentialBody<'a>>,
}

/// What is left of a key's budget.
#[derive(Serialize)]
struct CreditsBody {
    remaining: u64,
    refill: Option<Refill>,
}

/// A credential of a key.
#[derive(Serialize)]
struct CredentialBody<'a> {
    start: &'a str,
    created_at: Timestamp,
    expires_at: Option<Timestamp>,
    last_used_at: Option<Timestamp>,
}

impl<'a> KeyBody<'a> {
    /// A key and, if it has a budget, its balance among `balances`.
    pub(super) fn new(key: &'a Key, balances: &[(KeyId, CreditBalance)], now: Timestamp) -> Self {
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
            credits: balances
                .iter()
                .find(|(of, _)| of == id)
                .map(|(_, balance)| CreditsBody {
                    remaining: balance.remaining,
                    refill: balance.refill,
                }),
            metadata,
            allowed_addresses,
            created_at: *created_at,
            expires_at: *expires_at,
            revoked_at: *revoked_at,
            last_used_at: key.last_used_at(),
            credentials: key.credentials.iter().map(CredentialBody::new).collect(),
        }
    }
}

impl<'a> CredentialBody<'a> {
    fn new(credential: &'a Credential) -> Self {
        Self {
            start: &credential.start,
            created_at: credential.created_at,
            expires_at: credential.expires_at,
            last_used_at: credential.last_used_at,
        }
    }
}

/// A new secret, this once, and its key.
#[derive(Serialize)]
pub(super) struct SecretBody<'a> {
    secret: &'a str,
    key: KeyBody<'a>,
}

impl<'a> SecretBody<'a> {
    pub(super) fn new(
        issued: &'a Issued,
        balances: &[(KeyId, CreditBalance)],
        now: Timestamp,
    ) -> Self {
        Self {
            secret: issued.secret().expose(),
            key: KeyBody::new(issued.key(), balances, now),
        }
    }
}

/// A page of keys.
#[derive(Serialize)]
pub(super) struct PageBody<'a> {
    keys: Vec<KeyBody<'a>>,
    next_cursor: Option<KeyId>,
}

impl<'a> PageBody<'a> {
    pub(super) fn new(
        page: &'a KeyPage,
        balances: &[(KeyId, CreditBalance)],
        now: Timestamp,
    ) -> Self {
        let keys = page.keys.iter();
        Self {
            keys: keys.map(|key| KeyBody::new(key, balances, now)).collect(),
            next_cursor: page.next,
        }
    }
}

/// How much a key was used.
#[derive(Serialize)]
pub(super) struct UsageBody {
    pub(super) buckets: Vec<UsageBucket>,
}

/// What was done to a key.
#[derive(Serialize)]
pub(super) struct EventsBody<'a> {
    events: Vec<EventBody<'a>>,
}

#[derive(Serialize)]
struct EventBody<'a> {
    at: Timestamp,
    action: EventAction,
    actor: Option<&'a str>,
}

impl<'a> EventsBody<'a> {
    pub(super) fn new(events: &'a [KeyEvent]) -> Self {
        let events = events.iter().map(|event| EventBody {
            at: event.at,
            action: event.action,
            actor: event.actor.as_deref(),
        });
        Self {
            events: events.collect(),
        }
    }
}
