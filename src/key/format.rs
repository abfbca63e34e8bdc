use std::fmt;

use rand::TryRng;
use rand::rngs::SysRng;
use zeroize::Zeroizing;

use super::ApiKey;

/// What the keys of an application look like: which prefixes and environments there are.
///
/// ```
/// use tower_api_key::KeyFormat;
///
/// let format = KeyFormat::new("sk").prefix("pk").environments(["live", "test"]);
/// let key = format.generate("sk", "live")?;
/// assert!(format.parse(key.expose()).is_ok());
/// assert_eq!(format.pattern(), r"\b(?:sk|pk)_(?:live|test)_[0-9A-Za-z]{49}\b");
/// # Ok::<(), tower_api_key::UnknownKind>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyFormat {
    prefixes: Vec<String>,
    /// The further ones among them whose keys are secret.
    secret_prefixes: Vec<String>,
    environments: Vec<String>,
    heads: Vec<Head>,
}

impl KeyFormat {
    /// A format with one prefix, that of secret keys, and the environments `live` and `test`.
    ///
    /// # Panics
    ///
    /// When `prefix` is not 1 to 32 ASCII letters, digits or, between them, underscores.
    pub fn new(prefix: &str) -> Self {
        let format = Self {
            prefixes: Vec::new(),
            secret_prefixes: Vec::new(),
            environments: vec!["live".to_owned(), "test".to_owned()],
            heads: Vec::new(),
        };
        format.prefix(prefix)
    }

    /// Adds a further prefix, for keys of another kind, such as `pk` for publishable ones. A
    /// route accepts them only where it says so.
    ///
    /// # Panics
    ///
    /// As [`KeyFormat::new`].
    pub fn prefix(mut self, prefix: &str) -> Self {
        let valid = prefix.len() <= 32 && prefix.split('_').all(is_word);
        assert!(
            valid,
            "invalid key prefix {prefix:?}: use 1 to 32 letters, digits and underscores"
        );
        if !self.prefixes.iter().any(|known| known == prefix) {
            self.prefixes.push(prefix.to_owned());
        }
        self.rebuild()
    }

    /// Adds a further prefix, for keys that are as secret as those of the first, such as `rk` for
    /// restricted ones. A route accepts them only where it says so.
    ///
    /// Keys of any other further prefix are taken for publishable:
    /// [`disable_exposed`](crate::ApiKeyLayer::disable_exposed) does not disable them.
    ///
    /// # Panics
    ///
    /// As [`KeyFormat::new`].
    pub fn secret_prefix(mut self, prefix: &str) -> Self {
        self.secret_prefixes.push(prefix.to_owned());
        self.prefix(prefix)
    }

