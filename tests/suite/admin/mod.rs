//! The admin router, row by row of its contract.

mod bodies;
mod ceiling;
mod changing;
mod held;
mod history;
mod issuing;
mod listing;
mod overtaken;
mod refusals;

use std::sync::{Mutex, PoisonError};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Method, Request, StatusCode};
use serde_json::Value;
use tower::ServiceExt;
use tower_api_key::testing::ManualClock;
use tower_api_key::{
    ApiKeys, Builder, KeyFormat, KeyId, KeyRepository, MemoryStore, NewKey, admin,
};

use crate::openapi::assert_documented;

/// The admin router below `/admin`, and a key that may do everything.
pub(crate) struct Admin {
    pub(crate) app: Router,
    pub(crate) keys: ApiKeys,
    clock: ManualClock,
    root: String,
    root_id: KeyId,
    /// The text of every answer so far.
    answers: Mutex<Vec<String>>,
}

impl Admin {
    pub(crate) async fn new() -> Self {
        Self::over(MemoryStore::new()).await
    }

    async fn over(store: impl KeyRepository + Clone) -> Self {
        Self::of(ApiKeys::builder(store)).await
    }

    async fn of(builder: Builder<impl KeyRepository>) -> Self {
        let clock = clock();
        let keys = builder
            .format(KeyFormat::new("sk").prefix("pk"))
            .clock(clock.clone())
            .build();
        let (root_id, root) = issue(&keys, &["*"]).await;
        Self {
            app: Router::new().nest("/admin", admin::router(&keys)),
            keys,
            clock,
            root,
            root_id,
            answers: Mutex::default(),
        }
    }

    /// A further caller.
    pub(crate) async fn caller(&self, scopes: &[&str]) -> String {
        issue(&self.keys, scopes).await.1
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.call(&self.root, Method::GET, path, "").await
    }

    pub(crate) async fn post(&self, path: &str, body: impl ToString) -> Answer {
        self.call(&self.root, Method::POST, path, body).await
    }

    pub(crate) async fn patch(&self, path: &str, body: impl ToString) -> Answer {
        self.call(&self.root, Method::PATCH, path, body).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.call(&self.root, Method::DELETE, path, "").await
    }

    /// A request with this key and, where it is not empty, this JSON.
    pub(crate) async fn call(
        &self,
        key: &str,
        method: Method,
        path: &str,
        body: impl ToString,
    ) -> Answer {
        let body = body.to_string();
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", format!("Bearer {key}"));
        if !body.is_empty() {
            request = request.header("content-type", "application/json");
        }
        self.send(request.body(Body::from(body)).unwrap()).await
    }

    /// Sends a request, and checks what holds for every answer.
    async fn send(&self, request: Request<Body>) -> Answer {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let response = self.app.clone().oneshot(request).await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        let text = String::from_utf8(body.to_vec()).unwrap();
        self.answers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(text.clone());
        let answer = Answer {
            status,
            headers,
            text,
        };
        assert_eq!(answer.header("cache-control"), "no-store", "{answer:?}");
        assert_documented(&method, &path, status, &answer.headers, &answer.json());
        if status.is_success() {
            assert_eq!(answer.header("content-type"), "application/json");
        } else {
            let problem = answer.json();
            assert_eq!(answer.header("content-type"), "application/problem+json");
            assert_eq!(problem["status"], status.as_u16(), "{answer:?}");
            assert_eq!(problem["type"], "about:blank", "{answer:?}");
            for member in ["title", "code", "detail"] {
                assert!(!problem[member].as_str().unwrap().is_empty(), "{answer:?}");
            }
        }
        answer
    }
}

/// The clock that every test here begins with.
fn clock() -> ManualClock {
    ManualClock::new("2026-11-23T10:00:00Z".parse().unwrap())
}

async fn issue(keys: &ApiKeys, scopes: &[&str]) -> (KeyId, String) {
    let new = NewKey::named("made before").scopes(scopes.iter().copied());
    let (secret, key) = keys.issue(new).await.unwrap().into_parts();
    (key.record.id, secret.expose().to_owned())
}

pub(crate) fn path(id: impl std::fmt::Display) -> String {
    format!("/admin/keys/{id}")
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    headers: HeaderMap,
    text: String,
}

impl Answer {
    /// The JSON of an answer with this status.
    #[track_caller]
    pub(crate) fn with(self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{self:?}");
        self.json()
    }

    /// Checks for an error, and returns the field that it names.
    #[track_caller]
    pub(crate) fn problem(self, status: u16, code: &str) -> Value {
        let mut problem = self.with(status);
        assert_eq!(problem["code"], code, "{problem}");
        problem["field"].take()
    }

    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.map_or("", |value| value.to_str().unwrap())
    }
}

/// Checks for the answer to a caller that lacks these scopes.
#[track_caller]
fn assert_lacking(answer: Answer, scopes: &str) {
    let challenge = format!(r#"Bearer realm="api", error="insufficient_scope", scope="{scopes}""#);
    assert_eq!(answer.header("www-authenticate"), challenge, "{answer:?}");
    answer.problem(403, "insufficient_scope");
}
