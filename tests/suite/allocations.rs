//! What a request whose key is in the cache takes from the allocator.
//!
//! Counted is what this thread allocates from `call` until the answer is dropped, beyond what the
//! service behind the layer allocates for the same request without it. The request carries its
//! peer's address in its extensions, as one from `axum::serve` does: the map is there already.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::net::SocketAddr;

use allocation_counter::measure;
use axum::body::Body;
use axum::extract::ConnectInfo;
use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderName, HeaderValue, Request, Response};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_api_key::{Attempt, Credits, NewKey, Refill, Requirements};

use crate::support::{Bench, bearing, limit};

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const STATE: HeaderName = HeaderName::from_static("ratelimit");

#[tokio::test]
async fn a_hit_allocates_at_most_twice() {
    let bench = Bench::new();
    let key = bench.secret(key()).await;
    let mut service = bench.layer().scopes(["a", "b"]).layer(service_fn(nothing));
    warm_up(&mut service, &key).await;
    let without_layer = allocations(&mut service_fn(nothing), &key);
    for _ in 0..100 {
        let with_layer = allocations(&mut service, &key);
        assert!(with_layer <= without_layer + 2, "{with_layer}");
    }
}

/// The headers on the answer are written here without the layer, as it writes them.
#[tokio::test]
async fn a_hit_of_a_limited_key_allocates_at_most_twice_beside_its_headers() {
    let bench = Bench::new();
    let key = bench.secret(key().limit(limit("burst", 1_000, 16))).await;
    let mut service = bench.layer().scopes(["a", "b"]).layer(service_fn(nothing));
    warm_up(&mut service, &key).await;
    let without_layer = allocations(&mut service_fn(limit_headers), &key);
    for _ in 0..100 {
        let with_layer = allocations(&mut service, &key);
        assert!(with_layer <= without_layer + 2, "{with_layer}");
    }
}

#[tokio::test]
async fn a_decision_on_a_cached_key_allocates_once() {
    let bench = Bench::new();
    let key = bench.secret(key().limit(limit("burst", 1_000, 16))).await;
    let needs = Requirements::new().scopes(["a", "b"]);
    let verify = || bench.keys.verifier().verify(Attempt::new(&key), &needs);
    verify().await.unwrap();
    verify().await.unwrap();
    for _ in 0..100 {
        let counted = measure(|| {
            let verified = verify().now_or_never().expect("it is in the cache");
            assert!(verified.is_ok());
        });
        // What the handler and the answer share.
        assert_eq!(counted.count_total, 1);
    }
}

#[tokio::test]
async fn a_decision_on_a_key_with_credits_allocates_no_more() {
    let bench = Bench::new();
    let credits = Credits::refilled(Refill::monthly(1_000_000));
    let key = bench.secret(key().credits(credits)).await;
    let needs = Requirements::new().scopes(["a", "b"]);
    let verify = || bench.keys.verifier().verify(Attempt::new(&key), &needs);
    // Batches grow: 1, 9, 73, and the next covers the rest.
    for _ in 0..100 {
        verify().await.unwrap();
    }
    for _ in 0..100 {
        let counted = measure(|| {
            let verified = verify().now_or_never().expect("it is leased");
            assert!(verified.is_ok());
        });
        // What the handler and the answer share.
        assert_eq!(counted.count_total, 1);
    }
}

#[tokio::test]
async fn the_policy_header_is_written_once_for_each_cached_key() {
    let bench = Bench::new();
    let key = bench.secret(key().limit(limit("burst", 1_000, 16))).await;
    let mut service = bench.layer().layer(service_fn(nothing));
    let mut policy = async || {
        let Ok(response) = service.ready().await.unwrap().call(bearing(&key)).await;
        response.headers()[POLICY].clone()
    };
    // The first answer's is kept, so that nothing else can come to be in its place.
    let (first, second) = (policy().await, policy().await);
    assert_eq!(first, r#""burst";q=1000;w=16"#);
    assert_eq!(first.as_bytes().as_ptr(), second.as_bytes().as_ptr());
}

fn key() -> NewKey {
    NewKey::named("x").owner("y").scopes(["a", "b"])
}

/// The first answer comes from the store, the second from the cache, and by then the layer has all
/// that it keeps.
async fn warm_up<S>(service: &mut S, key: &str)
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    for _ in 0..2 {
        let Ok(response) = service.ready().await.unwrap().call(request(key)).await;
        assert_eq!(response.status(), 200);
    }
}

/// How often one request makes this thread allocate.
fn allocations<S>(service: &mut S, key: &str) -> u64
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    let request = request(key);
    let counted = measure(|| {
        let answer = service.call(request).now_or_never();
        let Ok(response) = answer.expect("nothing waits for anything");
        assert_eq!(response.status(), 200);
    });
    counted.count_total
}

fn request(key: &str) -> Request<Body> {
    let mut request = bearing(key);
    let peer = SocketAddr::from(([192, 0, 2, 1], 50_000));
    request.extensions_mut().insert(ConnectInfo(peer));
    request
}

fn nothing(_: Request<Body>) -> Ready<Result<Response<Body>, Infallible>> {
    ready(Ok(Response::new(Body::empty())))
}

/// A policy that is only a reference, and a state that is written anew.
fn limit_headers(_: Request<Body>) -> Ready<Result<Response<Body>, Infallible>> {
    let mut response = Response::new(Body::empty());
    let policy = HeaderValue::from_static(r#""burst";q=1000;w=16"#);
    let mut state = Vec::with_capacity(64);
    state.extend_from_slice(br#""burst";r=999;t=16"#);
    let state = HeaderValue::from_maybe_shared(Bytes::from(state)).unwrap();
    response.headers_mut().append(POLICY, policy);
    response.headers_mut().append(STATE, state);
    ready(Ok(response))
}
