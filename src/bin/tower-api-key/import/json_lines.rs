use std::collections::BTreeMap;
use std::time::Duration;

use ipnet::IpNet;
use jiff::Timestamp;
use serde::{Deserialize, Deserializer};
use tower_api_key::{RateLimit, Refill};

use super::reason;
use super::row::Row;

/// A line's object: what the admin router takes of a new key, and the digest.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Object {
    digest: String,
    name: String,
    owner: Option<String>,
    prefix: Option<String>,
    environment: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    scopes: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    limits: Vec<Limit>,
    credits: Option<Budget>,
    expires_at: Option<Timestamp>,
    #[serde(default, deserialize_with = "or_default")]
    metadata: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "or_default")]
    allowed_addresses: Vec<IpNet>,
    start: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Limit {
    name: String,
    quota: u64,
    window_seconds: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Budget {
    remaining: u64,
    refill: Option<Refill>,
}

/// `null` says the same as nothing.
fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

pub(super) fn read(line: &[u8]) -> Result<Row, String> {
    // An array of the values would do for the reader.
    if !line.trim_ascii_start().starts_with(b"{") {
        return Err("a line has to be an object".to_owned());
    }
    let mut json = serde_json::Deserializer::from_slice(line);
    let object: Object =
        serde_path_to_error::deserialize(&mut json).map_err(|error| reason::of_json(&error))?;
    if json.end().is_err() {
        return Err("there is more behind the object".to_owned());
    }
    let limits = object.limits.iter().map(|limit| {
        let window = Duration::from_secs(limit.window_seconds);
        RateLimit::new(&limit.name, limit.quota, window).map_err(|error| format!("limits: {error}"))
    });
    Ok(Row {
        limits: limits.collect::<Result<_, _>>()?,
        credits: object.credits.as_ref().map(|budget| budget.remaining),
        refill: object.credits.and_then(|budget| budget.refill),
        digest: object.digest,
        name: object.name,
        owner: object.owner,
        prefix: object.prefix,
        environment: object.environment,
        scopes: object.scopes,
        expires_at: object.expires_at,
        metadata: object.metadata,
        allowed_addresses: object.allowed_addresses,
        start: object.start,
    })
}
