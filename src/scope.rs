//! What a key may do: scopes, and which scope covers which.
//!
//! A scope is a list of segments joined by `:`, as in `orders:read`. A granted scope may end in
//! `*`, which stands for one or more further segments: `orders:*` covers `orders:read` and
//! `orders:read:own`, but not `orders`. `*` alone covers everything. What a route requires is
//! always literal.
//!
//! The characters are those that RFC 6749 §3.3 allows in a scope token, so that every scope can
//! be written into the `scope` attribute of a challenge as it is.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// One permission, such as `orders:read` or, granted, `orders:*`. Valid once it exists.
///
/// ```
/// use tower_api_key::Scope;
///
/// let granted: Scope = "orders:*".parse()?;
/// assert!(granted.covers(&"orders:read:own".parse()?));
/// assert!(!granted.covers(&"users:read".parse()?));
/// # Ok::<(), tower_api_key::InvalidScope>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scope(Arc<str>);

impl Scope {
    /// The longest a scope may be, in bytes.
    pub const MAX_LEN: usize = 128;

    /// Checks and takes `text`.
    ///
    /// # Errors
    ///
    /// [`InvalidScope`] when `text` is empty or longer than [`Scope::MAX_LEN`], has an empty
    /// segment, a character outside RFC 6749's scope token, or a `*` that is not the whole last
    /// segment.
    pub fn new(text: impl AsRef<str>) -> Result<Self, InvalidScope> {
        let text = text.as_ref();
        let invalid = |reason| InvalidScope {
            scope: text.chars().take(64).collect(),
            reason,
        };
        if text.is_empty() {
            return Err(invalid("it is empty"));
        }
        if text.len() > Self::MAX_LEN {
            return Err(invalid("it is longer than 128 bytes"));
        }
        let mut segments = text.split(':').peekable();
        while let Some(segment) = segments.next() {
            if segment.is_empty() {
                return Err(invalid("a segment is empty"));
            }
            if !segment.bytes().all(is_scope_byte) {
                return Err(invalid("it has a character that no scope may have"));
            }
            if segment.contains('*') && (segment != "*" || segments.peek().is_some()) {
                return Err(invalid("`*` must be the whole last segment"));
            }
        }
        Ok(Self(text.into()))
    }

    /// The scope's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this scope ends in `*`. Such a scope can be granted, but not required.
    pub fn is_wildcard(&self) -> bool {
        self.0.ends_with('*')
    }

    /// Whether a key granted this scope may do all that `other` names. `other` may be a wildcard:
    /// `orders:*` covers `orders:read:*`.
    pub fn covers(&self, other: &Scope) -> bool {
        match self.0.strip_suffix('*') {
            // What is left ends in `:`, or is nothing at all for the scope `*`. A scope never
            // ends in `:`, so `other` has at least one segment more.
            Some(stem) => other.0.starts_with(stem),
            None => self.0 == other.0,
        }
    }
}

/// RFC 6749 §3.3: `%x21 / %x23-5B / %x5D-7E`.
fn is_scope_byte(byte: u8) -> bool {
    matches!(byte, 0x21 | 0x23..=0x5B | 0x5D..=0x7E)
}

/// The scopes a key is granted: sorted, each once, at most [`ScopeSet::MAX_LEN`].
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct ScopeSet(Arc<[Scope]>);

impl ScopeSet {
    /// The most scopes that a set can hold.
    pub const MAX_LEN: usize = 100;

    /// Checks and takes `scopes`; duplicates count once.
    ///
    /// # Errors
    ///
    /// [`InvalidScope`] for the first scope that is not valid, or when there are more than
    /// [`ScopeSet::MAX_LEN`].
    pub fn new<S: AsRef<str>>(scopes: impl IntoIterator<Item = S>) -> Result<Self, InvalidScope> {
        scopes
            .into_iter()
            .map(Scope::new)
            .collect::<Result<Vec<_>, _>>()
            .and_then(Self::try_from)
    }

