use axum::http::Method;
use serde_json::{Value, json};
use tower_api_key::{ApiKeyLayer, Credits, KeyUpdate, NewKey, RateLimit, admin};

use super::overtaken::Overtaken;
use super::{Admin, assert_lacking, issue, path};

#[tokio::test]
async fn a_caller_grants_only_what_it_covers() {
    let admin = Admin::new().await;
    let caller = admin
        .caller(&["keys:write", "orders:*", "users:read"])
        .await;
    let (id, _) = issue(&admin.keys, &[]).await;
    for (scopes, lacking) in [
        (json!([]), None),
        (json!(["keys:write"]), None),
        (
            json!([
                "orders:read",
                "orders:read:own",
                "orders:*",
                "orders:read:*"
            ]),
            None,
        ),
        (json!(["orders:read", "users:read"]), None),
        (json!(["orders"]), Some("orders")),
        (json!(["*"]), Some("*")),
        (json!(["keys:*"]), Some("keys:*")),
        (
            json!(["orders:read", "users:write", "keys:read"]),
            Some("users:write keys:read"),
        ),
        (json!(["users:*"]), Some("users:*")),
    ] {
        let new = json!({"name": "n", "scopes": scopes});
        let issued = admin.call(&caller, Method::POST, "/admin/keys", new).await;
        let patch = json!({"scopes": scopes});
        let patched = admin.call(&caller, Method::PATCH, &path(id), patch).await;
        if let Some(lacking) = lacking {
            assert_lacking(issued, lacking);
            assert_lacking(patched, lacking);
        } else {
            issued.with(201);
            patched.with(200);
        }
    }
}

#[tokio::test]
async fn a_refused_change_names_the_limits_and_charges_none() {
    let mut admin = Admin::new().await;
    let limited = NewKey::named("caller").scopes(["keys:write"]);
    let limited = limited.limit(RateLimit::per_minute(9));
    let issued = admin.keys.issue(limited).await.unwrap();
    let caller = issued.secret().expose();
    let around = ApiKeyLayer::new(&admin.keys).route_limits([RateLimit::per_hour(5)]);
    for limits in [r#""minute";r=9;t=0"#, r#""minute";r=9;t=0, "hour";r=5;t=0"#] {
        for _ in 0..2 {
            let root = json!({"name": "n", "scopes": ["*"]});
            let refused = admin.call(caller, Method::POST, "/admin/keys", root).await;
            assert_eq!(refused.header("ratelimit"), limits);
            assert_lacking(refused, "*");
        }
        admin.app = admin.app.layer(around.clone());
    }
}

#[tokio::test]
async fn a_rotation_is_no_way_to_a_stronger_secret() {
    let admin = Admin::new().await;
    let caller = admin.caller(&["keys:write", "orders:*"]).await;
    let rotate = async |id| {
        let (path, grace) = (path(id) + "/rotate", json!({"grace_seconds": 0}));
        admin.call(&caller, Method::POST, &path, grace).await
    };
    assert_lacking(rotate(admin.root_id).await, "*");
    let (mixed, _) = issue(&admin.keys, &["orders:read", "users:read"]).await;
    assert_lacking(rotate(mixed).await, "users:read");
    assert_eq!(admin.keys.get(mixed).await.unwrap().credentials.len(), 1);

    let (weaker, _) = issue(&admin.keys, &["orders:read"]).await;
    rotate(weaker).await.with(201);
}

#[tokio::test]
async fn a_stronger_key_is_not_switched_on() {
    let admin = Admin::new().await;
    let caller = admin.caller(&["keys:write", "orders:*"]).await;
    let (id, _) = issue(&admin.keys, &["users:read"]).await;
    admin.keys.disable(id).await.unwrap();
    let patch = async |body| admin.call(&caller, Method::PATCH, &path(id), body).await;
    assert_lacking(patch(json!({"enabled": true})).await, "users:read");
    assert_lacking(
        patch(json!({"enabled": true, "scopes": []})).await,
        "users:read",
    );
    assert!(!admin.keys.get(id).await.unwrap().record.enabled);

    patch(json!({"enabled": false})).await.with(200);
    admin
        .keys
        .update(id, KeyUpdate::new().scopes(["orders:read"]))
        .await
        .unwrap();
    patch(json!({"enabled": true})).await.with(200);
}

