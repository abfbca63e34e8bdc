use std::time::Duration;

use serde_json::{Value, json};

use super::{Admin, path};

async fn issued(admin: &Admin, body: Value) -> Value {
    admin.post("/admin/keys", body).await.with(201)["key"].take()
}

#[tokio::test]
async fn a_patch_changes_what_it_names_and_nothing_else() {
    let admin = Admin::new().await;
    let mut key = issued(
        &admin,
        json!({
            "name": "old", "owner": "acme", "scopes": ["a"], "metadata": {"a": "1"},
            "limits": [{"name": "l", "quota": 1, "window_seconds": 1}],
            "expires_at": "2027-01-01T00:00:00Z", "allowed_addresses": ["10.0.0.0/8"],
        }),
    )
    .await;
    let path = path(key["id"].as_str().unwrap());
    for (member, value) in [
        ("name", json!("new")),
        ("scopes", json!(["b", "c:*"])),
        ("scopes", json!([])),
        (
            "limits",
            json!([{"name": "m", "quota": 2, "window_seconds": 3}]),
        ),
        ("limits", json!([])),
        ("metadata", json!({"b": "2"})),
        ("metadata", json!({})),
        ("allowed_addresses", json!(["192.0.2.0/24", "::1/128"])),
        ("allowed_addresses", json!([])),
        ("expires_at", json!("2028-01-01T00:00:00Z")),
        ("expires_at", json!(null)),
        ("expires_at", json!("2027-06-01T00:00:00Z")),
    ] {
        key[member] = value.clone();
        let answer = admin.patch(&path, json!({ member: value })).await.with(200);
        assert_eq!(answer, key);
        assert_eq!(admin.get(&path).await.with(200), key);
    }

    assert_eq!(admin.patch(&path, "{}").await.with(200), key);
    let events = admin.get(&(path + "/events")).await.with(200);
    assert_eq!(
        events["events"].as_array().unwrap().len(),
        13,
        "none for {{}}"
    );
}

#[tokio::test]
async fn a_disabled_key_can_be_enabled_again() {
    let admin = Admin::new().await;
    let key = issued(&admin, json!({"name": "n"})).await;
    let path = path(key["id"].as_str().unwrap());
    let off = admin
        .patch(&path, json!({"enabled": false}))
        .await
        .with(200);
    assert_eq!(
        (&off["status"], &off["enabled"]),
        (&json!("disabled"), &json!(false))
    );
    let on = admin.patch(&path, json!({"enabled": true})).await.with(200);
    assert_eq!(on, key);
}

#[tokio::test]
async fn a_revoked_key_stays_so_and_is_told_again() {
    let admin = Admin::new().await;
    let key = issued(&admin, json!({"name": "n"})).await;
    let path = path(key["id"].as_str().unwrap());
    let revoked = admin.delete(&path).await.with(200);
    assert_eq!(revoked["status"], "revoked");
    assert_eq!(revoked["revoked_at"], "2026-11-23T10:00:00Z");

    admin.clock.advance(Duration::from_mins(1));
    assert_eq!(admin.delete(&path).await.with(200), revoked);
    for change in [json!({"enabled": true}), json!({"name": "m"}), json!({})] {
        admin.patch(&path, change).await.problem(409, "conflict");
    }
    let rotation = json!({"grace_seconds": 1});
    let rotated = admin.post(&format!("{path}/rotate"), rotation).await;
    rotated.problem(409, "conflict");
    assert_eq!(admin.get(&path).await.with(200), revoked);
}

#[tokio::test]
async fn an_expired_key_gets_neither_another_secret_nor_another_end() {
    let admin = Admin::new().await;
    let end = json!({"name": "n", "expires_at": "2026-11-23T10:00:01Z"});
    let key = issued(&admin, end).await;
    let path = path(key["id"].as_str().unwrap());
    admin.clock.advance(Duration::from_secs(1));
    assert_eq!(admin.get(&path).await.with(200)["status"], "expired");

    let rotation = json!({"grace_seconds": 1});
    let rotated = admin.post(&format!("{path}/rotate"), rotation).await;
    rotated.problem(409, "conflict");
    for end in [json!(null), json!("2030-01-01T00:00:00Z")] {
        let patched = admin.patch(&path, json!({"expires_at": end})).await;
        patched.problem(409, "conflict");
    }
}

#[tokio::test]
async fn a_rotation_ends_the_others_after_the_grace_or_at_their_own_end() {
    let admin = Admin::new().await;
    let key = issued(&admin, json!({"name": "n"})).await;
    let path = path(key["id"].as_str().unwrap());
    let rotate = async |grace: u64| {
        let rotation = json!({ "grace_seconds": grace });
        let mut body = admin
            .post(&format!("{path}/rotate"), rotation)
            .await
            .with(201);
        let ends: Vec<_> = body["key"]["credentials"]
            .as_array_mut()
            .unwrap()
            .iter_mut()
            .map(|credential| credential["expires_at"].take())
            .collect();
        assert_eq!(body["key"]["id"], key["id"]);
        Value::from(ends)
    };
    assert_eq!(rotate(60).await, json!(["2026-11-23T10:01:00Z", null]));
    let year = "2027-11-23T10:00:00Z";
    assert_eq!(
        rotate(31_536_000).await,
        json!(["2026-11-23T10:01:00Z", year, null])
    );
    let now = "2026-11-23T10:00:00Z";
    assert_eq!(rotate(0).await, json!([now, now, now, null]));
}

#[tokio::test]
async fn the_last_use_of_a_key_is_that_of_any_credential() {
    let admin = Admin::new().await;
    let caller = admin.caller(&["keys:read"]).await;
    admin
        .call(&caller, axum::http::Method::GET, "/admin/keys", "")
        .await
        .with(200);
    admin.keys.flush().await.unwrap();
    let keys = admin.get("/admin/keys").await.with(200)["keys"].take();
    let key = keys
        .as_array()
        .unwrap()
        .iter()
        .find(|key| key["scopes"] == json!(["keys:read"]));
    let key = key.unwrap();
    assert_eq!(key["last_used_at"], "2026-11-23T10:00:00Z");
    assert_eq!(
        key["credentials"][0]["last_used_at"],
        "2026-11-23T10:00:00Z"
    );

    let rotate = path(key["id"].as_str().unwrap()) + "/rotate";
    let rotated = admin
        .post(&rotate, json!({"grace_seconds": 9}))
        .await
        .with(201);
    assert_eq!(rotated["key"]["last_used_at"], "2026-11-23T10:00:00Z");
    assert_eq!(
        rotated["key"]["credentials"][1]["last_used_at"],
        json!(null)
    );
}
