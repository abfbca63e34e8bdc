use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use axum::http::Method;
use jiff::Timestamp;
use serde_json::json;
use tower_api_key::{
    ApiKeyLayer, Credential, CreditBalance, CreditGrant, CreditReturn, Key, KeyChange, KeyDigest,
    KeyEvent, KeyFilter, KeyId, KeyPage, KeyRecord, KeyRepository, KeyStore, KeyUpdate,
    MemoryStore, ScopeSet, StoreError, StoredKey, UsageBatch, UsageBucket, admin,
};

use super::{Admin, Answer, issue, path};

#[track_caller]
fn assert_lacking(answer: Answer, scopes: &str) {
    let challenge = format!(r#"Bearer realm="api", error="insufficient_scope", scope="{scopes}""#);
    assert_eq!(answer.header("www-authenticate"), challenge, "{answer:?}");
    answer.problem(403, "insufficient_scope");
}

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

    patch(json!({"enabled": false, "name": "m"}))
        .await
        .with(200);
    admin
        .keys
        .update(id, KeyUpdate::new().scopes(["orders:read"]))
        .await
        .unwrap();
    patch(json!({"enabled": true})).await.with(200);
}

#[tokio::test]
async fn the_ceiling_is_decided_on_the_version_that_changes() {
    let store = Overtaken::default();
    let admin = Admin::over(store.clone()).await;
    let caller = admin.caller(&["keys:write", "orders:*"]).await;
    let (id, _) = issue(&admin.keys, &["orders:read"]).await;
    let (path, grace) = (path(id), json!({"grace_seconds": 0}));
    let rotate = path.clone() + "/rotate";
    let on = json!({"enabled": true});

    store.strengthen_before_next_change();
    let rotated = admin
        .call(&caller, Method::POST, &rotate, grace.clone())
        .await;
    assert_lacking(rotated, "users:read");
    assert_eq!(admin.keys.get(id).await.unwrap().credentials.len(), 1);

    let weak = KeyUpdate::new().scopes(["orders:read"]).enabled(false);
    admin.keys.update(id, weak).await.unwrap();
    store.strengthen_before_next_change();
    let patched = admin.call(&caller, Method::PATCH, &path, on).await;
    assert_lacking(patched, "users:read");
    assert!(!admin.keys.get(id).await.unwrap().record.enabled);
}

/// A store in which, when told so, another process is faster: it gives the key a further scope
/// after the key was read and before the next change is written.
#[derive(Clone, Debug, Default)]
struct Overtaken {
    inner: MemoryStore,
    armed: Arc<AtomicBool>,
}

impl Overtaken {
    fn strengthen_before_next_change(&self) {
        self.armed.store(true, Ordering::Relaxed);
    }
}

#[async_trait]
impl KeyStore for Overtaken {
    async fn find(&self, digest: &KeyDigest) -> Result<Option<StoredKey>, StoreError> {
        self.inner.find(digest).await
    }
}

#[async_trait]
impl KeyRepository for Overtaken {
    async fn apply(&self, change: &KeyChange) -> Result<bool, StoreError> {
        if self.armed.swap(false, Ordering::Relaxed) {
            let mut first = change.clone();
            let stored = self.inner.get(change.record.id).await?.unwrap();
            first.record.scopes = ScopeSet::new(["orders:read", "users:read"]).unwrap();
            first.record.enabled = stored.record.enabled;
            (first.end_credentials_at, first.add_credential) = (None, None);
            assert!(self.inner.apply(&first).await?);
        }
        self.inner.apply(change).await
    }

    async fn insert(
        &self,
        record: &KeyRecord,
        credential: &Credential,
        event: &KeyEvent,
    ) -> Result<(), StoreError> {
        self.inner.insert(record, credential, event).await
    }

    async fn get(&self, id: KeyId) -> Result<Option<Key>, StoreError> {
        self.inner.get(id).await
    }

    async fn list(&self, filter: &KeyFilter) -> Result<KeyPage, StoreError> {
        self.inner.list(filter).await
    }

    async fn record_usage(&self, batch: &UsageBatch) -> Result<(), StoreError> {
        self.inner.record_usage(batch).await
    }

    async fn usage(
        &self,
        id: KeyId,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<Vec<UsageBucket>, StoreError> {
        self.inner.usage(id, from, to).await
    }

    async fn events(&self, id: KeyId, limit: usize) -> Result<Vec<KeyEvent>, StoreError> {
        self.inner.events(id, limit).await
    }

    async fn take_credits(
        &self,
        id: KeyId,
        at_least: u64,
        at_most: u64,
        now: Timestamp,
    ) -> Result<Option<CreditGrant>, StoreError> {
        self.inner.take_credits(id, at_least, at_most, now).await
    }

    async fn give_back_credits(&self, returns: &[CreditReturn]) -> Result<(), StoreError> {
        self.inner.give_back_credits(returns).await
    }

    async fn credits(&self, ids: &[KeyId]) -> Result<Vec<(KeyId, CreditBalance)>, StoreError> {
        self.inner.credits(ids).await
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