#[tokio::test]
async fn a_stronger_key_is_not_changed() {
    let admin = Admin::new().await;
    let weak = admin.caller(&["keys:write", "orders:*"]).await;
    let strong = admin.caller(&["keys:*", "orders:*", "users:*"]).await;
    let new = NewKey::named("billing")
        .scopes(["orders:read", "users:read"])
        .limit(RateLimit::per_minute(1))
        .credits(Credits::new(1))
        .expires_at("2026-12-01T00:00:00Z".parse().unwrap())
        .allowed_addresses(["10.0.0.0/8".parse().unwrap()]);
    let id = admin.keys.issue(new).await.unwrap().key().record.id;
    let before = admin.keys.get(id).await.unwrap();
    let patch = async |caller: &str, body: &Value| {
        let body = body.clone();
        admin.call(caller, Method::PATCH, &path(id), body).await
    };
    let changes = [
        json!({"expires_at": null}),
        json!({"limits": []}),
        json!({"credits": null}),
        json!({"allowed_addresses": []}),
        json!({"scopes": []}),
        json!({"scopes": ["orders:read"]}),
        json!({"name": "n"}),
        json!({"metadata": {}}),
        json!({"enabled": true}),
        json!({}),
    ];
    for change in &changes {
        assert_lacking(patch(&weak, change).await, "users:read");
        let mut mixed = change.clone();
        mixed["enabled"] = false.into();
        if mixed != json!({"enabled": false}) {
            assert_lacking(patch(&weak, &mixed).await, "users:read");
        }
    }
    assert_eq!(admin.keys.get(id).await.unwrap(), before);

    // What is granted and not held is named as well.
    let granted = json!({"scopes": ["files:read", "users:read"]});
    assert_lacking(patch(&weak, &granted).await, "users:read files:read");

    // Everybody who may change keys may stop one.
    patch(&weak, &json!({"enabled": false})).await.with(200);
    for change in &changes {
        patch(&strong, change).await.with(200);
    }
    let other = issue(&admin.keys, &["users:read"]).await.0;
    let deleted = admin.call(&weak, Method::DELETE, &path(other), "").await;
    deleted.with(200);
}

#[tokio::test]
async fn the_ceiling_is_decided_on_the_version_that_changes() {
    let store = Overtaken::default();
    let admin = Admin::over(store.clone()).await;
    let caller = admin.caller(&["keys:write", "orders:*"]).await;
    let (id, _) = issue(&admin.keys, &["orders:read"]).await;
    let (path, grace) = (path(id), json!({"grace_seconds": 0}));
    let rotate = path.clone() + "/rotate";
    let strengthen = || {
        store.before_next_change(|other| async move {
            let stronger = KeyUpdate::new().scopes(["orders:read", "users:read"]);
            other.update(id, stronger).await.unwrap();
        });
    };

    strengthen();
    let rotated = admin
        .call(&caller, Method::POST, &rotate, grace.clone())
        .await;
    assert_lacking(rotated, "users:read");
    assert_eq!(admin.keys.get(id).await.unwrap().credentials.len(), 1);

    for change in [
        json!({"enabled": true}),
        json!({"name": "n"}),
        json!({"scopes": []}),
    ] {
        let weak = KeyUpdate::new().scopes(["orders:read"]).enabled(false);
        let weak = admin.keys.update(id, weak).await.unwrap().into_key().record;
        strengthen();
        let patched = admin.call(&caller, Method::PATCH, &path, change).await;
        assert_lacking(patched, "users:read");
        let stored = admin.keys.get(id).await.unwrap().record;
        assert_eq!((stored.enabled, stored.name), (false, weak.name));
        assert_eq!(stored.scopes.len(), 2);
    }
}

