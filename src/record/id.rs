use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use rand::TryRng;
use rand::rngs::SysRng;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use ulid::{ULID_LEN, Ulid};

/// The identity of a key: `key_` and a [ULID](https://github.com/ulid/spec), so that ids sort by
/// the time they were made. It is no secret.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(Ulid);

impl KeyId {
    /// A new id, made at `now` with 80 bits of randomness.
    ///
    /// # Panics
    ///
    /// When the operating system has no randomness to give.
    pub fn generate(now: Timestamp) -> Self {
        let mut random = [0; 16];
        SysRng
            .try_fill_bytes(&mut random)
            .expect("the operating system provides randomness");
        let millis = u64::try_from(now.as_millisecond()).unwrap_or(0);
        Self(Ulid::from_parts(millis, u128::from_be_bytes(random)))
    }

    /// Where the id belongs in a table: the end of an id is random.
    pub(crate) fn place(self) -> u64 {
        let bytes = self.0.to_bytes();
        let (words, _) = bytes.as_chunks();
        u64::from_be_bytes(words[1])
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("key_")?;
        f.write_str(self.0.array_to_str(&mut [0; ULID_LEN]))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Reads what `Display` writes, and nothing else: a key has one id, not several spellings of it.
impl FromStr for KeyId {
    type Err = InvalidKeyId;

    fn from_str(text: &str) -> Result<Self, InvalidKeyId> {
        let ulid = text.strip_prefix("key_").ok_or(InvalidKeyId)?;
        let parsed = Ulid::from_string(ulid).map_err(|_| InvalidKeyId)?;
        if parsed.array_to_str(&mut [0; ULID_LEN]) != ulid {
            return Err(InvalidKeyId);
        }
        Ok(Self(parsed))
    }
}

impl Serialize for KeyId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for KeyId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

/// The text is not the id of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidKeyId;

impl fmt::Display for InvalidKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a key id: `key_` and 26 characters are needed")
    }
}

impl std::error::Error for InvalidKeyId {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_one_spelling() {
        let id = KeyId::generate(Timestamp::UNIX_EPOCH);
        let text = id.to_string();
        assert_eq!(text.len(), 30);
        assert_eq!(text.parse(), Ok(id));
        assert_eq!(
            serde_json::from_str::<KeyId>(&format!("{text:?}")).unwrap(),
            id
        );
        for other in [
            text.to_lowercase(),
            text.replace("key_", ""),
            format!("{text}0"),
            "key_".into(),
        ] {
            assert_eq!(other.parse::<KeyId>(), Err(InvalidKeyId), "{other}");
        }
        assert!(
            "key_81ARZ3NDEKTSV4RRFFQ69G5FAV".parse::<KeyId>().is_err(),
            "over 128 bits"
        );
    }

    #[test]
    fn ids_sort_by_time() {
        let early = KeyId::generate(Timestamp::from_second(1_000).unwrap());
        let late = KeyId::generate(Timestamp::from_second(1_001).unwrap());
        assert!(early < late && early.to_string() < late.to_string());
    }
}
