//! Whatever arrives as a key, `KeyFormat::parse` takes exactly the keys of the format and never
//! panics.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tower_api_key::KeyFormat;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    check(text);
    // No mutation finds the right checksum by luck, so it is also put behind the text.
    for (prefix, environment) in KINDS {
        check(&with_checksum(&format!("{prefix}_{environment}_{text}")));
    }
});

/// One prefix with an underscore, which is also what ends a prefix.
static FORMAT: LazyLock<KeyFormat> = LazyLock::new(|| {
    KeyFormat::new("sk")
        .prefix("acme_pk")
        .environments(["live", "test"])
});

const KINDS: [(&str, &str); 4] = [
    ("sk", "live"),
    ("sk", "test"),
    ("acme_pk", "live"),
    ("acme_pk", "test"),
];

fn check(text: &str) {
    let expected = expected_kind(text);
    let Ok(parsed) = FORMAT.parse(text) else {
        assert_eq!(expected, None, "a key of the format was refused: {text:?}");
        return;
    };
    assert_eq!(
        Some((parsed.prefix(), parsed.environment())),
        expected,
        "{text:?}"
    );
    assert!(text.len() <= tower_api_key::MAX_KEY_LEN);

    // What may be shown is the head and four characters, as they stand in the text.
    let head = format!("{}_{}_", parsed.prefix(), parsed.environment());
    assert!(text.starts_with(parsed.start()));
    assert!(parsed.start().starts_with(&head));
    assert_eq!(parsed.start().len(), head.len() + 4);

    // The checksum belongs to this text: put together again it is the same key.
    let (summed, _) = text.split_at(text.len() - CHECKSUM_LEN);
    assert_eq!(with_checksum(summed), text);
    assert_eq!(FORMAT.parse(text), Ok(parsed));
}

const SECRET_LEN: usize = 43;
const CHECKSUM_LEN: usize = 6;

/// The prefix and environment of a key, read by other means than the crate's.
fn expected_kind(text: &str) -> Option<(&'static str, &'static str)> {
    let (kind, body) = KINDS.into_iter().find_map(|kind| {
        let body = text.strip_prefix(kind.0)?.strip_prefix('_')?;
        Some((kind, body.strip_prefix(kind.1)?.strip_prefix('_')?))
    })?;
    let well_formed = body.len() == SECRET_LEN + CHECKSUM_LEN
        && body
            .chars()
            .all(|character| character.is_ascii_alphanumeric());
    (well_formed && with_checksum(&text[..text.len() - CHECKSUM_LEN]) == text).then_some(kind)
}

/// `text` and its CRC-32 in base62, six digits.
fn with_checksum(text: &str) -> String {
    const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let sum = crc32(text.as_bytes()) as usize;
    let digits = (0..CHECKSUM_LEN as u32)
        .rev()
        .map(|power| sum / 62_usize.pow(power) % 62);
    let digits = digits.map(|digit| char::from(BASE62[digit]));
    text.chars().chain(digits).collect()
}

/// CRC-32 (ISO-HDLC), bit by bit, so that the crate's is compared with another.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg())
        })
    })
}
