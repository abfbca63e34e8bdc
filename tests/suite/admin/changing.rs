use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use tower_api_key::{ApiKeys, BusError, Invalidation, InvalidationBus, MemoryStore, Subscription};

use super::{Admin, issue, path};

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

#[tokio::test]
async fn a_rotation_beyond_twenty_live_secrets_is_a_conflict() {
    let admin = Admin::new().await;
    let (id, _) = issue(&admin.keys, &[]).await;
    let rotate = format!("{}/rotate", path(id));
    let grace = |seconds: u32| json!({"grace_seconds": seconds});
    for _ in 1..20 {
        admin.post(&rotate, grace(60)).await.with(201);
    }
    let refused = admin.post(&rotate, grace(60)).await.with(409);
    assert_eq!(refused["code"], "conflict");
    let detail = refused["detail"].as_str().unwrap();
    assert!(detail.contains("20 live secrets"), "{detail}");
    let rotated = admin.post(&rotate, grace(0)).await.with(201);
    assert_eq!(rotated["key"]["credentials"].as_array().unwrap().len(), 21);
}

/// A bus that is there to listen to, and takes nothing.
#[derive(Debug)]
struct Mute;

#[async_trait]
impl InvalidationBus for Mute {
    async fn subscribe(&self) -> Result<Box<dyn Subscription>, BusError> {
        std::future::pending().await
    }

    async fn publish(&self, _: &Invalidation) -> Result<(), BusError> {
        Err(BusError::new("the test says so"))
    }
}

#[tokio::test]
async fn a_change_that_others_could_not_be_notified_of_says_so() {
    for is_cut_off in [false, true] {
        let builder = ApiKeys::builder(MemoryStore::new());
        let admin = if is_cut_off {
            Admin::of(builder.bus(Mute)).await
        } else {
            Admin::of(builder).await
        };
        let (id, _) = issue(&admin.keys, &[]).await;
        let path = path(id);
        let propagated = if is_cut_off {
            json!(false)
        } else {
            Value::Null
        };
        let issued = admin.post("/admin/keys", json!({"name": "n"})).await;
        let answers = [
            issued.with(201),
            admin.patch(&path, json!({"name": "m"})).await.with(200),
            admin
                .patch(&path, json!({"enabled": false}))
                .await
                .with(200),
            admin.patch(&path, json!({"enabled": true})).await.with(200),
            admin
                .post(&format!("{path}/rotate"), json!({"grace_seconds": 0}))
                .await
                .with(201),
            admin.delete(&path).await.with(200),
            // Again changes nothing, and the others do not know it yet.
            admin.delete(&path).await.with(200),
        ];
        for answer in answers {
            assert_eq!(answer["propagated"], propagated, "{answer}");
            assert_eq!(answer["key"]["propagated"], Value::Null, "{answer}");
        }
        let shown = admin.get(&path).await.with(200);
        assert_eq!(shown["status"], "revoked");
        assert!(shown.get("propagated").is_none(), "{shown}");
    }
}
