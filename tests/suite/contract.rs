//! The HTTP contract, row by row: what a request is answered, to the byte.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::routing::get as on_get;
use axum::{Extension, Router};
use http::{Method, Request};
use tower_api_key::{
    ApiKeyLayer, CacheConfig, ClientAddress, KeyDigest, KeyFormat, KeyPrincipal, MAX_KEY_LEN,
    NewKey, RateLimit,
};

use crate::support::{Answer, Bench, SECOND, bearing, get, limit, send};

/// A router whose one handler says whose key it was.
fn app(layer: &ApiKeyLayer) -> Router {
    Router::new().fallback(whose).layer(layer.clone())
}

async fn whose(principal: Option<KeyPrincipal>) -> String {
    principal.map_or("nobody".into(), |principal| principal.name().into())
}

/// The contract's second table: the whole answer for each `code`.
fn refusal(code: &str) -> Answer {
    let about = "about:blank";
    let (status, title, r#type, detail, also): (_, _, _, _, &[(&str, &str)]) = match code {
        "invalid_request" => (
            400,
            "Bad Request",
            about,
            "the request carries more than one API key",
            &[(
                "www-authenticate",
                r#"Bearer realm="api", error="invalid_request""#,
            )],
        ),
        "missing_key" => (
            401,
            "Unauthorized",
            about,
            "an API key is required",
            &[("www-authenticate", r#"Bearer realm="api""#)],
        ),
        "invalid_key" => (
            401,
            "Unauthorized",
            about,
            "the API key is not valid",
            &[(
                "www-authenticate",
                r#"Bearer realm="api", error="invalid_token""#,
            )],
        ),
        "insufficient_scope" => (
            403,
            "Forbidden",
            about,
            "the API key lacks a scope that is required here",
            &[(
                "www-authenticate",
                r#"Bearer realm="api", error="insufficient_scope", scope="a b:c""#,
            )],
        ),
        "address_not_allowed" => (
            403,
            "Forbidden",
            about,
            "the API key may not be used from this address",
            &[],
        ),
        "too_many_failures" => (
            429,
            "Too Many Requests",
            about,
            "too many requests with invalid API keys came from this address",
            &[("retry-after", "17")],
        ),
        "unavailable" => (
            503,
            "Service Unavailable",
            about,
            "the API key cannot be verified at present",
            &[("retry-after", "1")],
        ),
        _ => panic!("no such code: {code}"),
    };
    let body = format!(
        r#"{{"type":"{type}","title":"{title}","status":{status},"code":"{code}","detail":"{detail}"}}"#
    );
    answer(status, body, also)
}

/// A problem as the middleware sends it, with these headers beside those that all have.
fn answer(status: u16, body: String, also: &[(&str, &str)]) -> Answer {
    let all = [
        ("content-type", "application/problem+json"),
        ("cache-control", "no-store"),
    ];
    let mut headers: Vec<_> = all
        .iter()
        .chain(also)
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    headers.sort();
    Answer {
        status,
        headers,
        body,
    }
}

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

#[tokio::test]
async fn every_bad_key_gets_the_same_answer_to_the_byte() {
    let bench = Bench::new();
    let key = |name: &str| NewKey::named(name).limit(limit("burst", 10, 16));
    let now = bench.keys.now();
    let good = bench.secret(key("good")).await;
    let expired = bench.secret(key("x").expires_at(now + SECOND)).await;
    let rotated = bench.issue(key("x")).await;
    bench
        .keys
        .rotate(rotated.key().record.id, SECOND)
        .await
        .unwrap();
    let revoked = bench.issue(key("x")).await;
    bench.keys.revoke(revoked.key().record.id).await.unwrap();
    let disabled = bench.issue(key("x")).await;
    bench.keys.disable(disabled.key().record.id).await.unwrap();
    let text = "an old text".replace(' ', "-");
    let digest = KeyDigest::sha256(&text);
    bench.keys.import(key("x"), digest, "").await.unwrap();
    let of_the_format = bench.keys.verifier().format().generate("sk", "live");
    let unknown = of_the_format.unwrap();
    bench.clock.advance(SECOND);

    let bad = [
        ("unknown", unknown.expose()),
        ("expired", &expired),
        ("expired credential", rotated.secret().expose()),
        ("revoked", revoked.secret().expose()),
        ("disabled", disabled.secret().expose()),
        ("imported", &text),
        ("prefix", &bench.secret(key("x").prefix("pk")).await),
        (
            "environment",
            &bench.secret(key("x").environment("test")).await,
        ),
        ("malformed", "x"),
        ("case changed", &good.to_uppercase()),
    ];
    let app = app(&bench.layer().environments(["live"]));
    for (what, key) in bad {
        // From the store, and from the cache.
        for _ in 0..2 {
            assert_eq!(
                send(&app, bearing(key)).await,
                refusal("invalid_key"),
                "{what}"
            );
            let in_its_header = get("/", &[("x-api-key", key.as_bytes())]);
            assert_eq!(
                send(&app, in_its_header).await,
                refusal("invalid_key"),
                "{what}"
            );
        }
    }
    assert_eq!(send(&app, bearing(&good)).await.status, 200);
}

#[tokio::test]
async fn a_key_of_another_kind_passes_where_the_route_says_so() {
    let bench = Bench::new();
    let public = bench.secret(NewKey::named("public").prefix("pk")).await;
    let secret = bench.secret(NewKey::named("secret")).await;
    let app = app(&bench.layer().accept_prefixes(["pk"]));
    assert_eq!(send(&app, bearing(&public)).await.body, "public");
    assert_eq!(send(&app, bearing(&secret)).await.body, "secret");
}

#[tokio::test]
async fn a_missing_scope_is_named_and_granted_ones_are_not() {
    let bench = Bench::new();
    let key = bench
        .secret(NewKey::named("x").scopes(["granted:one", "a", "b:d"]))
        .await;
    let app = app(&bench.layer().scopes(["a", "b:c"]));
    assert_eq!(
        send(&app, bearing(&key)).await,
        refusal("insufficient_scope")
    );

    let wild = bench.secret(NewKey::named("x").scopes(["a", "b:*"])).await;
    assert_eq!(send(&app, bearing(&wild)).await.status, 200);
}

#[tokio::test]
async fn the_realm_is_the_layers() {
    let bench = Bench::new();
    let answer = send(&app(&bench.layer().realm("acme orders")), get("/", &[])).await;
    let challenge = answer.header("www-authenticate");
    assert_eq!(challenge.unwrap(), r#"Bearer realm="acme orders""#);
}

#[tokio::test]
async fn a_key_works_from_its_addresses_only() {
    let bench = Bench::new();
    let networks = ["192.0.2.0/24", "2001:db8:1::/48"].map(|text| text.parse().unwrap());
    let key = bench
        .secret(NewKey::named("x").allowed_addresses(networks))
        .await;
    let app = app(&bench.layer());
    for (address, allowed) in [
        ("192.0.2.7", true),
        ("::ffff:192.0.2.7", true),
        ("2001:db8:1:2::3", true),
        ("192.0.3.7", false),
        ("::ffff:192.0.3.7", false),
        ("2001:db8:2::3", false),
        // Not the embedded address of another kind.
        ("::192.0.2.7", false),
    ] {
        let answer = send(&app, from(address, bearing(&key))).await;
        if allowed {
            assert_eq!(answer.status, 200, "{address}");
        } else {
            assert_eq!(answer, refusal("address_not_allowed"), "{address}");
        }
    }
    let answer = send(&app, bearing(&key)).await;
    assert_eq!(answer, refusal("address_not_allowed"), "unknown address");
}

#[tokio::test]
async fn the_applications_word_on_the_address_comes_before_the_connections() {
    let bench = Bench::new();
    let network = "192.0.2.0/24".parse().unwrap();
    let key = bench
        .secret(NewKey::named("x").allowed_addresses([network]))
        .await;
    let inside = ConnectInfo(SocketAddr::from(([192, 0, 2, 1], 80)));
    let outside = ClientAddress(IpAddr::from([198, 51, 100, 1]));
    let app = app(&bench.layer());

    let by_connection = app.clone().layer(Extension(inside));
    assert_eq!(send(&by_connection, bearing(&key)).await.status, 200);
    let by_both = by_connection.layer(Extension(outside));
    assert_eq!(send(&by_both, bearing(&key)).await.status, 403);
}

#[tokio::test]
async fn over_a_limit_nothing_is_charged_to_any() {
    let bench = Bench::new();
    let key = NewKey::named("x")
        .limit(limit("burst", 2, 16))
        .limit(limit("daily", 10, 1_600));
    let issued = bench.issue(key).await;
    let app = app(&bench.layer());
    let request = || bearing(issued.secret().expose());
    assert_eq!(send(&app, request()).await.status, 200);
    assert_eq!(send(&app, request()).await.status, 200);
    for _ in 0..3 {
        let refused = answer(
            429,
            concat!(
                r#"{"type":"https://iana.org/assignments/http-problem-types#quota-exceeded","#,
                r#""title":"Too Many Requests","status":429,"code":"rate_limited","#,
                r#""detail":"the API key's rate limit is exceeded","#,
                r#""violated-policies":["burst"]}"#
            )
            .into(),
            &[
                ("retry-after", "17"),
                (
                    "ratelimit-policy",
                    r#""burst";q=2;w=16, "daily";q=10;w=1600"#,
                ),
                ("ratelimit", r#""burst";r=0;t=17, "daily";r=8;t=1700"#),
            ],
        );
        assert_eq!(send(&app, request()).await, refused);
    }
    bench.clock.advance(17 * SECOND);
    let answer = send(&app, request()).await;
    assert_eq!(answer.status, 200);
    let state = answer.header("ratelimit").unwrap();
    assert_eq!(state, r#""burst";r=1;t=17, "daily";r=7;t=1683"#);
}

#[tokio::test]
async fn what_costs_more_than_the_quota_is_never_told_to_wait() {
    let bench = Bench::new();
    let key = NewKey::named("x")
        .limit(limit("burst", 4, 16))
        .limit(limit("daily", 10, 1_600));
    let key = bench.secret(key).await;
    let answer_to_all = answer(
        429,
        concat!(
            r#"{"type":"https://iana.org/assignments/http-problem-types#quota-exceeded","#,
            r#""title":"Too Many Requests","status":429,"code":"rate_limited","#,
            r#""detail":"the request costs more than the limit ever allows, so it cannot succeed","#,
            r#""violated-policies":["burst"]}"#
        )
        .into(),
        &[
            ("ratelimit-policy", r#""burst";q=4;w=16, "daily";q=10;w=1600"#),
            ("ratelimit", r#""burst";r=4;t=0, "daily";r=10;t=0"#),
        ],
    );
    let app = app(&bench.layer().cost(5));
    assert_eq!(send(&app, bearing(&key)).await, answer_to_all);
}

#[tokio::test]
async fn refused_requests_take_no_quota() {
    let bench = Bench::new();
    let network = "192.0.2.0/24".parse().unwrap();
    let key = NewKey::named("x")
        .environment("test")
        .allowed_addresses([network])
        .limit(limit("burst", 2, 16));
    let key = bench.secret(key).await;
    let request = || from("192.0.2.1", bearing(&key));
    let (open, scoped) = (app(&bench.layer()), app(&bench.layer().scopes(["a"])));
    let live = app(&bench.layer().environments(["live"]));
    for _ in 0..5 {
        assert_eq!(send(&scoped, request()).await.status, 403);
        assert_eq!(send(&open, bearing(&key)).await.status, 403);
        assert_eq!(send(&live, request()).await.status, 401);
    }
    let answer = send(&open, request()).await;
    assert_eq!(answer.header("ratelimit").unwrap(), r#""burst";r=1;t=17"#);
}

#[tokio::test]
async fn a_store_that_fails_is_an_outage_for_keys_that_are_not_known() {
    let bench = Bench::new();
    let known = bench.secret(NewKey::named("known")).await;
    let other = bench.secret(NewKey::named("other")).await;
    let app = app(&bench.layer());
    assert_eq!(send(&app, bearing(&known)).await.status, 200);

    bench.store.fail(true);
    for _ in 0..2 {
        assert_eq!(send(&app, bearing(&other)).await, refusal("unavailable"));
        assert_eq!(send(&app, bearing(&known)).await.status, 200);
        // Past its TTL, within the time that it may be used during an outage.
        bench.clock.advance(Duration::from_mins(2));
    }
    bench.store.fail(false);
    assert_eq!(send(&app, bearing(&other)).await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_is_an_outage_after_the_deadline() {
    let config = CacheConfig::default().lookup_deadline(3 * SECOND);
    let bench = Bench::with(|builder| builder.cache(config));
    let key = bench.secret(NewKey::named("x")).await;
    let app = app(&bench.layer());
    bench.store.hold_lookups(true);
    let begun = tokio::time::Instant::now();
    assert_eq!(send(&app, bearing(&key)).await, refusal("unavailable"));
    let waited = begun.elapsed();
    assert!((3 * SECOND..4 * SECOND).contains(&waited), "{waited:?}");
    bench.store.hold_lookups(false);
    assert_eq!(send(&app, bearing(&key)).await.status, 200);
}

#[tokio::test]
async fn too_many_bad_keys_from_one_address_stop_all_but_cached_ones() {
    let bench = Bench::with(|builder| builder.failed_attempts(limit("failures", 3, 16)));
    let cached = bench.secret(NewKey::named("cached")).await;
    let other = bench.secret(NewKey::named("other")).await;
    let app = app(&bench.layer());
    let (bad, elsewhere) = ("192.0.2.1", "192.0.2.2");
    let unknown = || {
        let format = bench.keys.verifier().format();
        format.generate("sk", "live").unwrap().expose().to_owned()
    };
    assert_eq!(send(&app, from(bad, bearing(&cached))).await.status, 200);
    // No credential, or too many of them, is no attempt at a key.
    for _ in 0..5 {
        assert_eq!(send(&app, from(bad, get("/", &[]))).await.status, 401);
        let twice = get("/", &[("x-api-key", b"a"), ("x-api-key", b"b")]);
        assert_eq!(send(&app, from(bad, twice)).await.status, 400);
    }
    for key in ["malformed", "", &unknown()] {
        let refused = send(&app, from(bad, bearing(key))).await;
        assert_eq!(refused, refusal("invalid_key"));
    }
    let lookups = bench.store.lookups();
    for key in ["malformed", "", &unknown(), &other] {
        let refused = send(&app, from(bad, bearing(key))).await;
        assert_eq!(refused, refusal("too_many_failures"));
    }
    assert_eq!(bench.store.lookups(), lookups);

    assert_eq!(send(&app, from(bad, bearing(&cached))).await.status, 200);
    let mapped = from("::ffff:192.0.2.1", bearing(&other));
    assert_eq!(send(&app, mapped).await.status, 429);
    assert_eq!(send(&app, from(elsewhere, bearing("x"))).await.status, 401);
    assert_eq!(send(&app, bearing("x")).await.status, 401);
    assert_eq!(
        send(&app, from(elsewhere, bearing(&other))).await.status,
        200
    );

    bench.clock.advance(16 * SECOND);
    let still = send(&app, from(bad, bearing(&unknown()))).await;
    assert_eq!(still.header("retry-after").unwrap(), "1");
    bench.clock.advance(SECOND);
    let third = bench.secret(NewKey::named("third")).await;
    assert_eq!(send(&app, from(bad, bearing(&third))).await.status, 200);
}

#[tokio::test]
async fn bad_keys_of_one_ipv6_network_count_together() {
    let bench = Bench::with(|builder| builder.failed_attempts(limit("failures", 2, 16)));
    let app = app(&bench.layer());
    for (address, status) in [
        ("2001:db8::1", 401),
        ("2001:db8::2:3:4:5", 401),
        ("2001:db8::ffff:ffff:ffff:ffff", 429),
        ("2001:db8:0:1::1", 401),
    ] {
        let answer = send(&app, from(address, bearing("x"))).await;
        assert_eq!(answer.status, status, "{address}");
    }
}

#[tokio::test]
async fn good_keys_are_no_failed_attempts() {
    let bench = Bench::with(|builder| builder.failed_attempts(RateLimit::per_minute(1)));
    let key = NewKey::named("x").limit(limit("burst", 2, 16));
    let key = bench.secret(key).await;
    let (open, scoped) = (app(&bench.layer()), app(&bench.layer().scopes(["a"])));
    for (app, status) in [
        (&open, 200),
        (&scoped, 403),
        (&open, 200),
        (&open, 429),
        (&open, 429),
    ] {
        let answer = send(app, from("192.0.2.1", bearing(&key))).await;
        assert_eq!(answer.status, status);
    }
    let answer = send(&open, from("192.0.2.1", bearing("x"))).await;
    assert_eq!(answer, refusal("invalid_key"));
}

#[tokio::test]
async fn only_a_true_preflight_passes_and_only_where_it_may() {
    const ORIGIN: (&str, &[u8]) = ("origin", b"https://example.com");
    const METHOD: (&str, &[u8]) = ("access-control-request-method", b"PUT");
    let bench = Bench::new();
    let (strict, open) = (app(&bench.layer()), app(&bench.layer().allow_preflight()));
    for (method, lines, true_one) in [
        (Method::OPTIONS, vec![ORIGIN, METHOD], true),
        (Method::OPTIONS, vec![ORIGIN], false),
        (Method::OPTIONS, vec![METHOD], false),
        (Method::OPTIONS, vec![], false),
        (Method::GET, vec![ORIGIN, METHOD], false),
        (Method::POST, vec![ORIGIN, METHOD], false),
    ] {
        let request = || {
            let mut request = get("/", &lines);
            *request.method_mut() = method.clone();
            request
        };
        assert_eq!(send(&strict, request()).await, refusal("missing_key"));
        let answer = send(&open, request()).await;
        if true_one {
            assert_eq!((answer.status, &*answer.body), (200, "nobody"));
        } else {
            assert_eq!(answer, refusal("missing_key"), "{method} {lines:?}");
        }
    }
}

#[tokio::test]
async fn head_and_options_are_requests_like_any_other() {
    let bench = Bench::new();
    let key = bench
        .secret(NewKey::named("x").limit(limit("burst", 9, 16)))
        .await;
    let routes = on_get(whose).options(whose);
    let app = Router::new().route("/", routes).layer(bench.layer());
    for method in [Method::HEAD, Method::OPTIONS] {
        let mut request = bearing(&key);
        *request.method_mut() = method.clone();
        let answer = send(&app, request).await;
        assert_eq!(answer.status, 200, "{method}");
        assert!(answer.header("ratelimit").is_some());
        let mut request = get("/", &[]);
        *request.method_mut() = method;
        let answer = send(&app, request).await;
        assert_eq!(answer.status, 401);
        assert_eq!(answer.headers, refusal("missing_key").headers);
    }
}

/// The request, from this address.
fn from(address: &str, mut request: Request<Body>) -> Request<Body> {
    let address = ClientAddress(address.parse().unwrap());
    request.extensions_mut().insert(address);
    request
}
