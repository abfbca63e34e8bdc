//! The first table: where a key is, and what it looks like.

use tower_api_key::{KeyDigest, KeyFormat, MAX_KEY_LEN, NewKey};

use super::{app, refusal};
use crate::support::{Bench, bearing, get, send};

/// What the first table says of a request.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Row {
    /// It passes with its key.
    Passes,
    /// As no credential: refused, or let through in optional mode.
    Missing,
    /// 401 `invalid_token`, always.
    Invalid,
    /// 400, always.
    Ambiguous,
}

/// The header lines of a request.
type Lines = Vec<(&'static str, Vec<u8>)>;

/// The first table's rows on where a key is and what it looks like, with these two good keys.
fn rows(key: &str, other: &str) -> Vec<(Row, Lines)> {
    use Row::{Ambiguous, Invalid, Missing, Passes};
    const AUTH: &str = "authorization";
    const KEY: &str = "x-api-key";
    let of_format = |prefix: &str| KeyFormat::new(prefix).generate(prefix, "live").unwrap();
    let after = |scheme: &str| format!("{scheme}{key}").into_bytes();
    let mut miscased = key.as_bytes().to_vec();
    let letter = miscased[12..]
        .iter()
        .position(u8::is_ascii_alphabetic)
        .unwrap();
    miscased[12 + letter] ^= 0x20;
    let mut typo = key.as_bytes().to_vec();
    typo[20] = if typo[20] == b'x' { b'y' } else { b'x' };

    vec![
        // No credential in any source.
        (Missing, vec![]),
        (Missing, vec![("x-other", after(""))]),
        // Another scheme.
        (Missing, vec![(AUTH, b"Basic dXNlcjpwYXNz".into())]),
        (Missing, vec![(AUTH, b"Basic".into())]),
        (Missing, vec![(AUTH, after("BearerX "))]),
        (Missing, vec![(AUTH, after("Bearer"))]),
        (Missing, vec![(AUTH, after("Beare "))]),
        (Missing, vec![(AUTH, after(""))]),
        (Missing, vec![(AUTH, b"".into())]),
        // Another scheme, and a key in its own header.
        (
            Passes,
            vec![(AUTH, b"Basic dXNlcjpwYXNz".into()), (KEY, after(""))],
        ),
        (Passes, vec![(KEY, after(""))]),
        // The scheme's case, and the spaces after it.
        (Passes, vec![(AUTH, after("Bearer "))]),
        (Passes, vec![(AUTH, after("bearer "))]),
        (Passes, vec![(AUTH, after("BEARER "))]),
        (Passes, vec![(AUTH, after("bEaReR "))]),
        (Passes, vec![(AUTH, after("Bearer     "))]),
        // Nothing after it.
        (Invalid, vec![(AUTH, b"Bearer".into())]),
        (Invalid, vec![(AUTH, b"bearer ".into())]),
        (Invalid, vec![(AUTH, b"Bearer    ".into())]),
        (Invalid, vec![(KEY, b"".into())]),
        (
            Invalid,
            vec![(AUTH, b"Basic dXNlcjpwYXNz".into()), (KEY, b"".into())],
        ),
        // More than one.
        (Ambiguous, vec![(AUTH, after("Bearer ")); 2]),
        (
            Ambiguous,
            vec![
                (AUTH, after("Bearer ")),
                (AUTH, b"Basic dXNlcjpwYXNz".into()),
            ],
        ),
        (Ambiguous, vec![(AUTH, b"Basic dXNlcjpwYXNz".into()); 2]),
        (Ambiguous, vec![(KEY, after("")); 2]),
        (Ambiguous, vec![(KEY, after("")), (KEY, other.into())]),
        (Ambiguous, vec![(AUTH, after("Bearer ")), (KEY, after(""))]),
        // Bytes that no key has.
        (Invalid, vec![(AUTH, b"Bearer \xff\xfe".into())]),
        (Invalid, vec![(KEY, "ключ".into())]),
        (Invalid, vec![(KEY, [key.as_bytes(), b"\xe9"].concat())]),
        (Invalid, vec![(KEY, after("\u{a0}"))]),
        (Invalid, vec![(KEY, after(" "))]),
        (Invalid, vec![(KEY, after("\t"))]),
        (Invalid, vec![(AUTH, after("Bearer\t"))]),
        (Invalid, vec![(AUTH, after("Bearer \t"))]),
        // The scheme ends where no token goes on (RFC 9110 §11.1).
        (Invalid, vec![(AUTH, b"Bearer,".into())]),
        (Invalid, vec![(AUTH, after("Bearer,"))]),
        (Invalid, vec![(AUTH, after("Bearer="))]),
        (Invalid, vec![(AUTH, after("Bearer token="))]),
        (Invalid, vec![(AUTH, after("Bearer Bearer "))]),
        // Too long, or just as long as is looked at.
        (Invalid, vec![(KEY, vec![b'x'; MAX_KEY_LEN])]),
        (Invalid, vec![(KEY, vec![b'x'; MAX_KEY_LEN + 1])]),
        (Invalid, vec![(KEY, key.repeat(1_000).into())]),
        // Wrong prefix, wrong checksum.
        (Invalid, vec![(KEY, of_format("rk").expose().into())]),
        (Invalid, vec![(KEY, typo)]),
        (Invalid, vec![(KEY, key[..key.len() - 1].into())]),
        // Two keys in one line.
        (Invalid, vec![(KEY, format!("{key}, {key}").into())]),
        (Invalid, vec![(KEY, format!("{key},{key}").into())]),
        (
            Invalid,
            vec![(AUTH, format!("Bearer {key}, Bearer {key}").into())],
        ),
        (Invalid, vec![(KEY, b"a, b".into())]),
        // Case changed, percent-encoded, quoted.
        (Invalid, vec![(KEY, miscased)]),
        (Invalid, vec![(KEY, key.to_lowercase().into())]),
        (Invalid, vec![(KEY, key.to_uppercase().into())]),
        (Invalid, vec![(KEY, key.replacen('s', "%73", 1).into())]),
        (Invalid, vec![(KEY, format!("\"{key}\"").into())]),
    ]
}

#[tokio::test]
async fn what_is_sent_where_decides_what_is_answered() {
    let bench = Bench::new();
    let key = bench.secret(NewKey::named("acme")).await;
    let other = bench.secret(NewKey::named("other")).await;
    let rows = rows(&key, &other);
    let required = app(&bench.layer());
    let optional = app(&bench.layer().optional());
    for (row, lines) in &rows {
        let shown: Vec<_> = lines
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.escape_ascii()))
            .collect();
        let lines: Vec<_> = lines
            .iter()
            .map(|(name, value)| (*name, value.as_slice()))
            .collect();
        let lookups = bench.store.lookups();
        let refused = match row {
            Row::Passes => {
                for app in [&required, &optional] {
                    let answer = send(app, get("/", &lines)).await;
                    assert_eq!((answer.status, &*answer.body), (200, "acme"), "{shown:?}");
                }
                continue;
            }
            Row::Missing => {
                let answer = send(&optional, get("/", &lines)).await;
                assert_eq!((answer.status, &*answer.body), (200, "nobody"), "{shown:?}");
                let answer = send(&required, get("/", &lines)).await;
                assert_eq!(answer, refusal("missing_key"), "{shown:?}");
                continue;
            }
            Row::Invalid => refusal("invalid_key"),
            Row::Ambiguous => refusal("invalid_request"),
        };
        for app in [&required, &optional] {
            let answer = send(app, get("/", &lines)).await;
            assert_eq!(answer, refused, "{shown:?}");
        }
        assert_eq!(bench.store.lookups(), lookups, "a store call: {shown:?}");
    }
}

