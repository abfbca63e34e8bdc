//! Clients that a proxy names in `Forwarded` (RFC 7239).

use http::HeaderValue;
use tower_api_key::RateLimit;

use crate::clients::{app, bound, from, proxies};
use crate::core_support::unknown_key;
use crate::support::{Bench, send};

const NAME: &str = "forwarded";

#[tokio::test]
async fn forwarded_is_read_as_rfc_7239_has_it() {
    let bench = Bench::new();
    let key = bound(&bench, "2001:db8::/32").await;
    let app = app(&bench.layer().trust_proxies(proxies().forwarded()));
    for (value, status) in [
        (r#"for="[2001:db8::1]""#, 200),
        (
            r#"For="[2001:DB8::1]:4711";Proto=http;by=203.0.113.43"#,
            200,
        ),
        (r#"for="[2001:db8::1]", for=10.0.0.3;proto=https"#, 200),
        (r#"for=203.0.113.1, for="[2001:db8::1]""#, 200),
        (r#"for="[2001:db8::1]", for=203.0.113.1"#, 403),
        (r#"for="[2001:db8::1]", for=unknown"#, 403),
        (r#"for="[2001:db8::1]", by=10.0.0.9"#, 403),
        (r#"for="[2001:db8::1]", nonsense"#, 403),
    ] {
        let answer = send(&app, from("10.0.0.1", &[(NAME, value)], &key)).await;
        assert_eq!(answer.status, status, "{value}");
    }
    let lines = [("x-forwarded-for", "2001:db8::1")];
    assert_eq!(send(&app, from("10.0.0.1", &lines, &key)).await.status, 403);
}

#[tokio::test]
async fn what_a_client_wrote_into_a_quoted_string_names_nobody() {
    let bench = Bench::new();
    let key = bound(&bench, "192.0.2.0/24").await;
    let app = app(&bench.layer().trust_proxies(proxies().forwarded()));
    // Its proxy writes `for=203.0.113.1;host="$http_host"`, and some parameters after it.
    for host in [
        "a,for=192.0.2.7",
        "a, for=192.0.2.7",
        "a;for=192.0.2.7",
        r#"a\",for=192.0.2.7"#,
        r"a,for=192.0.2.7\",
        r#"a\\",for=192.0.2.7"#,
        "for=192.0.2.7,",
        ",for=192.0.2.7,",
    ] {
        for (before, after) in [("", ""), ("", ";proto=http"), ("for=192.0.2.7, ", "")] {
            let value = format!(r#"{before}for=203.0.113.1;host="{host}"{after}"#);
            let answer = send(&app, from("10.0.0.1", &[(NAME, &value)], &key)).await;
            assert_eq!(answer.status, 403, "{value}");
            let value = format!(r#"{before}host="{host}";for=203.0.113.1{after}"#);
            let answer = send(&app, from("10.0.0.1", &[(NAME, &value)], &key)).await;
            assert_eq!(answer.status, 403, "{value}");
        }
    }
    let value = r#"for=192.0.2.7;host="a,for=203.0.113.1;for=\"x\",""#;
    let answer = send(&app, from("10.0.0.1", &[(NAME, value)], &key)).await;
    assert_eq!(answer.status, 200, "{value}");
}

#[tokio::test]
async fn an_element_that_does_not_parse_ends_the_chain_as_unknown() {
    let bench = Bench::new();
    let key = bound(&bench, "192.0.2.0/24").await;
    let app = app(&bench.layer().trust_proxies(proxies().forwarded()));
    for (lines, status) in [
        (&["for=192.0.2.1;for=192.0.2.1"][..], 403),
        (&["for=192.0.2.1;host=a;Host=b"], 403),
        (&["for=192.0.2.1;proto=http;proto=https"], 403),
        (&["for=192.0.2.1;"], 200),
        (&["for=192.0.2.1 ; proto=http"], 200),
        (&["for = 192.0.2.1"], 403),
        (&["for=192.0.2.1:80"], 403),
        (&[r#"for="192.0.2.1:80""#], 200),
        (&[r#"for="192.0.2.1:_a""#], 200),
        (&[r#"for="192.0.2.1"#], 403),
        (&[r#"for=192.0.2.1""#], 403),
        (&["for=192.0.2.1;host=ä"], 403),
        (&["for=192.0.2.1;host=\"ä\""], 200),
        (&["for=192.0.2.1, for=10.0.0.2;=x"], 403),
        (&["for=192.0.2.1, for=_hidden, for=10.0.0.2"], 403),
        // What is to the left of the client is its own.
        (&["nonsense, for=192.0.2.1"], 200),
        (&[r#"a"b", for=192.0.2.1"#], 200),
        // A list may have empty elements (RFC 9110 §5.6.1), and several lines.
        (&["for=192.0.2.1,"], 200),
        (&[",, for=192.0.2.1 , , for=10.0.0.2,,"], 200),
        (&["for=192.0.2.1", "", "for=10.0.0.2"], 200),
        (&["for=203.0.113.1", "for=192.0.2.1"], 200),
        (&["for=192.0.2.1", "for=203.0.113.1"], 403),
        (&["for=192.0.2.1", "for=203.0.113.1, for=10.0.0.2"], 403),
        (&[""], 403),
        (&[","], 403),
        (&[";"], 403),
        (&[], 403),
        // A quote that does not close could go on in the next line, or not.
        (&[r#"for="a"#, "for=192.0.2.1"], 403),
        (&[r#"for="a"#, r#"b", for=192.0.2.1"#], 403),
    ] {
        let lines: Vec<_> = lines.iter().map(|line| (NAME, *line)).collect();
        let mut request = from("10.0.0.1", &[], &key);
        for (name, line) in &lines {
            let line = HeaderValue::from_bytes(line.as_bytes()).unwrap();
            request.headers_mut().append(*name, line);
        }
        assert_eq!(send(&app, request).await.status, status, "{lines:?}");
    }
    // No line has another one folded into it.
    assert!(HeaderValue::from_bytes(b"for=192.0.2.1,\r\n for=192.0.2.2").is_err());
}

#[tokio::test]
async fn no_strangers_address_can_be_made_to_fail() {
    let bench = Bench::with(|builder| builder.failed_attempts(RateLimit::per_minute(2)));
    let app = app(&bench.layer().trust_proxies(proxies().forwarded()));
    let status = async |value: &str| {
        let request = from("10.0.0.1", &[(NAME, value)], unknown_key().expose());
        send(&app, request).await.status
    };
    let attack = r#"for=203.0.113.1;host="a,for=192.0.2.1""#;
    for wanted in [401, 401, 429] {
        assert_eq!(status(attack).await, wanted);
    }
    assert_eq!(status("for=192.0.2.1").await, 401);
}
