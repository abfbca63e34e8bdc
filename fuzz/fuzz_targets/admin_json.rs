//! Whatever arrives as a body, the admin router answers with JSON and a status of the contract, and
//! hands out no scope that the caller lacks, nor changes a key that has one.
#![no_main]

use std::cell::RefCell;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, Response, StatusCode};
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value};
use tokio::runtime::{Builder, Runtime};
use tower::ServiceExt;
use tower_api_key::{ApiKeys, KeyId, MemoryStore, NewKey, Scope, admin};

fuzz_target!(|data: &[u8]| {
    let [choice, data @ ..] = data else { return };
    let body = if choice & 0x80 == 0 {
        data.to_vec()
    } else {
        // No mutation finds a member's name by luck.
        let object = object(&mut Unstructured::new(data), 0).unwrap_or_default();
        serde_json::to_vec(&object).expect("a value has a JSON form")
    };
    SERVER.with_borrow_mut(|server| server.send(*choice, body));
});

thread_local! {
    static SERVER: RefCell<Server> = RefCell::new(Server::new());
}

/// An admin router over keys in memory, and a caller that may do some things and not others.
struct Server {
    runtime: Runtime,
    keys: ApiKeys,
    router: Router,
    authorization: String,
    targets: [KeyId; 4],
    requests: usize,
}

const CALLER: [&str; 3] = ["keys:read", "keys:write", "a:*"];

impl Server {
    /// How many requests one store serves: rotations make a key longer and longer.
    const LIFE: usize = 1_000;
    /// The deadline of a shutdown. A store in memory answers at once.
    const SHUTDOWN: Duration = Duration::from_secs(10);

    fn new() -> Self {
        let runtime = Builder::new_current_thread().enable_time().build();
        let runtime = runtime.expect("a runtime");
        let (keys, authorization, targets) = runtime.block_on(async {
            let keys = ApiKeys::builder(MemoryStore::new()).build();
            let caller = issue(&keys, &CALLER).await;
            let authorization = format!("Bearer {}", caller.1);
            let nobody = "key_01JAAAAAAAAAAAAAAAAAAAAAAA".parse().expect("an id");
            let mut targets = [nobody; 4];
            for (target, scopes) in targets.iter_mut().zip([&["a:b"][..], &["b"], &[]]) {
                *target = issue(&keys, scopes).await.0;
            }
            keys.revoke(targets[2]).await.expect("a revoked key");
            (keys, authorization, targets)
        });
        Self {
            router: admin::router(&keys),
            runtime,
            keys,
            authorization,
            targets,
            requests: 0,
        }
    }

    fn send(&mut self, choice: u8, body: Vec<u8>) {
        if self.requests == Self::LIFE {
            self.runtime
                .block_on(self.keys.shutdown(Self::SHUTDOWN))
                .expect("a flush");
            *self = Self::new();
        }
        self.requests += 1;

        let target = self.targets[usize::from(choice >> 2 & 3)];
        let issues = choice & 3 <= 1;
        let (method, path) = match choice & 3 {
            0 | 1 => ("POST", "/keys".to_owned()),
            2 => ("PATCH", format!("/keys/{target}")),
            _ => ("POST", format!("/keys/{target}/rotate")),
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", &self.authorization)
            .header("content-type", "application/json")
            .body(Body::from(body))
            .expect("a request");
        let (status, body) = self.runtime.block_on(async {
            let response = self.router.clone().oneshot(request).await;
            read(response.expect("the router does not fail")).await
        });

        let Value::Object(body) = body else {
            panic!("{status} {body}")
        };
        let stronger = self.runtime.block_on(self.keys.get(self.targets[1]));
        let stronger = stronger.expect("a key of a scope that the caller lacks");
        let record = &stronger.record;
        assert_eq!(record.name, "a key", "it was changed");
        assert_eq!((record.scopes.len(), stronger.credentials.len()), (1, 1));
        assert!(
            record.limits.is_empty() && record.metadata.is_empty(),
            "it was changed"
        );
        if status.is_success() {
            if issues {
                check_scopes(&body["key"]);
            }
        } else {
            assert_eq!(body["status"], status.as_u16(), "{body:?}");
        }
    }
}

async fn issue(keys: &ApiKeys, scopes: &[&str]) -> (KeyId, String) {
    let new = NewKey::named("a key").scopes(scopes.iter().copied());
    let (secret, key) = keys.issue(new).await.expect("a key").into_parts();
    (key.record.id, secret.expose().to_owned())
}

async fn read(response: Response<Body>) -> (StatusCode, Value) {
    let status = response.status();
    assert!(
        matches!(
            status.as_u16(),
            200 | 201 | 400 | 403 | 404 | 409 | 413 | 415 | 422
        ),
        "{status}"
    );
    let body = to_bytes(response.into_body(), usize::MAX).await;
    let body = serde_json::from_slice(&body.expect("a body"));
    (status, body.expect("an answer is JSON"))
}

fn check_scopes(key: &Value) {
    let scope = |text: &str| text.parse::<Scope>().expect("a scope");
    for granted in key["scopes"].as_array().expect("scopes") {
        let granted = scope(granted.as_str().expect("text"));
        let covered = CALLER.iter().any(|held| scope(held).covers(&granted));
        assert!(covered, "{granted} was handed out");
    }
}

/// The members that the bodies know, and what some of them may be.
const NAMES: [&str; 15] = [
    "name",
    "owner",
    "prefix",
    "environment",
    "scopes",
    "limits",
    "expires_at",
    "metadata",
    "allowed_addresses",
    "enabled",
    "grace_seconds",
    "quota",
    "window_seconds",
    "a",
    "id",
];
const TEXTS: [&str; 14] = [
    "",
    "sk",
    "pk",
    "live",
    "test",
    "a:b",
    "a:*",
    "*",
    "b",
    "2036-01-01T00:00:00Z",
    "2020-01-01T00:00:00+01:00",
    "10.0.0.0/8",
    "::/0",
    "burst",
];
const NUMBERS: [i64; 8] = [-1, 0, 1, 60, 31_536_000, 31_536_001, 31_622_400, i64::MAX];

fn object(bytes: &mut Unstructured<'_>, depth: usize) -> Result<Map<String, Value>> {
    let mut object = Map::new();
    for _ in 0..bytes.int_in_range(0..=9)? {
        let name = match bytes.ratio(9, 10)? {
            true => (*bytes.choose(&NAMES)?).to_owned(),
            false => bytes.arbitrary()?,
        };
        object.insert(name, value(bytes, depth + 1)?);
    }
    Ok(object)
}

fn value(bytes: &mut Unstructured<'_>, depth: usize) -> Result<Value> {
    Ok(match bytes.int_in_range(0..=9)? {
        0 => Value::Null,
        1 => bytes.arbitrary::<bool>()?.into(),
        2 => (*bytes.choose(&NUMBERS)?).into(),
        3 => bytes.arbitrary::<u64>()?.into(),
        4 => bytes.arbitrary::<f64>()?.into(),
        5 => bytes.arbitrary::<String>()?.into(),
        6 if depth < 4 => {
            let length = bytes.int_in_range(0..=3)?;
            (0..length)
                .map(|_| value(bytes, depth + 1))
                .collect::<Result<_>>()?
        }
        7 if depth < 4 => object(bytes, depth)?.into(),
        _ => (*bytes.choose(&TEXTS)?).into(),
    })
}
