//! What a handler gets, what its tests need, and what the log is told.

use axum::Router;
use axum::routing::get as on_get;
use serde::Serialize;
use tower_api_key::testing::{PrincipalLayer, TestPrincipal};
use tower_api_key::{
    ApiKeyLayer, ClientAddress, Denial, KeyDigest, KeyFormat, KeyPrincipal, NewKey,
};

use crate::log::Log;
use crate::support::{Bench, SECOND, bearing, get, limit, send};

async fn name(principal: KeyPrincipal) -> String {
    principal.name().to_owned()
}

async fn name_if_any(principal: Option<KeyPrincipal>) -> String {
    principal.map_or("nobody".into(), |principal| principal.name().to_owned())
}

async fn delete(principal: KeyPrincipal) -> Result<&'static str, Denial> {
    principal.require("orders:delete")?;
    Ok("deleted")
}

fn app() -> Router {
    Router::new()
        .route("/", on_get(name))
        .route("/optional", on_get(name_if_any))
        .route("/delete", on_get(delete))
}

#[tokio::test]
async fn a_handler_gets_the_key_behind_the_request() {
    let bench = Bench::new();
    let key = bench.secret(NewKey::named("acme")).await;
    let app = app().layer(bench.layer());
    let lines = [("x-api-key", key.as_bytes())];
    assert_eq!(send(&app, get("/", &lines)).await.body, "acme");
    assert_eq!(send(&app, get("/optional", &lines)).await.body, "acme");
}

#[tokio::test]
async fn a_principal_says_what_is_stored() {
    let bench = Bench::new();
    let now = bench.keys.now();
    let network = "192.0.2.0/24".parse().unwrap();
    let key = NewKey::named("acme")
        .owner("Acme Inc.")
        .environment("test")
        .scopes(["a", "b"])
        .metadata("plan", "gold")
        .allowed_addresses([network])
        .expires_at(now + 60 * SECOND);
    let issued = bench.issue(key).await;
    let described = async |principal: KeyPrincipal| {
        let scopes: Vec<_> = principal.scopes().iter().map(ToString::to_string).collect();
        let parts = [
            principal.key_id().to_string(),
            principal.name().into(),
            principal.owner().unwrap().into(),
            principal.prefix().into(),
            principal.environment().into(),
            scopes.join(" "),
            principal.metadata()["plan"].clone(),
            principal.allowed_addresses()[0].to_string(),
            principal.credential_start().into(),
            principal.expires_at().unwrap().to_string(),
        ];
        parts.join("|")
    };
    let app = Router::new().fallback(described).layer(bench.layer());
    let mut request = bearing(issued.secret().expose());
    let address = ClientAddress("192.0.2.1".parse().unwrap());
    request.extensions_mut().insert(address);
    let (id, start) = (issued.key().record.id, issued.secret().start());
    assert_eq!(
        send(&app, request).await.body,
        format!("{id}|acme|Acme Inc.|sk|test|a b|gold|192.0.2.0/24|{start}|2026-01-01T00:01:00Z")
    );
}

#[tokio::test]
async fn a_request_without_a_key_has_no_principal() {
    let bench = Bench::new();
    let app = app().layer(bench.layer().optional());
    assert_eq!(send(&app, get("/optional", &[])).await.body, "nobody");
}

#[tokio::test]
async fn a_handler_outside_of_any_layer_is_a_mistake_that_the_log_explains() {
    let (log, _guard) = Log::capture();
    for uri in ["/", "/optional"] {
        let answer = send(&app(), get(uri, &[])).await;
        assert_eq!((answer.status, &*answer.code()), (500, "internal"));
        assert_eq!(answer.header("cache-control").unwrap(), "no-store");
        assert!(!answer.body.contains("Layer"), "{}", answer.body);
        let log = log.take();
        assert!(
            log.contains("ERROR") && log.contains("no ApiKeyLayer is around it"),
            "{log}"
        );
    }
}

#[tokio::test]
async fn a_handler_that_needs_a_key_in_an_optional_layer_is_another_mistake() {
    let (log, _guard) = Log::capture();
    let bench = Bench::new();
    let answer = send(&app().layer(bench.layer().optional()), get("/", &[])).await;
    assert_eq!((answer.status, &*answer.code()), (500, "internal"));
    let log = log.take();
    assert!(
        log.contains("ERROR") && log.contains("take an Option<KeyPrincipal>"),
        "{log}"
    );
}

