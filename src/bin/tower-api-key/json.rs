//! The JSON of the answers: the same shapes as those of the admin router. Each names its members one
//! by one, so that nothing which is added to what is stored, least of all a digest, gets into an
//! answer by itself.

use std::collections::BTreeMap;

use ipnet::IpNet;
use jiff::Timestamp;
use serde::Serialize;
use tower_api_key::{
    Credential, CreditBalance, EventAction, Issued, Key, KeyEvent, KeyId, KeyStatus, RateLimits,
    Refill, ScopeSet, UsageBucket,
};

/// A key.
#[derive(Serialize)]
pub(crate) struct KeyBody<'a> {
    id: KeyId,
    name: &'a str,
    owner: Option<&'a str>,
    prefix: &'a str,
    environment: &'a str,
    status: KeyStatus,
    enabled: bool,
    scopes: &'a ScopeSet,
    limits: &'a RateLimits,
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

#[derive(Serialize)]
struct CreditsBody {
    remaining: u64,
    refill: Option<Refill>,
}

#[derive(Serialize)]
struct CredentialBody<'a> {
    start: &'a str,
    created_at: Timestamp,
    expires_at: Option<Timestamp>,
    last_used_at: Option<Timestamp>,
}

impl<'a> KeyBody<'a> {
    /// A key, and what is left of its budget if it has one.
    pub(crate) fn new(key: &'a Key, balance: Option<CreditBalance>, now: Timestamp) -> Self {
        let record = &key.record;
        Self {
            id: record.id,
            name: &record.name,
            owner: record.owner.as_deref(),
            prefix: &record.prefix,
            environment: &record.environment,
            status: record.status(now),
            enabled: record.enabled,
            scopes: &record.scopes,
            limits: &record.limits,
            credits: balance.map(|left| CreditsBody {
                remaining: left.remaining,
                refill: left.refill,
            }),
            metadata: &record.metadata,
            allowed_addresses: &record.allowed_addresses,
            created_at: record.created_at,
            expires_at: record.expires_at,
            revoked_at: record.revoked_at,
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
pub(crate) struct SecretBody<'a> {
    secret: &'a str,
    key: KeyBody<'a>,
}

impl<'a> SecretBody<'a> {
    pub(crate) fn new(issued: &'a Issued, balance: Option<CreditBalance>, now: Timestamp) -> Self {
        Self {
            secret: issued.secret().expose(),
            key: KeyBody::new(issued.key(), balance, now),
        }
    }
}

/// A listing.
#[derive(Serialize)]
pub(crate) struct PageBody<'a> {
    pub(crate) keys: Vec<KeyBody<'a>>,
    pub(crate) next_cursor: Option<KeyId>,
}

/// How much a key was used.
#[derive(Serialize)]
pub(crate) struct UsageBody {
    pub(crate) buckets: Vec<UsageBucket>,
}

/// What was done to a key.
#[derive(Serialize)]
pub(crate) struct EventsBody<'a> {
    events: Vec<EventBody<'a>>,
}

#[derive(Serialize)]
struct EventBody<'a> {
    at: Timestamp,
    action: EventAction,
    actor: Option<&'a str>,
}

impl<'a> EventsBody<'a> {
    pub(crate) fn new(events: &'a [KeyEvent]) -> Self {
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
