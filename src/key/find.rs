use std::fmt;

use memchr::memmem;

use super::format::{KeyFormat, KeyText};

/// A key that was found in a text by [`KeyFormat::find_all`]. `Debug` does not print it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct FoundKey<'a> {
    offset: usize,
    secret: &'a str,
    text: KeyText<'a>,
}

impl KeyFormat {
    /// Finds every key of this format in `bytes`, whatever stands around it, in the order of their
    /// places. The checksum weeds out what only looks like one: of four billion look-alikes one
    /// passes.
    ///
    /// ```
    /// use tower_api_key::KeyFormat;
    ///
    /// let format = KeyFormat::new("sk");
    /// let key = format.generate("sk", "live")?;
    /// let log = format!("GET /orders?key={} 200", key.expose());
    /// let found = format.find_all(log.as_bytes());
    /// assert_eq!((found[0].offset(), found[0].text().start()), (16, key.start()));
    /// # Ok::<(), tower_api_key::UnknownKind>(())
    /// ```
    pub fn find_all<'a>(&'a self, bytes: &'a [u8]) -> Vec<FoundKey<'a>> {
        let mut found: Vec<_> = self
            .heads()
            .flat_map(|head| {
                let places = memmem::find_iter(bytes, head.as_bytes());
                places.filter_map(|offset| self.key_at(bytes, offset, Self::len_after(head)))
            })
            .collect();
        found.sort_unstable_by_key(|key| key.offset);
        found
    }

    fn key_at<'a>(&'a self, bytes: &'a [u8], offset: usize, len: usize) -> Option<FoundKey<'a>> {
        let secret = bytes.get(offset..offset + len)?;
        let secret = str::from_utf8(secret).ok()?;
        let text = self.parse(secret).ok()?;
        Some(FoundKey {
            offset,
            secret,
            text,
        })
    }

    /// The length of the longest key of this format, in bytes.
    pub fn max_len(&self) -> usize {
        self.heads().map(Self::len_after).max().unwrap_or(0)
    }
}

impl<'a> FoundKey<'a> {
    /// Where it begins, in bytes.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// What it says of itself.
    pub fn text(&self) -> KeyText<'a> {
        self.text
    }

    /// The whole secret.
    pub fn expose(&self) -> &'a str {
        self.secret
    }
}

impl fmt::Debug for FoundKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FoundKey")
            .field("offset", &self.offset)
            .field("text", &self.text)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_whatever_stands_around_them() {
        let format = KeyFormat::new("sk").prefix("acme_sk");
        let [one, other] = ["sk", "acme_sk"].map(|prefix| format.generate(prefix, "live").unwrap());
        let (one, other) = (one.expose(), other.expose());
        let mut text = format!("X_{one}x é{other}{one}\"sk_live_short acme_sk_live_").into_bytes();
        text.extend([0xff, 0]);
        text.extend(one.as_bytes());
        let found: Vec<_> = format
            .find_all(&text)
            .iter()
            .map(|key| (key.offset(), key.expose()))
            .collect();
        let second = 2 + one.len() + 2 + "é".len();
        let third = second + other.len();
        let last = text.len() - one.len();
        assert_eq!(
            found,
            [(2, one), (second, other), (third, one), (last, one)]
        );
        assert_eq!(format.max_len(), other.len());
    }

    #[test]
    fn look_alikes_are_passed_over() {
        let format = KeyFormat::new("sk");
        let key = format.generate("sk", "live").unwrap();
        let mut wrong = key.expose().to_owned();
        let last = wrong.pop();
        wrong.push(if last == Some('0') { '1' } else { '0' });
        // The real one begins within the look-alike.
        let text = format!("{}{}", &wrong[..wrong.len() - 7], key.expose());
        assert_eq!(format.find_all(wrong.as_bytes()), []);
        assert_eq!(format.find_all(text.as_bytes()).len(), 1);
        assert_eq!(format.find_all(&text.as_bytes()[..text.len() - 1]), []);
    }

    #[test]
    fn debug_shows_no_more_than_the_start() {
        let format = KeyFormat::new("sk");
        let key = format.generate("sk", "live").unwrap();
        let shown = format!("{:?}", format.find_all(key.expose().as_bytes()));
        assert!(shown.contains(key.start()), "{shown}");
        assert!(
            !shown.contains(&key.expose()[..=key.start().len()]),
            "{shown}"
        );
    }
}