    /// Whether one of these scopes covers `required`.
    pub fn covers(&self, required: &Scope) -> bool {
        self.0.iter().any(|granted| granted.covers(required))
    }

    /// The scopes in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Scope> {
        self.0.iter()
    }

    /// How many scopes there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no scope at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl TryFrom<Vec<Scope>> for ScopeSet {
    type Error = InvalidScope;

    fn try_from(mut scopes: Vec<Scope>) -> Result<Self, InvalidScope> {
        scopes.sort_unstable();
        scopes.dedup();
        match scopes.get(Self::MAX_LEN) {
            Some(beyond) => Err(InvalidScope {
                scope: beyond.to_string(),
                reason: "a key can have at most 100 scopes",
            }),
            None => Ok(Self(scopes.into())),
        }
    }
}

impl<'a> IntoIterator for &'a ScopeSet {
    type Item = &'a Scope;
    type IntoIter = std::slice::Iter<'a, Scope>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// A text that is no scope, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidScope {
    scope: String,
    reason: &'static str,
}

impl fmt::Display for InvalidScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid scope {:?}: {}", self.scope, self.reason)
    }
}

impl std::error::Error for InvalidScope {}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Debug for ScopeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self).finish()
    }
}

impl FromStr for Scope {
    type Err = InvalidScope;

    fn from_str(text: &str) -> Result<Self, InvalidScope> {
        Self::new(text)
    }
}

impl Serialize for Scope {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Scope {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

impl Serialize for ScopeSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self)
    }
}

impl<'de> Deserialize<'de> for ScopeSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::try_from(Vec::<Scope>::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(text: &str) -> Scope {
        text.parse().unwrap()
    }

    #[test]
    fn a_wildcard_covers_what_lies_below_it_and_nothing_else() {
        for (granted, required, covered) in [
            ("orders:read", "orders:read", true),
            ("orders:read", "orders:read:own", false),
            ("orders:read", "orders:write", false),
            ("orders:*", "orders:read", true),
            ("orders:*", "orders:read:own", true),
            ("orders:*", "orders", false),
            ("orders:*", "ordersx:read", false),
            ("orders:read:*", "orders:read", false),
            ("*", "orders:read", true),
            ("*", "orders", true),
            ("orders:*", "orders:read:*", true),
            ("orders:*", "*", false),
            ("orders:read:*", "orders:*", false),
            ("*", "*", true),
        ] {
            assert_eq!(
                scope(granted).covers(&scope(required)),
                covered,
                "{granted} {required}"
            );
        }
    }

    #[test]
    fn what_is_no_scope_is_refused_with_its_name() {
        for text in [
            "", ":", "a:", ":a", "a::b", "a b", "a\"b", "a\\b", "ä", "a*", "*:a", "a:*:b", "**",
            "a\n",
        ] {
            let error = Scope::new(text).unwrap_err();
            assert!(error.to_string().contains(&format!("{text:?}")), "{error}");
        }
        assert!(Scope::new("x".repeat(Scope::MAX_LEN)).is_ok());
        assert!(Scope::new("x".repeat(Scope::MAX_LEN + 1)).is_err());
    }

    #[test]
    fn a_set_is_sorted_unique_and_bounded() {
        let set = ScopeSet::new(["b", "a", "b"]).unwrap();
        assert_eq!(serde_json::to_string(&set).unwrap(), r#"["a","b"]"#);
        assert_eq!(
            serde_json::from_str::<ScopeSet>(r#"["b","a"]"#).unwrap(),
            set
        );
        assert!(serde_json::from_str::<ScopeSet>(r#"["a b"]"#).is_err());
        assert!(ScopeSet::new((0..100).map(|n| n.to_string())).is_ok());
        assert!(ScopeSet::new((0..101).map(|n| n.to_string())).is_err());
    }
}
