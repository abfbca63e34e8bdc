//! Keys that are not good, or not good for this.

use std::net::{IpAddr, SocketAddr};

use axum::Extension;
use axum::extract::ConnectInfo;
use tower_api_key::{ClientAddress, KeyDigest, NewKey};

use super::{app, from, refusal};
use crate::support::{Bench, SECOND, bearing, get, limit, send};

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
async fn a_challenge_is_no_longer_than_intermediaries_take() {
    let bench = Bench::new();
    let longest = |index| format!("{index:0>128}");
    let scopes: Vec<_> = (0..400).map(longest).collect();
    let key = bench.secret(NewKey::named("x")).await;
    let answer = send(&app(&bench.layer().scopes(&scopes)), bearing(&key)).await;
    assert_eq!(answer.code(), "insufficient_scope");
    let challenge = answer.header("www-authenticate").unwrap();
    let begin = r#"Bearer realm="api", error="insufficient_scope", scope=""#;
    let listed = challenge.strip_prefix(begin).unwrap();
    let listed = listed.strip_suffix('"').unwrap();
    // The first ones, each of them whole.
    let listed: Vec<_> = listed.split(' ').collect();
    assert_eq!(listed, scopes[..7]);
    assert!(challenge.len() <= 1_200, "{}", challenge.len());

    let few = app(&bench.layer().scopes(&scopes[..7]));
    assert_eq!(send(&few, bearing(&key)).await, answer);
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
    let networks = ["192.0.2.0/24", "2001:db8:1::/48", "::ffff:203.0.113.0/120"];
    let networks = networks.map(|text| text.parse().unwrap());
    let key = bench
        .secret(NewKey::named("x").allowed_addresses(networks))
        .await;
    let app = app(&bench.layer());
    for (address, allowed) in [
        ("192.0.2.7", true),
        ("::ffff:192.0.2.7", true),
        ("2001:db8:1:2::3", true),
        ("203.0.113.9", true),
        ("::ffff:203.0.113.9", true),
        ("203.0.114.9", false),
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