#[tokio::test]
async fn a_key_that_cannot_be_one_costs_no_store_call() {
    let bench = Bench::new();
    let app = app(&bench.layer());
    for key in ["x", "sk_live_", "a, b", "ä", &"x".repeat(MAX_KEY_LEN + 1)] {
        let answer = send(&app, get("/", &[("x-api-key", key.as_bytes())])).await;
        assert_eq!(answer, refusal("invalid_key"));
    }
    assert_eq!(bench.store.lookups(), 0);
}

#[tokio::test]
async fn an_imported_key_may_have_any_visible_text_up_to_the_cap() {
    let bench = Bench::with(|builder| builder.accept_imported(true));
    let longest = "x".repeat(MAX_KEY_LEN);
    let digest = KeyDigest::sha256(&longest);
    let imported = NewKey::named("imported");
    bench.keys.import(imported, digest, "xx").await.unwrap();
    let app = app(&bench.layer());

    let answer = send(&app, bearing(&longest)).await;
    assert_eq!((answer.status, &*answer.body), (200, "imported"));
    let lookups = bench.store.lookups();
    for text in [&format!("{longest}x"), "a, b", "ä", "x\tx"] {
        assert_eq!(send(&app, bearing(text)).await, refusal("invalid_key"));
    }
    assert_eq!(bench.store.lookups(), lookups);
}
