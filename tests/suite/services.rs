//! The middleware as a Tower service: readiness, clones, bodies, hooks, and life without axum.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::combinators::{BoxBody, UnsyncBoxBody};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_api_key::{ApiKeyService, DenialBody, DenialKind, KeyPrincipal, NewKey};

use crate::support::{Bench, bearing, get, limit, send, whole};

/// Panics when it is called without having been made ready. A clone of it is not ready.
struct Strict {
    ready: bool,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    busy: AtomicBool,
    calls: AtomicUsize,
    clones: AtomicUsize,
}

impl Clone for Strict {
    fn clone(&self) -> Self {
        self.counts.clones.fetch_add(1, Ordering::Relaxed);
        Self {
            ready: false,
            counts: Arc::clone(&self.counts),
        }
    }
}

impl Service<Request<Body>> for Strict {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        if self.counts.busy.load(Ordering::Relaxed) {
            return Poll::Pending;
        }
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Body>) -> Self::Future {
        assert!(
            std::mem::take(&mut self.ready),
            "called before it was ready"
        );
        self.counts.calls.fetch_add(1, Ordering::Relaxed);
        ready(Ok(Response::new(Body::empty())))
    }
}

#[tokio::test]
async fn the_service_that_was_made_ready_is_the_one_that_is_called() {
    let bench = Bench::new();
    let key = bench.secret(NewKey::named("x")).await;
    let counts = Arc::new(Counts::default());
    let strict = Strict {
        ready: false,
        counts: Arc::clone(&counts),
    };
    let auth = bench.layer();
    let mut service = auth.layer(auth.scopes(Vec::<String>::new()).layer(strict));
    let clones = || counts.clones.load(Ordering::Relaxed);
    // By way of the store, from the cache, refused, and again.
    for (request, status, cloned) in [
        (bearing(&key), 200, 1),
        (bearing(&key), 200, 0),
        (bearing("x"), 401, 0),
        (bearing(&key), 200, 0),
    ] {
        let before = clones();
        let response = service.ready().await.unwrap().call(request).await.unwrap();
        assert_eq!(response.status().as_u16(), status);
        assert_eq!(clones() - before, cloned);
    }
    // Two that wait for the store at the same time.
    bench.keys.verifier().invalidate_all();
    let first = service.ready().await.unwrap().call(bearing(&key));
    let second = service.ready().await.unwrap().call(bearing(&key));
    assert_eq!(second.await.unwrap().status(), 200);
    assert_eq!(first.await.unwrap().status(), 200);
    assert_eq!(counts.calls.load(Ordering::Relaxed), 5);
}

#[tokio::test]
async fn a_service_that_is_busy_makes_the_caller_wait() {
    let bench = Bench::new();
    let counts = Arc::new(Counts::default());
    let strict = Strict {
        ready: false,
        counts: Arc::clone(&counts),
    };
    let mut service = poll_ready_of(bench.layer().layer(strict));
    counts.busy.store(true, Ordering::Relaxed);
    assert!(service().is_pending());
    counts.busy.store(false, Ordering::Relaxed);
    assert!(service().is_ready());
}

/// Polls for readiness, once for each call.
fn poll_ready_of(mut service: ApiKeyService<Strict>) -> impl FnMut() -> Poll<()> {
    move || {
        let mut context = Context::from_waker(std::task::Waker::noop());
        service.poll_ready(&mut context).map(drop)
    }
}

#[test]
fn a_clone_costs_one_pointer_beside_the_inner_service() {
    assert_eq!(size_of::<ApiKeyService<()>>(), size_of::<usize>());
}

#[tokio::test]
async fn an_error_of_the_inner_service_passes_through() {
    let bench = Bench::new();
    let key = bench
        .secret(NewKey::named("x").limit(limit("burst", 9, 16)))
        .await;
    let failing = service_fn(async |_: Request<Body>| Err::<Response<Body>, _>("broken"));
    let service = bench.layer().layer(failing);
    for _ in 0..2 {
        let failed = service.clone().oneshot(bearing(&key)).await;
        assert_eq!(failed.unwrap_err(), "broken");
    }
}

