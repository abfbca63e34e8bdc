//! Telling other instances what has changed: the [`InvalidationBus`].
//!
//! Every instance keeps keys in memory. A change made through one of them is known there at once;
//! the others learn of it over the bus, so that a key which is revoked on one is refused by all:
//!
//! 1. An instance subscribes first. What it read before the subscription has to be read again
//!    before it is used. The same after every disconnection.
//! 2. A bus that is silent may be dead, so it is made to prove several times in
//!    [`CacheConfig::max_bus_silence`](crate::CacheConfig::max_bus_silence) that it is not. Over a
//!    network the proof is a message that has gone round: a server or a pooler can answer and
//!    deliver nothing.
//! 3. An instance that has had no proof for that long uses nothing that it has read longer ago:
//!    every key is read again. A key that cannot be read is answered with an outage once
//!    [`CacheConfig::stale_if_error`](crate::CacheConfig::stale_if_error) has passed as well.
//!
//! So a revoked key is refused everywhere within the bus's delivery time, and with the bus cut
//! within those bounds. Once an instance has received the news, no outage revives the key there.
//!
//! Which bus: `PostgresStore` and `SqliteStore` bring their own, which miss no change that is
//! committed, be it by plain SQL. `RedisBus` connects the instances of a service over Redis, and
//! [`InProcessBus`] several [`ApiKeys`](crate::ApiKeys) of one process. With several, the first is
//! the one whose proofs count, and the others only make it faster.

mod in_process;
mod listener;
mod publisher;
#[cfg(feature = "redis")]
mod redis;

use std::error::Error;
use std::fmt;
use std::str::FromStr;

use async_trait::async_trait;
use tokio::time::Instant;

pub use in_process::InProcessBus;
pub(crate) use listener::{Role, listen};
pub(crate) use publisher::Publisher;
#[cfg(feature = "redis")]
pub use redis::RedisBus;

use crate::key::KeyDigest;
use crate::record::KeyId;

/// Carries [`Invalidation`]s between the instances of a service.
#[async_trait]
pub trait InvalidationBus: fmt::Debug + Send + Sync + 'static {
    /// Begins to listen. Whatever is published after this has returned will be heard.
    ///
    /// # Errors
    ///
    /// [`BusError`] when the bus cannot be reached; it is tried again.
    async fn subscribe(&self) -> Result<Box<dyn Subscription>, BusError>;

    /// Tells every instance, this one included. Called after the change was stored.
    ///
    /// A bus that hears of changes from the store itself has nothing to do here; that is the
    /// default.
    ///
    /// # Errors
    ///
    /// [`BusError`] when it may not have been told; all instances are then made to forget
    /// everything as soon as the bus can be reached again.
    async fn publish(&self, invalidation: &Invalidation) -> Result<(), BusError> {
        let _ = invalidation;
        Ok(())
    }
}

/// One instance's ear on the bus.
#[async_trait]
pub trait Subscription: Send {
    /// The next that was published, in its order, or `None` at `until`.
    ///
    /// `None` is a proof: the bus was asked after this call began and has answered, so whatever
    /// had been published before the call has arrived, or is returned by the next calls without
    /// waiting for the bus. It is due at `until` also when there is always something to return.
    ///
    /// # Errors
    ///
    /// [`BusError`] when something may have been missed. The subscription is then dropped and a
    /// new one begun.
    async fn next(&mut self, until: Instant) -> Result<Option<Invalidation>, BusError>;
}

/// What other instances must not use any more.
///
/// As text, which is how buses carry it, it is the key's id and the [tags](DigestTag) of its
/// credentials with spaces between, or `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Invalidation {
    /// What is known of this key, and that these digests were unknown.
    Key {
        /// The key.
        id: KeyId,
        /// The digests of its credentials.
        digests: Vec<DigestTag>,
    },
    /// All that is known.
    Everything,
}

/// The first eight bytes of a digest, as 16 hexadecimal digits: enough to tell credentials apart,
/// and of no use to whoever reads the bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DigestTag(u64);

impl DigestTag {
    /// The tag of `digest`.
    pub fn of(digest: &KeyDigest) -> Self {
        Self(digest.place())
    }

    pub(crate) fn place(self) -> u64 {
        self.0
    }
}

impl fmt::Display for DigestTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Display for Invalidation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everything => f.write_str("*"),
            Self::Key { id, digests } => {
                write!(f, "{id}")?;
                digests.iter().try_for_each(|tag| write!(f, " {tag}"))
            }
        }
    }
}

impl FromStr for Invalidation {
    type Err = InvalidInvalidation;

    fn from_str(text: &str) -> Result<Self, InvalidInvalidation> {
        if text == "*" {
            return Ok(Self::Everything);
        }
        let mut words = text.split(' ');
        let id = words.next().and_then(|id| id.parse().ok());
        let tag = |word: &str| {
            let tag = u64::from_str_radix(word, 16).ok()?;
            (word.len() == 16).then_some(DigestTag(tag))
        };
        let digests = words.map(tag).collect::<Option<_>>();
        match (id, digests) {
            (Some(id), Some(digests)) => Ok(Self::Key { id, digests }),
            _ => Err(InvalidInvalidation),
        }
    }
}

/// The text is not that of an [`Invalidation`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidInvalidation;

impl fmt::Display for InvalidInvalidation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an invalidation: a key id and digest tags, or `*`, are needed")
    }
}

impl Error for InvalidInvalidation {}

/// Why a bus could not be reached, or something may have been missed.
#[derive(Debug)]
pub struct BusError(Box<dyn Error + Send + Sync>);

impl BusError {
    /// The bus failed with `source`.
    pub fn new(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(source.into())
    }
}

impl fmt::Display for BusError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the invalidation bus failed")
    }
}

impl Error for BusError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.0)
    }
}

/// A number that no other listener on a bus has.
#[cfg(any(feature = "postgres", feature = "redis"))]
pub(crate) fn random_id() -> u64 {
    use rand::TryRng as _;
    rand::rngs::SysRng
        .try_next_u64()
        .expect("the operating system provides randomness")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invalidation_reads_as_it_is_written() {
        let digests = ["a", "b"].map(|text| DigestTag::of(&KeyDigest::sha256(text)));
        let id = KeyId::generate(jiff::Timestamp::UNIX_EPOCH);
        for (digests, text) in [
            (vec![], format!("{id}")),
            (
                digests.to_vec(),
                format!("{id} ca978112ca1bbdca 3e23e8160039594a"),
            ),
        ] {
            let invalidation = Invalidation::Key { id, digests };
            assert_eq!(invalidation.to_string(), text);
            assert_eq!(text.parse(), Ok(invalidation));
        }
        assert_eq!("*".parse(), Ok(Invalidation::Everything));
        assert_eq!(Invalidation::Everything.to_string(), "*");
        for text in [
            String::new(),
            "* ".into(),
            "key_x".into(),
            format!("{id} "),
            format!("{id} +a978112ca1bbdc"),
            format!("{id} ca978112ca1bbdca0"),
        ] {
            assert_eq!(text.parse::<Invalidation>(), Err(InvalidInvalidation));
        }
    }
}
