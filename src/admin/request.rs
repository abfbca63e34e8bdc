//! The JSON of the requests, and what it becomes.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use ipnet::IpNet;
use jiff::Timestamp;
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};

use super::json::Object;
use crate::limit::{InvalidLimit, RateLimit};
use crate::record::{Credits, Refill, RefillEvery};
use crate::registry::{KeyError, KeyUpdate, NewKey};
use crate::scope::Scope;

/// `POST /keys`. `null` says the same as nothing for `owner`, `prefix`, `environment` and
/// `expires_at`.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewKeyBody {
    name: String,
    owner: Option<String>,
    prefix: Option<String>,
    environment: Option<String>,
    #[serde(default)]
    scopes: Vec<Scope>,
    #[serde(default)]
    limits: Vec<Object<LimitBody>>,
    credits: Option<Object<CreditsBody>>,
    expires_at: Option<Timestamp>,
    #[serde(default)]
    metadata: Metadata,
    #[serde(default)]
    allowed_addresses: Vec<IpNet>,
}

impl NewKeyBody {
    pub(super) fn into_new_key(self) -> Result<NewKey, KeyError> {
        let mut new = NewKey::named(self.name)
            .scopes(self.scopes.iter().map(Scope::as_str))
            .credits(self.credits.map(|Object(credits)| credits.into()))
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
        for limit in rate_limits(self.limits)? {
            new = new.limit(limit);
        }
        if let Some(end) = self.expires_at {
            new = new.expires_at(end);
        }
        for (name, value) in self.metadata.0 {
            new = new.metadata(name, value);
        }
        Ok(new)
    }
}

/// `PATCH /keys/{id}`. What is absent stays as it is; `expires_at: null` takes the end away and
/// `credits: null` the budget, and nothing else can be `null`.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeyPatch {
    #[serde(default, deserialize_with = "present")]
    name: Option<String>,
    #[serde(default, deserialize_with = "present")]
    scopes: Option<Vec<Scope>>,
    #[serde(default, deserialize_with = "present")]
    limits: Option<Vec<Object<LimitBody>>>,
    #[serde(default, deserialize_with = "present")]
    #[expect(
        clippy::option_option,
        reason = "absent, `null` and a budget mean three things"
    )]
    credits: Option<Option<Object<CreditsBody>>>,
    #[serde(default, deserialize_with = "present")]
    metadata: Option<Metadata>,
    #[serde(default, deserialize_with = "present")]
    allowed_addresses: Option<Vec<IpNet>>,
    #[serde(default, deserialize_with = "present")]
    #[expect(
        clippy::option_option,
        reason = "absent, `null` and a time mean three things"
    )]
    expires_at: Option<Option<Timestamp>>,
    #[serde(default, deserialize_with = "present")]
    enabled: Option<bool>,
}

impl KeyPatch {
    pub(super) fn into_update(self) -> Result<KeyUpdate, KeyError> {
        let mut update = KeyUpdate::new();
        if let Some(name) = self.name {
            update = update.name(name);
        }
        if let Some(scopes) = self.scopes {
            update = update.scopes(scopes.iter().map(Scope::as_str));
        }
        if let Some(limits) = self.limits {
            update = update.limits(rate_limits(limits)?);
        }
        if let Some(credits) = self.credits {
            update = update.credits(credits.map(|Object(credits)| credits.into()));
        }
        if let Some(Metadata(metadata)) = self.metadata {
            update = update.metadata(metadata);
        }
        if let Some(networks) = self.allowed_addresses {
            update = update.allowed_addresses(networks);
        }
        if let Some(end) = self.expires_at {
            update = update.expires_at(end);
        }
        if let Some(enabled) = self.enabled {
            update = update.enabled(enabled);
        }
        Ok(update)
    }
}

/// `POST /keys/{id}/rotate`.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rotation {
    #[serde(deserialize_with = "whole")]
    grace_seconds: u64,
}

impl Rotation {
    /// 365 days.
    pub(super) const MAX_GRACE: u64 = 31_536_000;

    pub(super) fn grace(&self) -> Result<Duration, KeyError> {
        if self.grace_seconds > Self::MAX_GRACE {
            let reason = format!("it must be 0 to {}", Self::MAX_GRACE);
            return Err(KeyError::invalid("grace_seconds", reason));
        }
        Ok(Duration::from_secs(self.grace_seconds))
    }
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct LimitBody {
    name: String,
    #[serde(deserialize_with = "whole")]
    quota: u64,
    #[serde(deserialize_with = "whole")]
    window_seconds: u64,
}

fn rate_limits(limits: Vec<Object<LimitBody>>) -> Result<Vec<RateLimit>, KeyError> {
    let numbered = limits.into_iter().enumerate();
    numbered
        .map(|(index, Object(limit))| {
            let window = Duration::from_secs(limit.window_seconds);
            RateLimit::new(&limit.name, limit.quota, window).map_err(|error| {
                let member = match error {
                    InvalidLimit::Name | InvalidLimit::DuplicateName => ".name",
                    InvalidLimit::Quota => ".quota",
                    InvalidLimit::TooMany => "",
                    InvalidLimit::Window => ".window_seconds",
                };
                KeyError::invalid(format!("limits[{index}]{member}"), error)
            })
        })
        .collect()
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct CreditsBody {
    #[serde(deserialize_with = "whole")]
    remaining: u64,
    refill: Option<Object<RefillBody>>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct RefillBody {
    #[serde(deserialize_with = "whole")]
    amount: u64,
    every: RefillEvery,
}

impl From<CreditsBody> for Credits {
    fn from(credits: CreditsBody) -> Self {
        match credits.refill {
            Some(Object(RefillBody { amount, every })) => {
                Self::refilled(Refill { amount, every }).remaining(credits.remaining)
            }
            None => Self::new(credits.remaining),
        }
    }
}

/// Text by name, no name twice.
#[derive(Default)]
struct Metadata(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Metadata {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Metadata;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Metadata, A::Error> {
                let mut metadata = BTreeMap::new();
                while let Some((name, value)) = map.next_entry()? {
                    if metadata.insert(name, value).is_some() {
                        return Err(de::Error::custom("two members have the same name"));
                    }
                }
                Ok(Metadata(metadata))
            }
        }

        deserializer.deserialize_map(Members)
    }
}

/// Reads what is there as a `T`, so that `null` is not taken for absent.
fn present<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    T::deserialize(deserializer).map(Some)
}

/// Reads a whole number, also where it is written `60.0`: JSON has one kind of number, and to JSON
/// Schema that is an integer.
fn whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    struct Number;

    impl Visitor<'_> for Number {
        type Value = u64;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a whole number")
        }

        fn visit_u64<E: de::Error>(self, number: u64) -> Result<u64, E> {
            Ok(number)
        }

        fn visit_f64<E: de::Error>(self, number: f64) -> Result<u64, E> {
            // Up to 2^53 every whole number is one `f64`, and no bound is above it.
            const EXACT: f64 = 9_007_199_254_740_992.0;
            if number.fract() == 0.0 && (0.0..=EXACT).contains(&number) {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "it is whole, not negative and below 2^53"
                )]
                return Ok(number as u64);
            }
            Err(E::invalid_value(de::Unexpected::Float(number), &self))
        }
    }

    deserializer.deserialize_u64(Number)
}