#[tokio::test]
async fn a_request_that_goes_away_leaves_those_that_wait_with_it_alone() {
    let bench = Bench::new();
    let key = bench.secret(NewKey::named("x")).await;
    let counts = Arc::new(Counts::default());
    let strict = Strict {
        ready: false,
        counts: Arc::clone(&counts),
    };
    let service = bench.layer().layer(strict);
    bench.store.hold_lookups(true);
    let [first, second, third] = [(); 3].map(|()| Box::pin(service.clone().oneshot(bearing(&key))));
    let mut first = first;
    assert!((&mut first).now_or_never().is_none());
    bench.store.begun(1).await;
    let second = tokio::spawn(second);
    let third = tokio::spawn(third);
    tokio::task::yield_now().await;
    drop(first);
    third.abort();
    bench.store.hold_lookups(false);
    assert_eq!(second.await.unwrap().unwrap().status(), 200);
    assert!(third.await.unwrap_err().is_cancelled());
    assert_eq!(bench.store.lookups(), 1);
    assert_eq!(counts.calls.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_hook_changes_the_body_and_adds_headers() {
    let bench = Bench::new();
    let key = NewKey::named("x").limit(limit("burst", 1, 16));
    let key = bench.secret(key).await;
    let layer = bench.layer().on_denial(|denial, request, answer| {
        let text = format!("{} {}", denial.kind().code(), request.uri.path());
        let mut answer = answer.map(|_| text.into());
        let headers = answer.headers_mut();
        headers.insert("content-type", HeaderValue::from_static("text/plain"));
        headers.insert("x-own", HeaderValue::from_static("1"));
        answer
    });
    let service = layer.layer(service_fn(fine));
    let answer = send(&service, get("/a", &[])).await;
    let headers = [
        ("cache-control", "no-store"),
        ("content-type", "text/plain"),
        ("www-authenticate", r#"Bearer realm="api""#),
        ("x-own", "1"),
    ];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!((answer.status, &*answer.body), (401, "missing_key /a"));
    assert_eq!(answer.headers, headers);

    assert_eq!(send(&service, bearing(&key)).await.status, 200);
    let answer = send(&service, bearing(&key)).await;
    assert_eq!((answer.status, &*answer.body), (429, "rate_limited /"));
    assert_eq!(answer.header("retry-after").unwrap(), "16");
    assert_eq!(answer.header("ratelimit").unwrap(), r#""burst";r=0;t=16"#);
}

#[tokio::test]
async fn a_hook_can_change_what_is_mandatory_if_it_wants_to() {
    let bench = Bench::new();
    let layer = bench.layer().on_denial(|denial, _, mut answer| {
        assert_eq!(denial.kind(), DenialKind::MissingKey);
        answer.headers_mut().remove("www-authenticate");
        *answer.status_mut() = StatusCode::NOT_FOUND;
        answer
    });
    let answer = send(&layer.layer(service_fn(fine)), get("/", &[])).await;
    assert_eq!(answer.status, 404);
    assert_eq!(answer.header("www-authenticate"), None);
}

/// The header lines of a request.
type Lines<'a> = &'a [(&'a str, &'a [u8])];

#[tokio::test]
async fn a_hook_sees_no_key() {
    let bench = Bench::new();
    let key = bench.secret(NewKey::named("x")).await;
    let sources = tower_api_key::CredentialSources::default().query_parameter("k");
    let layer =
        bench
            .layer()
            .sources(sources)
            .scopes(["a"])
            .on_denial(|denial, request, answer| {
                let seen = format!("{} {:?} {denial:?}", request.uri, request.headers);
                answer.map(|_| seen.into())
            });
    let service = layer.layer(service_fn(fine));
    let bearer = format!("Bearer {key}");
    let query = format!("/?k={key}");
    let twice = format!("/?k={key}&k={key}");
    let (auth, own) = (
        ("authorization", bearer.as_bytes()),
        ("x-api-key", key.as_bytes()),
    );
    let rows: [(&str, Lines<'_>, u16); 8] = [
        ("/", &[auth], 403),
        ("/", &[own], 403),
        (&query, &[], 403),
        ("/", &[auth, auth], 400),
        ("/", &[own, own], 400),
        ("/", &[auth, own], 400),
        (&query, &[auth, own], 400),
        (&twice, &[], 400),
    ];
    for (uri, lines, status) in rows {
        // Once with a lookup, once without.
        bench.keys.verifier().invalidate_all();
        for _ in 0..2 {
            let answer = send(&service, get(uri, lines)).await;
            assert_eq!(answer.status, status);
            assert!(!answer.body.contains(&key[13..20]), "{}", answer.body);
        }
    }
}

async fn fine(_: Request<Body>) -> Result<Response<Body>, Infallible> {
    Ok(Response::new(Body::empty()))
}

/// A body of an application's own.
struct Own(String);

impl From<DenialBody> for Own {
    fn from(_: DenialBody) -> Self {
        Self("denied".into())
    }
}

#[tokio::test]
async fn any_body_that_can_be_made_from_ours_will_do() {
    let bench = Bench::new();
    let layer = bench.layer();
    let request = || get("/", &[]);

    let full =
        async |_: Request<Body>| Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()));
    assert_eq!(
        send(&layer.layer(service_fn(full)), request()).await.status,
        401
    );
    let ours = async |_: Request<Body>| Ok::<_, Infallible>(Response::new(DenialBody::default()));
    assert_eq!(
        send(&layer.layer(service_fn(ours)), request()).await.status,
        401
    );
    let boxed = async |_: Request<Body>| {
        let body: BoxBody<Bytes, std::io::Error> = Full::default().map_err(|e| match e {}).boxed();
        Ok::<_, Infallible>(Response::new(body))
    };
    let answer = send(&layer.layer(service_fn(boxed)), request()).await;
    assert_eq!(answer.code(), "missing_key");
    let unsync = async |_: Request<Body>| {
        let body: UnsyncBoxBody<Bytes, std::io::Error> =
            Full::default().map_err(|e| match e {}).boxed_unsync();
        Ok::<_, Infallible>(Response::new(body))
    };
    assert_eq!(
        send(&layer.layer(service_fn(unsync)), request())
            .await
            .status,
        401
    );
    let own = async |_: Request<Body>| Ok::<_, Infallible>(Response::new(Own(String::new())));
    let response = layer
        .layer(service_fn(own))
        .oneshot(request())
        .await
        .unwrap();
    assert_eq!(response.into_body().0, "denied");
}

#[tokio::test]
async fn the_body_of_the_request_may_be_anything() {
    // Neither `Send` nor `Clone` nor a body.
    struct Thing(#[expect(dead_code, reason = "only its type matters")] std::rc::Rc<u8>);
    let bench = Bench::new();
    let key = bench.secret(NewKey::named("x")).await;
    let inner = service_fn(async |_: Request<Thing>| {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    });
    let request = Request::get("/")
        .header("x-api-key", key)
        .body(Thing(std::rc::Rc::new(1)));
    let response = bench.layer().layer(inner).oneshot(request.unwrap()).await;
    assert_eq!(whole(response.unwrap()).await.status, 200);
}

/// Serves one connection with hyper alone.
async fn serve_one<S>(service: S) -> SocketAddr
where
    S: Service<Request<Incoming>, Response = Response<Full<Bytes>>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
            .await
    });
    address
}

#[tokio::test]
async fn it_serves_on_hyper_without_axum() {
    let bench = Bench::new();
    let key = bench
        .secret(NewKey::named("acme").limit(limit("burst", 9, 16)))
        .await;
    let inner = service_fn(async |request: Request<Incoming>| {
        let principal = request.extensions().get::<KeyPrincipal>().unwrap();
        Ok::<_, Infallible>(Response::new(Full::from(principal.name().to_owned())))
    });
    let address = serve_one(bench.layer().layer(inner)).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let requests = [
        "GET / HTTP/1.1\r\nhost: x\r\n\r\n".into(),
        // The bytes on the wire: white space around a value is not part of it (RFC 9110 §5.5).
        format!("GET / HTTP/1.1\r\nhost: x\r\nAUTHORIZATION:   bearer  {key} \t \r\n\r\n"),
        "GET / HTTP/1.1\r\nhost: x\r\nx-api-key: \u{439}\r\n\r\n".into(),
        "HEAD / HTTP/1.1\r\nhost: x\r\nx-api-key:\r\n\r\n".into(),
        format!("GET / HTTP/1.1\r\nhost: x\r\nx-api-key: {key}\r\nconnection: close\r\n\r\n"),
    ];
    stream
        .write_all(requests.concat().as_bytes())
        .await
        .unwrap();
    let mut received = String::new();
    stream.read_to_string(&mut received).await.unwrap();
    let received = received.to_lowercase();
    let statuses: Vec<_> = received
        .split("http/1.1 ")
        .skip(1)
        .map(|answer| &answer[..3])
        .collect();
    assert_eq!(statuses, ["401", "200", "401", "401", "200"], "{received}");
    let answers: Vec<_> = received.split("http/1.1 ").skip(1).collect();
    assert!(answers[0].contains("missing_key"), "{received}");
    assert!(answers[1].ends_with("acme"), "{received}");
    assert!(answers[2].contains("invalid_key"), "{received}");
    assert!(
        answers[3].ends_with("\r\n\r\n"),
        "a HEAD has no body: {received}"
    );
    assert!(
        answers[4].contains(r#"ratelimit: "burst";r=7;t=16"#),
        "{received}"
    );
}

#[test]
fn the_service_and_its_future_can_go_to_another_thread() {
    fn sendable<T: Send>() {}
    type Inner = tower::util::BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>;
    sendable::<ApiKeyService<Inner>>();
    sendable::<tower_api_key::ResponseFuture<Inner, Body>>();
}