#[tokio::test]
async fn a_scope_required_in_a_handler_is_answered_as_one_required_by_the_layer() {
    let bench = Bench::new();
    let key = |scope: &str| {
        NewKey::named("x")
            .scopes([scope])
            .limit(limit("burst", 9, 16))
    };
    let (may, may_not) = (
        bench.secret(key("orders:*")).await,
        bench.secret(key("orders:read")).await,
    );
    let by_handler = app().layer(bench.layer());
    let by_layer = app().layer(bench.layer().scopes(["orders:delete"]));
    let request = |key: &str| get("/delete", &[("x-api-key", key.as_bytes())]);
    assert_eq!(send(&by_handler, request(&may)).await.body, "deleted");
    let refused = send(&by_handler, request(&may_not)).await;
    assert_eq!(refused.status, 403);
    assert_eq!(
        refused.header("www-authenticate").unwrap(),
        r#"Bearer realm="api", error="insufficient_scope", scope="orders:delete""#
    );
    assert_eq!(refused.header("ratelimit").unwrap(), r#""burst";r=8;t=16"#);
    assert_eq!(refused.header("cache-control").unwrap(), "no-store");
    let by_layer = send(&by_layer, request(&may_not)).await;
    assert_eq!(
        (refused.status, refused.body),
        (by_layer.status, by_layer.body)
    );
}

// What the README shows.
#[tokio::test]
async fn a_handler_is_tested_without_any_key() {
    let principal = TestPrincipal::new(NewKey::named("acme").scopes(["orders:read"])).build();
    let app = app().layer(PrincipalLayer::new(principal));
    assert_eq!(send(&app, get("/", &[])).await.body, "acme");
    assert_eq!(send(&app, get("/delete", &[])).await.status, 403);
}

#[tokio::test]
async fn a_whole_router_is_tested_with_its_layers() {
    let bench = Bench::new();
    let auth = bench.layer();
    let routes = Router::new()
        .route("/read", on_get(name).layer(auth.scopes(["orders:read"])))
        .route("/write", on_get(name).layer(auth.scopes(["orders:write"])))
        .route("/live", on_get(name).layer(auth.environments(["live"])));
    let key = NewKey::named("acme")
        .environment("test")
        .scopes(["orders:read"])
        .limit(limit("burst", 2, 16));
    let principal = TestPrincipal::new(key).of(&bench.keys).build();
    let app = routes.clone().layer(PrincipalLayer::new(principal));

    assert_eq!(send(&app, get("/write", &[])).await.status, 403);
    assert_eq!(send(&app, get("/live", &[])).await.status, 401);
    for state in [r#""burst";r=1;t=16"#, r#""burst";r=0;t=16"#] {
        let answer = send(&app, get("/read", &[])).await;
        assert_eq!((answer.status, &*answer.body), (200, "acme"));
        assert_eq!(answer.header("ratelimit").unwrap(), state);
    }
    let denied = send(&app, get("/read", &[])).await;
    assert_eq!(
        (denied.status, denied.header("retry-after").unwrap()),
        (429, "16".into())
    );
    assert_eq!(denied.header("ratelimit").unwrap(), r#""burst";r=0;t=16"#);
    assert_eq!(bench.store.lookups(), 0);

    // Without `of` it is no principal of these keys.
    let foreign = TestPrincipal::new(NewKey::named("acme").scopes(["*"])).build();
    let app = routes.layer(PrincipalLayer::new(foreign));
    assert_eq!(send(&app, get("/read", &[])).await.status, 401);
}

#[tokio::test]
async fn a_test_principal_has_the_kinds_of_its_keys() {
    let format = KeyFormat::new("acme")
        .prefix("public")
        .environments(["prod", "dev"]);
    let bench = Bench::with(|builder| builder.format(format));
    let auth = bench.layer().environments(["dev"]);
    let principal = |key: NewKey| TestPrincipal::new(key).of(&bench.keys).build();
    let app = |principal| {
        let layered = app().layer(auth.accept_prefixes(["public"]));
        layered.layer(PrincipalLayer::new(principal))
    };
    let plain = principal(NewKey::named("x").environment("dev"));
    assert_eq!((plain.prefix(), plain.environment()), ("acme", "dev"));
    assert_eq!(send(&app(plain), get("/", &[])).await.body, "x");
    let public = NewKey::named("x").prefix("public").environment("dev");
    assert_eq!(send(&app(principal(public)), get("/", &[])).await.body, "x");
    assert_eq!(
        send(&app(principal(NewKey::named("x"))), get("/", &[]))
            .await
            .status,
        401
    );
}

#[tokio::test]
async fn the_log_has_the_true_reason_of_each_refusal_and_no_secret() {
    let (log, _guard) = Log::capture();
    let bench = Bench::with(|builder| builder.failed_attempts(limit("failures", 100, 16)));
    let key = || NewKey::named("x").scopes(["a"]);
    let now = bench.keys.now();
    let good = bench.issue(key().limit(limit("burst", 1, 16))).await;
    let expired = bench.issue(key().expires_at(now + SECOND)).await;
    let revoked = bench.issue(key()).await;
    let disabled = bench.issue(key()).await;
    let public = bench.issue(key().prefix("pk")).await;
    let of_test = bench.issue(key().environment("test")).await;
    let network = "192.0.2.0/24".parse().unwrap();
    let elsewhere = bench.issue(key().allowed_addresses([network])).await;
    let unscoped = bench.issue(NewKey::named("x")).await;
    let late = bench.issue(key()).await;
    bench.keys.revoke(revoked.key().record.id).await.unwrap();
    bench.keys.disable(disabled.key().record.id).await.unwrap();
    bench.clock.advance(SECOND);
    let imported = "imported-text-of-a-key-0123456789".to_owned();
    let digest = KeyDigest::sha256(&imported);
    bench.keys.import(key(), digest, "").await.unwrap();
    let unknown = KeyFormat::new("sk").generate("sk", "live").unwrap();
    let text = |issued: &tower_api_key::Issued| issued.secret().expose().to_owned();
    let auth: ApiKeyLayer = bench.layer().environments(["live"]).scopes(["a"]);
    let app = app().layer(auth.clone());
    log.take();

    let good = text(&good);
    assert_eq!(send(&app, bearing(&good)).await.status, 200);
    let mut secrets = vec![good.clone()];
    for (key, reason, of_a_key) in [
        (good.clone(), "quota", true),
        (text(&expired), "expired", true),
        (text(&revoked), "revoked", true),
        (text(&disabled), "disabled", true),
        (text(&public), "prefix", true),
        (text(&of_test), "environment", true),
        (text(&elsewhere), "address", true),
        (text(&unscoped), "scope", true),
        (unknown.expose().to_owned(), "unknown", false),
        (imported, "malformed", false),
        (good.to_lowercase(), "malformed", false),
        (format!("{good}, {good}"), "malformed", false),
        (String::new(), "empty", false),
    ] {
        for uri in ["/", "/?a"] {
            log.begin();
            let value = format!("Bearer {key}");
            let answer = send(&app, get(uri, &[("authorization", value.as_bytes())])).await;
            assert!(answer.status >= 400);
            let lines = log.since();
            let logged = lines.lines().any(|line| {
                line.contains(&format!("reason=\"{reason}\""))
                    && line.contains("key.id=key_") == of_a_key
            });
            assert!(logged, "{reason}: {lines}");
        }
        secrets.push(key);
    }
    for (lines, reason) in [
        (vec![], "missing"),
        (vec![("x-api-key", good.as_bytes()); 2], "ambiguous"),
    ] {
        log.begin();
        send(&app, get("/", &lines)).await;
        let logged = log.since();
        assert!(logged.contains(&format!("reason=\"{reason}\"")), "{logged}");
    }
    let dear = Router::new().fallback(name).layer(auth.cost(2));
    log.begin();
    send(&dear, bearing(&good)).await;
    assert!(log.since().contains("reason=\"cost\""));
    bench.store.fail(true);
    log.begin();
    assert_eq!(send(&app, bearing(&text(&late))).await.status, 503);
    let logged = log.since();
    assert!(
        logged.contains("ERROR") && logged.contains("reason=\"store\""),
        "{logged}"
    );
    assert!(
        logged.contains("the test says so"),
        "the source is told: {logged}"
    );
    secrets.push(text(&late));
    for _ in 0..100 {
        let mut request = bearing("x");
        let address = ClientAddress("192.0.2.1".parse().unwrap());
        request.extensions_mut().insert(address);
        send(&app, request).await;
    }
    let mut request = bearing(unknown.expose());
    let address = ClientAddress("192.0.2.1".parse().unwrap());
    request.extensions_mut().insert(address);
    // What the log is told of bad keys in one second is used up.
    bench.clock.advance(SECOND);
    log.begin();
    assert_eq!(send(&app, request).await.status, 429);
    assert!(log.since().contains("reason=\"failures\""));

    for secret in secrets.iter().filter(|secret| secret.len() > 20) {
        tells_nothing_of(secret, &log);
    }
}

/// Looks for a secret beyond the part that may be shown, in any piece that is not in the log by
/// chance, and for its digest.
#[track_caller]
fn tells_nothing_of(secret: &str, log: &Log) {
    let all = log.all();
    for piece in secret.as_bytes()[12..].windows(8) {
        let piece = std::str::from_utf8(piece).unwrap();
        assert!(!all.contains(piece), "{piece} of a secret is in the log");
    }
    let digest = KeyDigest::sha256(secret);
    let hex = digest.serialize(serde_json::value::Serializer).unwrap();
    let hex = hex.as_str().unwrap();
    assert_eq!(hex.len(), 64);
    let bytes: Vec<_> = digest.as_bytes()[..4].iter().map(u8::to_string).collect();
    for shown in [
        &hex[..8],
        &hex[56..],
        &hex.to_uppercase()[..8],
        &bytes.join(", "),
    ] {
        assert!(!all.contains(shown), "a digest is in the log");
    }
}
