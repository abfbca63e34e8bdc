//! Requests whose body is held back. What holds when it arrives decides, not what held before.

use std::convert::Infallible;
use std::future::Future;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{Method, Request, Version};
use futures_util::stream;
use serde_json::{Value, json};
use tower_api_key::testing::{PrincipalLayer, ScriptedStore, TestPrincipal};
use tower_api_key::{
    ApiKeyLayer, ApiKeys, Attempt, ClientAddress, Key, KeyDigest, KeyFilter, KeyId, KeyUpdate,
    MemoryStore, NewKey, Requirements, admin,
};

use super::overtaken::Overtaken;
use super::{Admin, Answer, assert_lacking, issue, path};
use crate::clients::proxies;

/// The scopes of a caller that may do everything which these tests try.
const CALLER: [&str; 3] = ["keys:write", "orders:*", "office"];

/// A caller, and the requests that it may make as long as it is good.
struct Case {
    admin: Admin,
    id: KeyId,
    secret: String,
    target: KeyId,
}

impl Case {
    async fn new(admin: Admin) -> Self {
        let (id, secret) = issue(&admin.keys, &CALLER).await;
        let (target, _) = issue(&admin.keys, &["orders:read"]).await;
        Self {
            admin,
            id,
            secret,
            target,
        }
    }

    fn requests(&self) -> [(Method, String, Value); 4] {
        let target = path(self.target);
        let new = json!({"name": "n", "scopes": ["orders:read"]});
        [
            (Method::POST, "/admin/keys".to_owned(), new),
            (
                Method::PATCH,
                target.clone(),
                json!({"expires_at": null, "scopes": ["orders:*"]}),
            ),
            (Method::PATCH, target.clone(), json!({"name": "n"})),
            (
                Method::POST,
                target + "/rotate",
                json!({"grace_seconds": 0}),
            ),
        ]
    }

    /// Sends the head of a request. The body follows when `meanwhile` is done, which begins when
    /// the head was verified and somebody asks for the body.
    async fn send(
        &self,
        (method, path, body): (Method, String, Value),
        meanwhile: impl Future<Output = ()> + Send + 'static,
    ) -> Answer {
        let body = stream::once(async move {
            meanwhile.await;
            Ok::<_, Infallible>(body.to_string())
        });
        let request = self.head(method, path);
        self.admin
            .send(request.body(Body::from_stream(body)).unwrap())
            .await
    }

    fn head(&self, method: Method, path: String) -> axum::http::request::Builder {
        Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", format!("Bearer {}", self.secret))
            .header("content-type", "application/json")
    }

    /// The answer to the same request, sent at once.
    async fn answer_now(&self, (method, path, body): (Method, String, Value)) -> Answer {
        self.admin.call(&self.secret, method, &path, body).await
    }

    /// The number of keys, and the target.
    async fn stored(&self) -> (usize, Key) {
        let all = self.admin.keys.list(&KeyFilter::default()).await.unwrap();
        let target = self.admin.keys.get(self.target).await.unwrap();
        (all.keys.len(), target)
    }
}

/// A change by which a caller loses what it needs.
type Loss = fn(ApiKeys, KeyId) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

const ENDS: [(&str, Loss); 3] = [
    ("revoked", |keys, id| {
        Box::pin(async move { drop(keys.revoke(id).await.unwrap()) })
    }),
    ("disabled", |keys, id| {
        Box::pin(async move { drop(keys.disable(id).await.unwrap()) })
    }),
    ("rotated", |keys, id| {
        Box::pin(async move { drop(keys.rotate(id, Duration::ZERO).await.unwrap()) })
    }),
];

#[tokio::test]
async fn a_caller_that_ends_before_its_body_is_there_changes_nothing() {
    for (what, end) in ENDS {
        for of_another_process in [false, true] {
            for number in 0..4 {
                let store = MemoryStore::new();
                let case = Case::new(Admin::over(store.clone()).await).await;
                let request = case.requests()[number].clone();
                let keys = if of_another_process {
                    // There is no bus between the two, so the cache of the first knows nothing.
                    ApiKeys::builder(store)
                        .clock(case.admin.clock.clone())
                        .build()
                } else {
                    case.admin.keys.clone()
                };
                let before = case.stored().await;
                let answer = case.send(request.clone(), end(keys, case.id)).await;
                let what = format!("{what} {of_another_process} {request:?}");
                assert_eq!(answer.status, 401, "{what}: {answer:?}");
                assert_eq!(case.stored().await, before, "{what}");

                // The process has learnt of it, and forgets the key.
                let (attempt, any) = (Attempt::new(&case.secret), Requirements::new());
                let verified = case.admin.keys.verifier().verify(attempt, &any).await;
                assert!(verified.is_err(), "{what}");

                // Byte for byte the answer to a request that comes now.
                let now = case.answer_now(request).await;
                assert_eq!(
                    (&answer.text, &answer.headers),
                    (&now.text, &now.headers),
                    "{what}"
                );
                answer.problem(401, "invalid_key");
            }
        }
    }
}