    /// Sets the environments there are; the first is the default for new keys. Default: `live`
    /// and `test`.
    ///
    /// # Panics
    ///
    /// When there is none, or one is not 1 to 32 ASCII letters and digits.
    pub fn environments<'a>(mut self, environments: impl IntoIterator<Item = &'a str>) -> Self {
        self.environments.clear();
        for name in environments {
            let valid = name.len() <= 32 && is_word(name);
            assert!(
                valid,
                "invalid environment {name:?}: use 1 to 32 letters and digits"
            );
            if !self.environments.iter().any(|known| known == name) {
                self.environments.push(name.to_owned());
            }
        }
        assert!(
            !self.environments.is_empty(),
            "a key format needs an environment"
        );
        self.rebuild()
    }

    /// The prefix of secret keys: the one that every route accepts.
    pub fn default_prefix(&self) -> &str {
        &self.prefixes[0]
    }

    /// Returns whether keys of `prefix` are secret: those of the first prefix, and of each
    /// [secret one](KeyFormat::secret_prefix).
    pub fn is_secret(&self, prefix: &str) -> bool {
        prefix == self.default_prefix() || self.secret_prefixes.iter().any(|known| known == prefix)
    }

    /// The environment of a new key that names none.
    pub fn default_environment(&self) -> &str {
        &self.environments[0]
    }

    /// Whether `prefix` is one of this format's.
    pub fn has_prefix(&self, prefix: &str) -> bool {
        self.prefixes.iter().any(|known| known == prefix)
    }

    /// Whether `environment` is one of this format's.
    pub fn has_environment(&self, environment: &str) -> bool {
        self.environments.iter().any(|known| known == environment)
    }

    #[cfg(all(feature = "admin", feature = "openapi"))]
    pub(crate) fn all_prefixes(&self) -> &[String] {
        &self.prefixes
    }

    #[cfg(all(feature = "admin", feature = "openapi"))]
    pub(crate) fn all_environments(&self) -> &[String] {
        &self.environments
    }

    /// Makes a new key from 32 bytes of the operating system's randomness.
    ///
    /// # Errors
    ///
    /// [`UnknownKind`] when the format has no such prefix or environment.
    ///
    /// # Panics
    ///
    /// When the operating system has no randomness to give.
    pub fn generate(&self, prefix: &str, environment: &str) -> Result<ApiKey, UnknownKind> {
        let head = self
            .heads
            .iter()
            .find(|head| head.prefix(self) == prefix && head.environment(self) == environment)
            .ok_or_else(|| UnknownKind(format!("{prefix}_{environment}")))?;
        let mut random = Zeroizing::new([0; 32]);
        SysRng
            .try_fill_bytes(random.as_mut_slice())
            .expect("the operating system provides randomness");
        // The capacity is that of the whole key: growing would leave a copy in freed memory.
        let mut text = Zeroizing::new(String::with_capacity(head.text.len() + BODY_LEN));
        text.push_str(&head.text);
        text.extend(
            base62_of_256_bits(&random)
                .iter()
                .map(|&digit| char::from(digit)),
        );
        let checksum = checksum(text.as_bytes());
        text.extend(checksum.iter().map(|&digit| char::from(digit)));
        Ok(ApiKey::new(text, head.text.len() + START_DIGITS))
    }

    /// Checks that `text` is a key of this format with a right checksum.
    ///
    /// # Errors
    ///
    /// [`Malformed`] when it is not.
    pub fn parse<'a>(&'a self, text: &'a str) -> Result<KeyText<'a>, Malformed> {
        let head = self.head_of(text.as_bytes()).ok_or(Malformed)?;
        Ok(KeyText {
            prefix: head.prefix(self),
            environment: head.environment(self),
            start: &text[..head.text.len() + START_DIGITS],
        })
    }

    /// As [`KeyFormat::parse`], for bytes that may not even be a text.
    pub(crate) fn matches(&self, text: &[u8]) -> bool {
        self.head_of(text).is_some()
    }

    /// What `text` starts with, if it is a key of this format.
    fn head_of(&self, text: &[u8]) -> Option<&Head> {
        let (head, body) = text.split_at(text.len().checked_sub(BODY_LEN)?);
        let head = self
            .heads
            .iter()
            .find(|ours| ours.text.as_bytes() == head)?;
        // Without a short circuit, which is faster here.
        let is_valid = |valid, byte: &u8| valid & byte.is_ascii_alphanumeric();
        if !body.iter().fold(true, is_valid) {
            return None;
        }
        let (summed, sum) = text.split_at(text.len() - CHECKSUM_LEN);
        (checksum(summed) == sum).then_some(head)
    }

    /// What keys of this format start with, as in `sk_live_`.
    pub(super) fn heads(&self) -> impl Iterator<Item = &str> {
        self.heads.iter().map(|head| head.text.as_str())
    }

    /// The length of a key that starts with `head`.
    pub(super) const fn len_after(head: &str) -> usize {
        head.len() + BODY_LEN
    }

    /// The regular expression that finds this format's keys in any text, for leak scanners.
    /// [`find_all`](Self::find_all) finds them by their checksum.
    pub fn pattern(&self) -> String {
        let (prefixes, environments) = (self.prefixes.join("|"), self.environments.join("|"));
        format!(r"\b(?:{prefixes})_(?:{environments})_[0-9A-Za-z]{{{BODY_LEN}}}\b")
    }

    fn rebuild(mut self) -> Self {
        self.heads.clear();
        for (prefix_index, prefix) in self.prefixes.iter().enumerate() {
            for (environment_index, environment) in self.environments.iter().enumerate() {
                let text = format!("{prefix}_{environment}_");
                self.heads.push(Head {
                    text,
                    prefix_index,
                    environment_index,
                });
            }
        }
        self
    }
}

/// A text that is a key of a [`KeyFormat`], and what it says of itself.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct KeyText<'a> {
    prefix: &'a str,
    environment: &'a str,
    start: &'a str,
}

impl<'a> KeyText<'a> {
    /// What kind of key it is, as in `sk`.
    pub fn prefix(&self) -> &'a str {
        self.prefix
    }

    /// The environment, as in `live`.
    pub fn environment(&self) -> &'a str {
        self.environment
    }

    /// The part that may be shown, as in `sk_live_8fJ2`.
    pub fn start(&self) -> &'a str {
        self.start
    }
}

impl fmt::Debug for KeyText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyText({}…)", self.start)
    }
}

/// The text is no key of the format: wrong shape, prefix, environment or checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the text is not a key of this format")
    }
}

impl std::error::Error for Malformed {}

/// The format has no such prefix or environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownKind(String);

impl fmt::Display for UnknownKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the key format has no keys that start with {:?}", self.0)
    }
}

impl std::error::Error for UnknownKind {}

/// What a key starts with, `sk_live_`, built once.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Head {
    text: String,
    prefix_index: usize,
    environment_index: usize,
}

impl Head {
    fn prefix<'a>(&self, format: &'a KeyFormat) -> &'a str {
        &format.prefixes[self.prefix_index]
    }

    fn environment<'a>(&self, format: &'a KeyFormat) -> &'a str {
        &format.environments[self.environment_index]
    }
}

const SECRET_LEN: usize = 43;
const CHECKSUM_LEN: usize = 6;
const BODY_LEN: usize = SECRET_LEN + CHECKSUM_LEN;
/// How many of the secret's characters may be shown: 24 of 256 bits.
const START_DIGITS: usize = 4;

