use std::collections::BTreeMap;

use ipnet::IpNet;
use jiff::Timestamp;
use tower_api_key::{KeyDigest, KeyImport, NewKey, RateLimit, Refill};

use crate::values;

/// The fields of a JSON line. CSV has the same and `refill`, which is a part of `credits` here.
pub(super) const FIELDS: [&str; 12] = [
    "allowed_addresses",
    "credits",
    "digest",
    "environment",
    "expires_at",
    "limits",
    "metadata",
    "name",
    "owner",
    "prefix",
    "scopes",
    "start",
];

/// What a line says of a key, whichever format it is in.
#[derive(Default)]
pub(super) struct Row {
    pub(super) digest: String,
    pub(super) name: String,
    pub(super) owner: Option<String>,
    pub(super) prefix: Option<String>,
    pub(super) environment: Option<String>,
    pub(super) scopes: Vec<String>,
    pub(super) limits: Vec<RateLimit>,
    pub(super) credits: Option<u64>,
    pub(super) refill: Option<Refill>,
    pub(super) expires_at: Option<Timestamp>,
    pub(super) metadata: BTreeMap<String, String>,
    pub(super) allowed_addresses: Vec<IpNet>,
    pub(super) start: Option<String>,
}

impl Row {
    /// Everything else is checked by the registry.
    pub(super) fn into_import(self) -> Result<KeyImport, String> {
        let digest: KeyDigest = self
            .digest
            .parse()
            .map_err(|error| format!("digest: {error}"))?;
        let mut new = NewKey::named(self.name)
            .scopes(self.scopes)
            .allowed_addresses(self.allowed_addresses);
        if let Some(owner) = self.owner {
            new = new.owner(owner);
        }
        if let Some(prefix) = self.prefix {
            new = new.prefix(prefix);
        }
        if let Some(environment) = self.environment {
            new = new.environment(environment);
        }
        for limit in self.limits {
            new = new.limit(limit);
        }
        if let Some(credits) = values::budget(self.credits, self.refill) {
            new = new.credits(credits);
        }
        if let Some(end) = self.expires_at {
            new = new.expires_at(end);
        }
        for (name, value) in self.metadata {
            new = new.metadata(name, value);
        }
        let import = KeyImport::new(new, digest);
        Ok(match self.start {
            Some(start) => import.start(start),
            None => import,
        })
    }
}