#[tokio::test]
async fn a_caller_that_expires_before_its_body_is_there_changes_nothing() {
    let mut case = Case::new(Admin::new().await).await;
    for number in 0..4 {
        let end = case.admin.keys.now() + jiff::SignedDuration::from_secs(60);
        let new = NewKey::named("caller").scopes(CALLER).expires_at(end);
        let issued = case.admin.keys.issue(new).await.unwrap();
        case.secret = issued.secret().expose().to_owned();
        let before = case.stored().await;
        let clock = case.admin.clock.clone();
        let request = case.requests()[number].clone();
        let later = async move { clock.advance(Duration::from_mins(1)) };
        case.send(request, later).await.problem(401, "invalid_key");
        assert_eq!(case.stored().await, before);
    }
}

#[tokio::test]
async fn a_caller_that_loses_a_scope_or_its_address_meanwhile_changes_nothing() {
    for number in 0..4 {
        let case = Case::new(Admin::new().await).await;
        let (before, request) = (case.stored().await, case.requests()[number].clone());
        let update = async |update: KeyUpdate| {
            let (keys, id) = (case.admin.keys.clone(), case.id);
            let meanwhile = async move { drop(keys.update(id, update).await.unwrap()) };
            case.send(request.clone(), meanwhile).await
        };
        let scopes = |scopes: &[&str]| KeyUpdate::new().scopes(scopes.iter().copied());
        assert_lacking(update(scopes(&["orders:*"])).await, "keys:write");
        drop(
            case.admin
                .keys
                .update(case.id, scopes(&CALLER))
                .await
                .unwrap(),
        );
        // The scopes that the target holds by then, or that the request would grant.
        let lacking = if number == 1 {
            "orders:read orders:*"
        } else {
            "orders:read"
        };
        assert_lacking(update(scopes(&["keys:write"])).await, lacking);
        drop(
            case.admin
                .keys
                .update(case.id, scopes(&CALLER))
                .await
                .unwrap(),
        );

        let elsewhere = KeyUpdate::new().allowed_addresses(["192.0.2.0/24".parse().unwrap()]);
        update(elsewhere).await.problem(403, "address_not_allowed");
        assert_eq!(case.stored().await, before);

        let everywhere = KeyUpdate::new().allowed_addresses([]);
        case.admin.keys.update(case.id, everywhere).await.unwrap();
        assert!(update(scopes(&CALLER)).await.status.is_success());
    }
}

#[tokio::test]
async fn a_caller_that_loses_what_a_layer_around_the_router_requires_changes_nothing() {
    for number in 0..4 {
        let mut case = Case::new(Admin::new().await).await;
        let layer = ApiKeyLayer::new(&case.admin.keys).scopes(["office"]);
        case.admin.app = case.admin.app.layer(layer);
        let (before, request) = (case.stored().await, case.requests()[number].clone());
        let (keys, id) = (case.admin.keys.clone(), case.id);
        let meanwhile = async move {
            let fewer = KeyUpdate::new().scopes(["keys:write", "orders:*"]);
            keys.update(id, fewer).await.unwrap();
        };
        assert_lacking(case.send(request, meanwhile).await, "office");
        assert_eq!(case.stored().await, before);
    }
}

#[tokio::test]
async fn a_client_that_a_layer_around_the_router_knows_by_its_proxy_may_change_keys() {
    let mut case = Case::new(Admin::new().await).await;
    let layer = ApiKeyLayer::new(&case.admin.keys).trust_proxies(proxies());
    case.admin.app = case.admin.app.layer(layer);
    let allow = async |network: &str| {
        let update = KeyUpdate::new().allowed_addresses([network.parse().unwrap()]);
        case.admin.keys.update(case.id, update).await.unwrap();
    };
    for request in case.requests() {
        for (network, is_allowed) in [("192.0.2.0/24", true), ("203.0.113.0/24", false)] {
            allow(network).await;
            let (method, path, body) = request.clone();
            let head = case
                .head(method, path)
                .header("x-forwarded-for", "192.0.2.1");
            let peer = ClientAddress("10.0.0.1".parse().unwrap());
            let body = Body::from(body.to_string());
            let answer = case
                .admin
                .send(head.extension(peer).body(body).unwrap())
                .await;
            assert_eq!(answer.status.is_success(), is_allowed, "{answer:?}");
        }
    }
}

#[tokio::test]
async fn a_target_that_grows_stronger_meanwhile_is_not_changed() {
    for number in 1..4 {
        let case = Case::new(Admin::new().await).await;
        let (keys, target) = (case.admin.keys.clone(), case.target);
        let meanwhile = async move {
            let stronger = KeyUpdate::new().scopes(["users:read"]);
            keys.update(target, stronger).await.unwrap();
        };
        let request = case.requests()[number].clone();
        assert_lacking(case.send(request, meanwhile).await, "users:read");
    }
}

