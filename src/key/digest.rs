use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest, Sha256};
use smallvec::SmallVec;
use subtle::ConstantTimeEq;

/// The 32 bytes that stand for a secret in a store: its SHA-256, or its HMAC-SHA-256 under a
/// [`Pepper`].
///
/// The secret has 256 bits of entropy, so a slow password hash would add nothing (OWASP ASVS 5.0
/// §6.5.2, NIST SP 800-63B-4 §3.1.2.2). Digests are compared in constant time and `Debug` does
/// not print them.
#[derive(Clone, Copy, Eq)]
pub struct KeyDigest([u8; 32]);

impl KeyDigest {
    /// Digest of a key that was made up for a test: no text is known to have it.
    #[cfg(feature = "testing")]
    pub(crate) const OF_TESTS: Self = Self([0; 32]);

    /// The SHA-256 of `text`.
    pub fn sha256(text: &str) -> Self {
        Self::sha256_of(text.as_bytes())
    }

    /// As [`KeyDigest::sha256`], for bytes that may not even be a text.
    #[inline]
    pub(crate) fn sha256_of(text: &[u8]) -> Self {
        Self(Sha256::digest(text).into())
    }

    /// A digest computed elsewhere.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The digest's bytes, for a store.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Where the digest belongs in a table: digests are as good as random themselves.
    pub(crate) fn place(&self) -> u64 {
        let (words, _) = self.0.as_chunks();
        u64::from_be_bytes(words[0])
    }
}

impl PartialEq for KeyDigest {
    fn eq(&self, other: &Self) -> bool {
        let words = |digest: &[u8; 32]| -> [u64; 4] {
            let (words, _) = digest.as_chunks::<8>();
            std::array::from_fn(|word| u64::from_ne_bytes(words[word]))
        };
        // Whole words, all of them: as constant in time as byte by byte, and cheaper.
        let words = words(&self.0).into_iter().zip(words(&other.0));
        let difference = words.fold(0, |found, (ours, theirs)| found | (ours ^ theirs));
        difference.ct_eq(&0).into()
    }
}

impl Hash for KeyDigest {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(&self.0);
    }
}

impl fmt::Debug for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyDigest(…)")
    }
}

/// Reads 64 hexadecimal digits, in either case.
impl FromStr for KeyDigest {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        let pairs: &[[u8; 2]; 32] = pairs.try_into().map_err(|_| InvalidDigest)?;
        if !rest.is_empty() {
            return Err(InvalidDigest);
        }
        let mut bytes = [0; 32];
        for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
            *byte = hex_value(*high)? << 4 | hex_value(*low)?;
        }
        Ok(Self(bytes))
    }
}

/// Written as 64 lower-case hexadecimal digits.
impl Serialize for KeyDigest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let hex = self.0.iter().flat_map(|byte| [byte >> 4, byte & 15]);
        let hex: String = hex
            .map(|digit| char::from(b"0123456789abcdef"[usize::from(digit)]))
            .collect();
        serializer.serialize_str(&hex)
    }
}

impl<'de> Deserialize<'de> for KeyDigest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

fn hex_value(digit: u8) -> Result<u8, InvalidDigest> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        b'A'..=b'F' => Ok(digit - b'A' + 10),
        _ => Err(InvalidDigest),
    }
}

/// The text is not a digest: it takes 64 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidDigest;

impl fmt::Display for InvalidDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a digest: 64 hexadecimal digits are needed")
    }
}

impl std::error::Error for InvalidDigest {}

/// A secret that is kept outside the database and goes into every digest, so that a leaked
/// database alone does not even allow to test a guess.
///
/// A pepper has an id, which is stored beside each digest made with it, so that it can be changed:
/// make the new one current and keep accepting the old one until its last key is rotated.
#[derive(Clone)]
pub struct Pepper {
    id: Arc<str>,
    /// HMAC keyed already, so that a digest costs no key schedule.
    keyed: Hmac<Sha256>,
}

impl Pepper {
    /// A pepper called `id` from at least 32 random bytes.
    ///
    /// # Errors
    ///
    /// [`InvalidPepper`] when `secret` has fewer than 32 bytes or `id` is not 1 to 32 visible
    /// ASCII characters.
    pub fn new(id: &str, secret: &[u8]) -> Result<Self, InvalidPepper> {
        if secret.len() < 32 {
            return Err(InvalidPepper("the secret must have at least 32 bytes"));
        }
        if id.is_empty() || id.len() > 32 || !id.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(InvalidPepper(
                "the id must be 1 to 32 visible ASCII characters",
            ));
        }
        let keyed = Hmac::new_from_slice(secret)
            .map_err(|_| InvalidPepper("HMAC does not take the secret"))?;
        Ok(Self {
            id: id.into(),
            keyed,
        })
    }

    /// The pepper's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    fn digest(&self, text: impl AsRef<[u8]>) -> KeyDigest {
        let mut mac = self.keyed.clone();
        mac.update(text.as_ref());
        KeyDigest(mac.finalize().into_bytes().into())
    }
}

impl fmt::Debug for Pepper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pepper")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// Why a pepper was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidPepper(&'static str);