const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// CRC-32 (ISO-HDLC) of `bytes` in base62, most significant digit first.
fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_LEN] {
    let mut rest = crc32fast::hash(bytes);
    let mut digits = [b'0'; CHECKSUM_LEN];
    for digit in digits.iter_mut().rev() {
        *digit = BASE62[(rest % 62) as usize];
        rest /= 62;
    }
    digits
}

/// The number whose big-endian bytes these are, in base62, most significant digit first.
/// 62⁴³ > 2²⁵⁶, so it always fits.
fn base62_of_256_bits(bytes: &[u8; 32]) -> Zeroizing<[u8; SECRET_LEN]> {
    let mut number = Zeroizing::new(*bytes);
    let mut digits = Zeroizing::new([b'0'; SECRET_LEN]);
    for digit in digits.iter_mut().rev() {
        // Long division by 62, byte by byte; what is left over is the next digit.
        let mut remainder = 0_u16;
        for byte in number.iter_mut() {
            let dividend = remainder << 8 | u16::from(*byte);
            *byte = u8::try_from(dividend / 62).expect("the remainder is less than 62");
            remainder = dividend % 62;
        }
        *digit = BASE62[usize::from(remainder)];
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn format() -> KeyFormat {
        KeyFormat::new("sk").prefix("acme_pk")
    }

    #[test]
    fn base62_is_the_number_in_base_62() {
        let number = |low: u8| {
            let mut bytes = [0; 32];
            bytes[31] = low;
            bytes
        };
        assert_eq!(
            base62_of_256_bits(&number(61)).as_slice(),
            [vec![b'0'; 42], vec![b'z']].concat()
        );
        assert!(base62_of_256_bits(&number(62)).ends_with(b"010"));
        // 2²⁵⁶ − 1, computed with another program.
        let largest = b"yhjskwdA6OZ1AL1YmHWZWm8LLG7HjnuCA2j5rOw8Xp1";
        assert_eq!(base62_of_256_bits(&[255; 32]).as_slice(), largest);
    }

    #[test]
    fn a_generated_key_parses_and_says_what_it_is() {
        let format = format();
        for (prefix, environment) in [("sk", "live"), ("sk", "test"), ("acme_pk", "live")] {
            let key = format.generate(prefix, environment).unwrap();
            let text = format.parse(key.expose()).unwrap();
            assert_eq!((text.prefix(), text.environment()), (prefix, environment));
            assert_eq!(text.start(), key.start());
            assert_eq!(
                key.expose().len(),
                prefix.len() + environment.len() + 2 + 49
            );
            assert!(!format!("{text:?}").contains(&key.expose()[key.start().len()..][..2]));
        }
        assert!(format.generate("rk", "live").is_err());
        assert!(format.generate("sk", "staging").is_err());
    }

    #[test]
    fn every_single_changed_byte_is_noticed() {
        let format = format();
        let key = format.generate("sk", "live").unwrap();
        for position in 0..key.expose().len() {
            for byte in (0..128_u8).filter(|byte| *byte != key.expose().as_bytes()[position]) {
                let mut text = key.expose().as_bytes().to_vec();
                text[position] = byte;
                let text = String::from_utf8(text).unwrap();
                assert_eq!(format.parse(&text), Err(Malformed), "{byte} at {position}");
            }
        }
    }

    #[test]
    fn other_texts_are_no_keys() {
        let format = format();
        let key = format.generate("sk", "live").unwrap();
        let key = key.expose();
        let other = KeyFormat::new("rk").generate("rk", "live").unwrap();
        for text in [
            "",
            "_",
            "sk_live_",
            &key[1..],
            &key[..key.len() - 1],
            &format!("{key} "),
            &format!(" {key}"),
            &format!("{key}{key}"),
            &key.to_lowercase(),
            &key.to_uppercase(),
            &"ä".repeat(49),
            &"x".repeat(10_000),
            other.expose(),
        ] {
            assert_eq!(format.parse(text), Err(Malformed), "{text}");
        }
    }

    #[test]
    fn the_printed_pattern_finds_keys_in_text() {
        let format = format();
        let pattern = regex::Regex::new(&format.pattern()).unwrap();
        let key = format.generate("acme_pk", "test").unwrap();
        for text in [
            format!("key={key}&x", key = key.expose()),
            format!("\"{}\"", key.expose()),
        ] {
            assert_eq!(pattern.find(&text).unwrap().as_str(), key.expose());
        }
        assert!(!pattern.is_match(&format!("{}x", key.expose())));
        assert!(!pattern.is_match("sk_live_short"));
    }

    #[test]
    fn a_bad_name_panics_with_its_name() {
        for bad in ["", "_", "sk_", "s-k", "ß"] {
            let panic = std::panic::catch_unwind(|| KeyFormat::new(bad)).unwrap_err();
            assert!(
                panic
                    .downcast_ref::<String>()
                    .unwrap()
                    .contains(&format!("{bad:?}"))
            );
        }
        assert!(std::panic::catch_unwind(|| KeyFormat::new("sk").environments(["a_b"])).is_err());
        assert!(std::panic::catch_unwind(|| KeyFormat::new("sk").environments([])).is_err());
    }
}
