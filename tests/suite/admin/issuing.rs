use serde_json::json;
use tower_api_key::{Attempt, KeyDigest, Requirements};

use super::{Admin, path};

#[tokio::test]
async fn a_new_key_is_told_to_the_letter() {
    let admin = Admin::new().await;
    let answer = admin
        .post(
            "/admin/keys",
            json!({
                "name": "billing", "owner": "acme", "prefix": "pk", "environment": "test",
                "scopes": ["orders:write", "orders:read"],
                "limits": [{"name": "burst", "quota": 100, "window_seconds": 60}],
                "expires_at": "2027-01-01T01:00:00.123456789+01:00",
                "metadata": {"team": "a", "cost": "1"},
                "allowed_addresses": ["10.0.0.0/8", "::1/128"],
            }),
        )
        .await;

    let body = answer.json();
    let (secret, key) = (body["secret"].as_str().unwrap(), &body["key"]);
    let id = key["id"].as_str().unwrap();
    let start = key["credentials"][0]["start"].as_str().unwrap();
    assert_eq!(answer.status, 201);
    assert_eq!(answer.header("location"), path(id));
    assert!(start.starts_with("pk_test_") && secret.starts_with(start));
    assert_eq!(
        answer.text,
        format!(
            r#"{{"secret":"{secret}","key":{{"id":"{id}","name":"billing","owner":"acme","prefix":"pk","environment":"test","status":"active","enabled":true,"scopes":["orders:read","orders:write"],"limits":[{{"name":"burst","quota":100,"window_seconds":60}}],"metadata":{{"cost":"1","team":"a"}},"allowed_addresses":["10.0.0.0/8","::1/128"],"created_at":"2026-11-23T10:00:00Z","expires_at":"2027-01-01T00:00:00.123456Z","revoked_at":null,"last_used_at":null,"credentials":[{{"start":"{start}","created_at":"2026-11-23T10:00:00Z","expires_at":null,"last_used_at":null}}]}}}}"#
        )
    );
}

#[tokio::test]
async fn everything_but_the_name_has_a_default_and_null_says_the_same() {
    let admin = Admin::new().await;
    let nulls = json!({
        "name": "n", "owner": null, "prefix": null, "environment": null, "expires_at": null,
    });
    for body in [json!({"name": "n"}), nulls] {
        let key = admin.post("/admin/keys", body).await.with(201)["key"].take();
        assert_eq!(key["owner"], json!(null));
        assert_eq!(key["prefix"], "sk");
        assert_eq!(key["environment"], "live");
        assert_eq!(key["expires_at"], json!(null));
        for list in ["scopes", "limits", "allowed_addresses"] {
            assert_eq!(key[list], json!([]));
        }
        assert_eq!(key["metadata"], json!({}));
    }
}

#[tokio::test]
async fn a_new_secret_verifies_at_once() {
    let admin = Admin::new().await;
    let issued = admin.post("/admin/keys", json!({"name": "n"})).await;
    let issued = issued.with(201);
    let id = issued["key"]["id"].as_str().unwrap().to_owned();
    let rotate = path(&id) + "/rotate";
    let rotated = admin.post(&rotate, json!({"grace_seconds": 0})).await;
    let rotated = rotated.with(201);

    let verify = async |secret: &str| {
        let (attempt, needs) = (Attempt::new(secret), Requirements::new());
        let verified = admin.keys.verifier().verify(attempt, &needs).await;
        verified.map(|verified| verified.principal().key_id().to_string())
    };
    assert_eq!(
        verify(rotated["secret"].as_str().unwrap()).await.unwrap(),
        id
    );
    assert!(verify(issued["secret"].as_str().unwrap()).await.is_err());
}

#[tokio::test]
async fn no_answer_carries_a_digest_or_once_it_is_issued_a_secret() {
    let admin = Admin::new().await;
    let issued = admin
        .post("/admin/keys", json!({"name": "n"}))
        .await
        .with(201);
    let id = issued["key"]["id"].as_str().unwrap();
    let rotation = json!({"grace_seconds": 60});
    let rotated = admin
        .post(&(path(id) + "/rotate"), rotation)
        .await
        .with(201);
    admin.get("/admin/keys").await.with(200);
    admin.get(&path(id)).await.with(200);
    admin.get(&(path(id) + "/usage")).await.with(200);
    admin.get(&(path(id) + "/events")).await.with(200);
    admin.patch(&path(id), json!({"name": "m"})).await.with(200);
    admin.delete(&path(id)).await.with(200);
    admin.patch(&path(id), json!({"name": "m"})).await.with(409);

    let answers = admin.answers.into_inner().unwrap();
    let carry = |text: &str| {
        answers
            .iter()
            .filter(|answer| answer.contains(text))
            .count()
    };
    assert_eq!(answers.len(), 9);
    for secret in [&issued["secret"], &rotated["secret"]] {
        let secret = secret.as_str().unwrap();
        let digest = serde_json::to_value(KeyDigest::sha256(secret)).unwrap();
        let digest = digest.as_str().unwrap();
        assert_eq!(digest.len(), 64, "in hexadecimal");
        assert_eq!(carry(secret), 1);
        assert_eq!(carry(digest), 0);
        // The start that may be shown is in the answers, and not a character more.
        assert!(carry(&secret[..12]) > 2);
        assert_eq!(carry(&secret[..13]), 1);
    }
    assert_eq!(carry("digest"), 0);
    assert_eq!(carry(&admin.root), 0);
}
