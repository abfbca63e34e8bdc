use std::fmt;

use zeroize::Zeroizing;

/// The secret text of a credential, in memory only.
///
/// It is shown once, by [`expose`](Self::expose), when the key is issued or rotated. `Debug` and
/// `Display` print no more than [`start`](Self::start), and the text is overwritten when the value
/// is dropped.
#[derive(Clone)]
pub struct ApiKey {
    text: Zeroizing<String>,
    start_len: usize,
}

impl ApiKey {
    /// `text`, of which the first `start_len` bytes may be shown.
    pub(super) fn new(text: Zeroizing<String>, start_len: usize) -> Self {
        Self { text, start_len }
    }

    /// The whole secret. Hand it to its owner and keep it nowhere.
    pub fn expose(&self) -> &str {
        &self.text
    }

    /// The part that may be shown to tell keys apart: prefix, environment and the first four
    /// characters, as in `sk_live_8fJ2`.
    pub fn start(&self) -> &str {
        &self.text[..self.start_len]
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKey({self})")
    }
}

impl fmt::Display for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}…", self.start())
    }
}

#[cfg(test)]
mod tests {
    use crate::key::KeyFormat;

    #[test]
    fn no_formatting_shows_more_than_the_start() {
        let key = KeyFormat::new("sk").generate("sk", "live").unwrap();
        let hidden = &key.expose()[key.start().len()..];
        assert_eq!(key.start(), &key.expose()[..12]);
        for shown in [format!("{key}"), format!("{key:?}"), format!("{key:#?}")] {
            assert!(shown.contains(key.start()), "{shown}");
            assert!(!shown.contains(&hidden[..2]), "{shown}");
        }
    }
}
