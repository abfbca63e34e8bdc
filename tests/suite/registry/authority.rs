//! Changes in the name of somebody who holds only some scopes.

use tower_api_key::{KeyDigest, KeyImport, KeyUpdate, ScopeSet};

use super::*;

#[track_caller]
fn assert_denied<T>(outcome: Result<T, KeyError>, lacking: &[&str]) {
    let Err(error) = outcome else {
        panic!("it was accepted");
    };
    assert_eq!(error.kind(), KeyErrorKind::Denied);
    let denial = error.denial().unwrap();
    let scopes: Vec<_> = denial
        .required_scopes()
        .iter()
        .map(tower_api_key::Scope::as_str)
        .collect();
    assert_eq!(scopes, lacking);
    let message = error.to_string();
    assert!(message.ends_with(&lacking.join(", ")), "{message}");
}

#[tokio::test]
async fn nobody_grants_what_they_do_not_hold() {
    over_each_store(async |keys, _| {
        let tenant = keys.within(&ScopeSet::new(["orders:*", "users:read"]).unwrap());
        let new = |scopes: &[&str]| NewKey::named("n").scopes(scopes.iter().copied());
        tenant.issue(new(&["orders:read"])).await.unwrap();
        assert_denied(tenant.issue(new(&["*"])).await, &["*"]);
        let several = new(&["users:write", "orders:read", "orders", "users:write"]);
        assert_denied(tenant.issue(several).await, &["users:write", "orders"]);

        let digest = |text: &str| KeyDigest::sha256(text);
        let import = tenant.import(new(&["files:read"]), digest("1"), "").await;
        assert_denied(import, &["files:read"]);
        let batch = [("2", "orders:read"), ("3", "files:read")];
        let batch = batch.map(|(text, scope)| KeyImport::new(new(&[scope]), digest(text)));
        let mut outcomes = tenant.import_all(batch).await.unwrap();
        assert_denied(outcomes.pop().unwrap(), &["files:read"]);
        outcomes.pop().unwrap().unwrap();
        assert_eq!(
            keys.list(&KeyFilter::default()).await.unwrap().keys.len(),
            2
        );

        // What is no scope at all is another matter.
        assert_eq!(
            kind(tenant.issue(new(&["a b"])).await),
            KeyErrorKind::Invalid
        );
        keys.issue(new(&["*"])).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_denial_names_no_more_scopes_than_a_key_can_have() {
    over_each_store(async |keys, _| {
        let tenant = keys.within(&ScopeSet::new(["orders:*"]).unwrap());
        let scopes = (0..5_000).map(|number| format!("files:{number}"));
        let error = tenant.issue(NewKey::named("n").scopes(scopes)).await;
        let error = error.unwrap_err();
        let named = error.denial().unwrap().required_scopes().len();
        assert_eq!(named, ScopeSet::MAX_LEN);
        assert!(error.to_string().ends_with("files:99"), "{error}");
    })
    .await;
}

#[tokio::test]
async fn nobody_changes_a_key_that_holds_more() {
    over_each_store(async |keys, _| {
        let tenant = keys.within(&ScopeSet::new(["orders:*"]).unwrap());
        let stronger = NewKey::named("n").scopes(["orders:read", "users:read"]);
        let id = keys.issue(stronger).await.unwrap().key().record.id;
        let before = keys.get(id).await.unwrap();
        for update in [
            KeyUpdate::new(),
            KeyUpdate::new().name("m"),
            KeyUpdate::new().scopes(["orders:read"]),
            KeyUpdate::new().expires_at(None),
            KeyUpdate::new().limits([]),
            KeyUpdate::new().credits(None),
            KeyUpdate::new().metadata([].into()),
            KeyUpdate::new().allowed_addresses([]),
            KeyUpdate::new().enabled(true),
            KeyUpdate::new().enabled(false).name("m"),
            KeyUpdate::new().enabled(false).allowed_addresses([]),
        ] {
            assert_denied(tenant.update(id, update).await, &["users:read"]);
        }
        let granted = KeyUpdate::new().scopes(["files:read"]);
        assert_denied(
            tenant.update(id, granted).await,
            &["users:read", "files:read"],
        );
        assert_denied(tenant.enable(id).await, &["users:read"]);
        assert_denied(tenant.rotate(id, DAY).await, &["users:read"]);
        assert_eq!(keys.get(id).await.unwrap(), before);

        // Everybody who sees a leak can stop it.
        assert!(!tenant.disable(id).await.unwrap().record.enabled);
        assert!(tenant.revoke(id).await.unwrap().record.revoked_at.is_some());
        let missing = tenant.rotate(KeyId::generate(keys.now()), DAY).await;
        assert_eq!(kind(missing), KeyErrorKind::NotFound);
    })
    .await;
}
