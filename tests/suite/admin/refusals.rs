use axum::body::Body;
use axum::http::{Method, Request};
use serde_json::json;
use tower_api_key::MemoryStore;
use tower_api_key::testing::ScriptedStore;

use super::{Admin, issue, path};

#[tokio::test]
async fn the_caller_comes_before_path_method_and_body() {
    let admin = Admin::new().await;
    let (key, _) = issue(&admin.keys, &[]).await;
    let reader = admin.caller(&["keys:read"]).await;
    let writer = admin.caller(&["keys:write"]).await;
    let nobody = "sk_live_bad";
    for (method, path, reads) in [
        (Method::POST, "/admin/keys".to_owned(), false),
        (Method::GET, "/admin/keys".to_owned(), true),
        (Method::GET, path(key), true),
        (Method::PATCH, path(key), false),
        (Method::DELETE, path(key), false),
        (Method::POST, path(key) + "/rotate", false),
        (Method::GET, path(key) + "/usage", true),
        (Method::GET, path(key) + "/events", true),
        (Method::POST, path("x") + "/rotate", false),
        (Method::GET, path("x"), true),
    ] {
        let bare = Request::builder().method(&method).uri(&path);
        let bare = admin.send(bare.body(Body::from("{")).unwrap()).await;
        bare.problem(401, "missing_key");
        let bad = admin.call(nobody, method.clone(), &path, "{").await;
        bad.problem(401, "invalid_key");

        let (other, needed) = if reads {
            (&writer, "keys:read")
        } else {
            (&reader, "keys:write")
        };
        let refused = admin.call(other, method, &path, "{").await;
        let challenge = refused.header("www-authenticate");
        assert!(
            challenge.ends_with(&format!(r#"scope="{needed}""#)),
            "{challenge}"
        );
        refused.problem(403, "insufficient_scope");
    }
    for path in ["/admin", "/admin/x", "/admin/keys/"] {
        admin
            .call(nobody, Method::GET, path, "")
            .await
            .problem(401, "invalid_key");
    }
    let put = admin.call(nobody, Method::PUT, "/admin/keys", "{").await;
    put.problem(401, "invalid_key");
    assert!(
        admin
            .keys
            .get(key)
            .await
            .unwrap()
            .record
            .revoked_at
            .is_none()
    );
}

#[tokio::test]
async fn what_does_not_exist_is_not_found() {
    let admin = Admin::new().await;
    let unknown = "key_01JAAAAAAAAAAAAAAAAAAAAAAA";
    for id in [
        unknown,
        "key_1",
        "x",
        "%FF",
        "KEY_01JAAAAAAAAAAAAAAAAAAAAAAA",
    ] {
        let path = path(id);
        admin.get(&path).await.problem(404, "not_found");
        admin.delete(&path).await.problem(404, "not_found");
        admin.patch(&path, "{}").await.problem(404, "not_found");
        let rotation = json!({"grace_seconds": 0});
        let rotated = admin.post(&format!("{path}/rotate"), rotation).await;
        rotated.problem(404, "not_found");
        admin
            .get(&format!("{path}/usage"))
            .await
            .problem(404, "not_found");
        admin
            .get(&format!("{path}/events"))
            .await
            .problem(404, "not_found");
    }
    let root = path(admin.root_id);
    for path in [
        "/admin",
        "/admin/keys/",
        "/admin/x",
        &(root.clone() + "/x"),
        &(root + "/"),
    ] {
        admin.get(path).await.problem(404, "not_found");
    }
}

#[tokio::test]
async fn a_wrong_method_is_told_the_right_ones() {
    let admin = Admin::new().await;
    let root = path(admin.root_id);
    for (method, path, allowed) in [
        (Method::PUT, "/admin/keys".to_owned(), "GET,HEAD,POST"),
        (Method::OPTIONS, "/admin/keys".to_owned(), "GET,HEAD,POST"),
        (Method::POST, root.clone(), "GET,HEAD,PATCH,DELETE"),
        (Method::GET, root.clone() + "/rotate", "POST"),
        (Method::POST, root.clone() + "/usage", "GET,HEAD"),
        (Method::DELETE, root + "/events", "GET,HEAD"),
    ] {
        let answer = admin.call(&admin.root, method, &path, "").await;
        assert_eq!(answer.header("allow"), allowed, "{path}");
        answer.problem(405, "method_not_allowed");
    }
}

#[tokio::test]
async fn a_store_that_fails_is_an_outage_and_says_no_more() {
    let store = ScriptedStore::new(MemoryStore::new());
    let admin = Admin::over(store.clone()).await;
    admin.get("/admin/keys").await.with(200);
    store.fail(true);
    let new = json!({"name": "n"});
    let usage = path(admin.root_id) + "/usage";
    let failed = [
        admin.get("/admin/keys").await,
        admin.get(&usage).await,
        admin.post("/admin/keys", new).await,
        admin.delete(&path(admin.root_id)).await,
    ];
    for answer in failed {
        assert_eq!(answer.header("retry-after"), "1");
        let problem = answer.with(503);
        assert_eq!(problem["code"], "unavailable");
        assert_eq!(problem["detail"], "the keys cannot be reached at present");
    }
}