#[tokio::test]
async fn each_attempt_decides_on_the_caller_again() {
    for (what, end) in ENDS {
        // Of the requests that change a key, and may find that another change came first.
        for number in 1..5 {
            let store = Overtaken::default();
            let case = Case::new(Admin::over(store.clone()).await).await;
            let (id, target) = (case.id, case.target);
            store.before_next_change(move |other| async move {
                let renamed = KeyUpdate::new().name("by another");
                other.update(target, renamed).await.unwrap();
                end(other, id).await;
            });
            let delete = (Method::DELETE, path(target), json!(null));
            let request = case.requests().get(number).cloned().unwrap_or(delete);
            let answer = case.answer_now(request.clone()).await;
            assert_eq!(answer.status, 401, "{what} {request:?}: {answer:?}");
            answer.problem(401, "invalid_key");
            let stored = case.stored().await.1;
            assert_eq!(
                (&*stored.record.name, stored.record.version),
                ("by another", 2)
            );
            assert_eq!(stored.credentials.len(), 1);
        }
    }
}

#[tokio::test]
async fn a_decision_that_a_revocation_overtakes_is_made_again() {
    for number in 0..4 {
        let store = ScriptedStore::new(MemoryStore::new());
        let case = Case::new(Admin::over(store.clone()).await).await;
        let (before, request) = (case.stored().await, case.requests()[number].clone());
        let holding = store.clone();
        let answer = case.send(request, async move { holding.hold_lookups(true) });
        let mut answer = std::pin::pin!(answer);
        // The head's lookup was the first; the second has read the key before it is held.
        tokio::select! {
            () = store.begun(2) => {}
            early = &mut answer => panic!("nothing was decided again: {early:?}"),
        }
        case.admin.keys.revoke(case.id).await.unwrap();
        store.hold_lookups(false);
        let answer = answer.await;
        answer.problem(401, "invalid_key");
        assert_eq!(case.stored().await, before);
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_cannot_be_decided_on_again_changes_nothing() {
    for number in 0..4 {
        let store = ScriptedStore::new(MemoryStore::new());
        let case = Case::new(Admin::over(store.clone()).await).await;
        let (before, request) = (case.stored().await, case.requests()[number].clone());
        // For ever, so that the deadline of lookups has to end it.
        let held = async move { store.hold_lookups(true) };
        case.send(request, held).await.problem(503, "unavailable");
        assert_eq!(case.stored().await, before);
    }
}

#[tokio::test]
async fn a_caller_is_not_taken_for_another_key() {
    let store = Overtaken::default();
    let case = Case::new(Admin::over(store.clone()).await).await;
    let before = case.stored().await;
    let root = KeyDigest::sha256(&case.admin.root);
    let new = json!({"name": "n", "scopes": ["*"]});
    let request = (Method::POST, "/admin/keys".to_owned(), new);
    let meanwhile = async move { store.mistake_all_for(root) };
    let answer = case.send(request, meanwhile).await;
    answer.problem(503, "unavailable");
    assert_eq!(case.stored().await, before);
}

#[tokio::test(start_paused = true)]
async fn a_body_has_ten_seconds() {
    let case = Case::new(Admin::new().await).await;
    for request in case.requests() {
        let late = tokio::time::sleep(Duration::from_millis(9_999));
        let answer = case.send(request, late).await;
        assert!(answer.status.is_success(), "{answer:?}");
    }
    let before = case.stored().await;
    for (method, path, _) in case.requests() {
        // Byte for byte, and never to its end.
        let drops = stream::unfold((), async |()| {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Some((Ok::<_, Infallible>(Bytes::from_static(b" ")), ()))
        });
        let began = tokio::time::Instant::now();
        let request = case.head(method.clone(), path.clone());
        let request = request.body(Body::from_stream(drops)).unwrap();
        let answer = case.admin.send(request).await;
        assert_eq!(began.elapsed(), Duration::from_secs(10));
        assert_eq!(answer.header("connection"), "close");
        answer.problem(408, "request_timeout");

        let silence = stream::pending::<Result<Bytes, Infallible>>();
        let request = case.head(method, path).version(Version::HTTP_2);
        let request = request.body(Body::from_stream(silence)).unwrap();
        let answer = case.admin.send(request).await;
        // HTTP/2 has no such field.
        assert_eq!(answer.header("connection"), "");
        answer.problem(408, "request_timeout");
    }
    assert_eq!(case.stored().await, before);
}

#[tokio::test]
async fn the_principal_of_a_test_changes_keys_within_its_scopes() {
    let mut case = Case::new(Admin::new().await).await;
    let caller = TestPrincipal::new(NewKey::named("caller").scopes(CALLER)).of(&case.admin.keys);
    let router = admin::router(&case.admin.keys).layer(PrincipalLayer::new(caller.build()));
    case.admin.app = axum::Router::new().nest("/admin", router);
    for request in case.requests() {
        let answer = case.answer_now(request).await;
        assert!(answer.status.is_success(), "{answer:?}");
    }
    let root = json!({"name": "n", "scopes": ["*"]});
    let answer = case
        .answer_now((Method::POST, "/admin/keys".to_owned(), root))
        .await;
    assert_lacking(answer, "*");
}