impl fmt::Display for InvalidPepper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid pepper: {}", self.0)
    }
}

impl std::error::Error for InvalidPepper {}

/// How secrets become digests: plain SHA-256, or HMAC-SHA-256 with peppers.
///
/// ```
/// use tower_api_key::{KeyHasher, Pepper};
///
/// # let (new_secret, old_secret) = ([1; 32], [2; 32]);
/// let hasher = KeyHasher::peppered(Pepper::new("2026", &new_secret)?)
///     .accept(Pepper::new("2025", &old_secret)?)
///     .accept_unpeppered();
/// # Ok::<(), tower_api_key::InvalidPepper>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct KeyHasher {
    current: Option<Pepper>,
    previous: Vec<Pepper>,
    unpeppered: bool,
}

impl KeyHasher {
    /// Plain SHA-256. The default.
    pub fn sha256() -> Self {
        Self::default()
    }

    /// HMAC-SHA-256 with `pepper` for every new credential.
    pub fn peppered(pepper: Pepper) -> Self {
        Self {
            current: Some(pepper),
            ..Self::default()
        }
    }

    /// Still accepts credentials made with an earlier pepper. A key that the cache does not know
    /// costs one more store lookup for each.
    pub fn accept(mut self, previous: Pepper) -> Self {
        self.previous.push(previous);
        self
    }

    /// Still accepts credentials made without any pepper.
    pub fn accept_unpeppered(mut self) -> Self {
        self.unpeppered = true;
        self
    }

    /// The digest for a new credential, and the id of the pepper in it.
    pub(crate) fn digest(&self, text: &str) -> (KeyDigest, Option<String>) {
        match &self.current {
            Some(pepper) => (pepper.digest(text), Some(pepper.id().to_owned())),
            None => (KeyDigest::sha256(text), None),
        }
    }

    /// Every digest under which `text` may be stored, the likeliest first. `plain` adds SHA-256
    /// without a pepper, which is how imported keys are stored.
    #[inline]
    pub(crate) fn candidates(&self, text: &[u8], plain: bool) -> Candidates {
        let mut candidates = Candidates::new();
        for pepper in self.current.iter().chain(&self.previous) {
            candidates.push(pepper.digest(text));
        }
        if self.unpeppered || plain || self.current.is_none() {
            candidates.push(KeyDigest::sha256_of(text));
        }
        candidates
    }
}

pub(crate) type Candidates = SmallVec<[KeyDigest; 1]>;

#[cfg(test)]
mod tests {
    use super::*;

    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn sha256_matches_fips_180() {
        assert_eq!(KeyDigest::sha256("abc"), ABC.parse().unwrap());
        assert_eq!(
            serde_json::to_string(&KeyDigest::sha256("abc")).unwrap(),
            format!("{ABC:?}")
        );
        assert_eq!(ABC.to_uppercase().parse(), Ok(KeyDigest::sha256("abc")));
    }

    #[test]
    fn a_pepper_is_hmac_as_in_rfc_4231() {
        // Test case 6, whose key is longer than 32 bytes.
        let pepper = Pepper::new("p", &[0xaa; 131]).unwrap();
        let expected = "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54";
        let text = "Test Using Larger Than Block-Size Key - Hash Key First";
        assert_eq!(pepper.digest(text), expected.parse().unwrap());
    }

    #[test]
    fn what_is_no_digest_is_refused() {
        for text in [
            "",
            "00",
            &ABC[1..],
            &format!("{ABC}0"),
            &ABC.replace('b', "g"),
            &"é".repeat(32),
        ] {
            assert_eq!(text.parse::<KeyDigest>(), Err(InvalidDigest), "{text}");
        }
    }

    #[test]
    fn debug_shows_neither_digest_nor_pepper() {
        assert_eq!(format!("{:?}", KeyDigest::sha256("abc")), "KeyDigest(…)");
        let pepper = Pepper::new("2026", &[7; 32]).unwrap();
        assert_eq!(format!("{pepper:?}"), "Pepper { id: \"2026\", .. }");
    }

    #[test]
    fn old_peppers_and_plain_digests_are_candidates_only_when_accepted() {
        let pepper = |id: &str| Pepper::new(id, &[id.len().try_into().unwrap(); 32]).unwrap();
        let plain = KeyDigest::sha256("text");
        let both = KeyHasher::peppered(pepper("new")).accept(pepper("older"));
        let expected = [pepper("new").digest("text"), pepper("older").digest("text")];
        assert_eq!(both.candidates(b"text", false).as_slice(), expected);
        assert_eq!(both.digest("text"), (expected[0], Some("new".to_owned())));
        assert_eq!(both.candidates(b"text", true).last(), Some(&plain));
        assert_eq!(
            both.accept_unpeppered().candidates(b"text", false).last(),
            Some(&plain)
        );
        assert_eq!(
            KeyHasher::sha256().candidates(b"text", false).as_slice(),
            [plain]
        );
        assert!(Pepper::new("short", &[0; 31]).is_err());
        assert!(Pepper::new("a b", &[0; 32]).is_err());
    }
}