#[tokio::test]
async fn the_layer_that_is_given_speaks_for_the_router() {
    let mut admin = Admin::new().await;
    let caller = admin.caller(&["keys:write"]).await;
    let layer = ApiKeyLayer::new(&admin.keys).realm("operators").on_denial(
        |denial, request, mut answer| {
            assert_eq!(denial.kind().code(), "insufficient_scope");
            assert!(!request.headers.contains_key("authorization"));
            answer
                .headers_mut()
                .insert("x-hook", "seen".parse().unwrap());
            answer
        },
    );
    admin.app = axum::Router::new().nest("/admin", admin::router_with_layer(&admin.keys, &layer));
    let own = admin.call(&caller, Method::GET, "/admin/keys", "").await;
    let new = json!({"name": "n", "scopes": ["x"]});
    let ceiling = admin.call(&caller, Method::POST, "/admin/keys", new).await;
    for (answer, scope) in [(own, "keys:read"), (ceiling, "x")] {
        assert_eq!(answer.header("x-hook"), "seen");
        let challenge = answer.header("www-authenticate");
        assert!(
            challenge.starts_with(r#"Bearer realm="operators""#),
            "{challenge}"
        );
        assert!(
            challenge.ends_with(&format!(r#"scope="{scope}""#)),
            "{challenge}"
        );
    }
}

#[tokio::test]
async fn the_scopes_of_other_keys_count_where_the_layer_is_of_others() {
    let mut admin = Admin::new().await;
    let operators = Admin::new().await;
    let operator = operators.caller(&["keys:write", "keys:read"]).await;
    let layer = ApiKeyLayer::new(&operators.keys);
    admin.app = axum::Router::new().nest("/admin", admin::router_with_layer(&admin.keys, &layer));
    let new = json!({"name": "n", "scopes": ["x"]});
    assert_lacking(
        admin
            .call(&operator, Method::POST, "/admin/keys", new)
            .await,
        "x",
    );
    let new = json!({"name": "n", "scopes": ["keys:read"]});
    admin
        .call(&operator, Method::POST, "/admin/keys", new)
        .await
        .with(201);
    admin.get("/admin/keys").await.problem(401, "invalid_key");
}

#[tokio::test]
async fn an_optional_layer_does_not_open_the_router() {
    let mut admin = Admin::new().await;
    let layer = ApiKeyLayer::new(&admin.keys).optional();
    admin.app = axum::Router::new().nest("/admin", admin::router_with_layer(&admin.keys, &layer));
    for (method, path) in [
        (Method::GET, "/admin/keys".to_owned()),
        (Method::GET, path(admin.root_id)),
        (Method::DELETE, path(admin.root_id)),
        (Method::GET, path(admin.root_id) + "/usage"),
        (Method::GET, path(admin.root_id) + "/events"),
    ] {
        let request = axum::http::Request::builder().method(method).uri(path);
        let request = request.body(axum::body::Body::empty()).unwrap();
        admin.send(request).await.problem(500, "internal");
    }
    assert!(
        admin
            .keys
            .get(admin.root_id)
            .await
            .unwrap()
            .record
            .revoked_at
            .is_none()
    );
}

#[tokio::test]
async fn it_can_be_nested_in_a_router_behind_a_layer_of_the_same_keys() {
    let mut admin = Admin::new().await;
    let nested = axum::Router::new().nest("/admin", admin::router(&admin.keys).with_state(()));
    admin.app = nested.layer(ApiKeyLayer::new(&admin.keys).scopes(["office"]));
    let reader = admin.caller(&["keys:read", "office"]).await;
    admin
        .call(&reader, Method::GET, "/admin/keys", "")
        .await
        .with(200);
    let new = json!({"name": "n"});
    let refused = admin
        .call(&reader, Method::POST, "/admin/keys", new.clone())
        .await;
    assert_lacking(refused, "keys:write");
    let issued = admin.post("/admin/keys", new).await;
    assert!(issued.header("location").starts_with("/admin/keys/key_"));
    issued.with(201);
}

#[tokio::test]
async fn a_key_of_another_environment_administers_nothing() {
    let mut admin = Admin::new().await;
    let new = NewKey::named("test").environment("test").scopes(["*"]);
    let test = admin.keys.issue(new).await.unwrap();
    let test = test.secret().expose();
    let id = path(admin.root_id);
    let routes = [
        (Method::POST, "/admin/keys".to_owned()),
        (Method::GET, "/admin/keys".to_owned()),
        (Method::GET, id.clone()),
        (Method::PATCH, id.clone()),
        (Method::DELETE, id.clone()),
        (Method::POST, id.clone() + "/rotate"),
        (Method::GET, id.clone() + "/usage"),
        (Method::GET, id.clone() + "/events"),
        (Method::PUT, "/admin/keys".to_owned()),
        (Method::GET, "/admin/x".to_owned()),
    ];
    for (method, path) in routes {
        let refused = admin.call(test, method.clone(), &path, "").await;
        let nobody = admin.call("sk_live_bad", method, &path, "").await;
        assert_eq!(refused.text, nobody.text, "{path}");
        assert_eq!(refused.headers, nobody.headers, "{path}");
        refused.problem(401, "invalid_key");
    }
    assert_eq!(
        admin.get("/admin/keys").await.with(200)["keys"][1]["status"],
        "active"
    );

    // The application may decide otherwise.
    let layer = ApiKeyLayer::new(&admin.keys);
    admin.app = axum::Router::new().nest("/admin", admin::router_with_layer(&admin.keys, &layer));
    admin
        .call(test, Method::GET, "/admin/keys", "")
        .await
        .with(200);
}
