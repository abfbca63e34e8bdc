//! Shortens secrets in texts that hold one by mistake, such as an argument in the wrong place.

use std::borrow::Cow;

/// The shortest run of letters, digits and underscores that is taken for a secret. A key has 50 and
/// more, its id 30, and a word of this program's help fewer.
const SHORTEST: usize = 40;

/// The bytes of a secret that are shown, as many as a listing shows of a key.
const SHOWN: usize = 12;

/// `text` with the end of everything that looks like a secret left out.
pub(crate) fn veiled(text: &str) -> Cow<'_, str> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut shown = String::new();
    let mut rest = text;
    while let Some(start) = rest.find(is_word) {
        let word = &rest[start..];
        let length = word.find(|c| !is_word(c)).unwrap_or(word.len());
        shown.push_str(&rest[..start]);
        if length < SHORTEST {
            shown.push_str(&word[..length]);
        } else {
            shown.push_str(&word[..SHOWN]);
            shown.push('…');
        }
        rest = &word[length..];
    }
    if shown.len() + rest.len() == text.len() {
        return Cow::Borrowed(text);
    }
    shown.push_str(rest);
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_long_is_veiled() {
        let secret = format!("sk_live_{}", "x".repeat(49));
        for (text, expected) in [
            ("", ""),
            (
                "key_01JD8Z6V4M3T2R1Q0P9N8K7J6H",
                "key_01JD8Z6V4M3T2R1Q0P9N8K7J6H",
            ),
            ("there is no \u{2026}", "there is no \u{2026}"),
            (&format!("{secret}: no file"), "sk_live_xxxx…: no file"),
            (
                &format!("a '{secret}' b '{secret}'"),
                "a 'sk_live_xxxx…' b 'sk_live_xxxx…'",
            ),
        ] {
            assert_eq!(veiled(text), expected);
        }
    }
}
