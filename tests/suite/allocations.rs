//! What a hit in the cache takes from the allocator.

use std::convert::Infallible;
use std::future::{Ready, ready};

use allocation_counter::measure;
use futures_util::FutureExt;
use http::header::AUTHORIZATION;
use http::{HeaderValue, Request, Response};
use http_body_util::Empty;
use tower::{Layer, Service};
use tower_api_key::{ApiKeyLayer, ApiKeyService, ClientAddress, DenialBody, NewKey, RateLimit};

use crate::support::Bench;

type Answer = Response<DenialBody>;

/// A service that does nothing.
#[derive(Clone)]
struct Bare;

impl Service<Request<Empty<&'static [u8]>>> for Bare {
    type Response = Answer;
    type Error = Infallible;
    type Future = Ready<Result<Answer, Infallible>>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Empty<&'static [u8]>>) -> Self::Future {
        ready(Ok(Response::default()))
    }
}

/// A service behind the layer, and a header with a key that is in its cache.
async fn warm(key: NewKey) -> (Bench, ApiKeyService<Bare>, HeaderValue) {
    let bench = Bench::new();
    let secret = bench.secret(key.scopes(["orders:read", "users:*"])).await;
    let layer = ApiKeyLayer::new(&bench.keys).scopes(["orders:read", "users:write"]);
    let mut service = layer.layer(Bare);
    let header = HeaderValue::try_from(format!("Bearer {secret}")).unwrap();
    // The first is a miss, and the second the first that is counted, in a place that grows once.
    for _ in 0..2 {
        service.call(request(&header)).await.unwrap();
    }
    (bench, service, header)
}

/// As a server hands it on: its extensions hold something already.
fn request(header: &HeaderValue) -> Request<Empty<&'static [u8]>> {
    Request::builder()
        .extension(ClientAddress([192, 0, 2, 1].into()))
        .header(AUTHORIZATION, header)
        .body(Empty::new())
        .unwrap()
}

fn hit(service: &mut ApiKeyService<Bare>, header: &HeaderValue) -> (u64, Answer) {
    let (request, mut answer) = (request(header), None);
    let counted = measure(|| {
        // A hit is answered without waiting.
        answer = service.call(request).now_or_never();
    });
    (counted.count_total, answer.unwrap().unwrap())
}

#[tokio::test]
async fn a_hit_allocates_at_most_twice() {
    let (_bench, mut service, header) = warm(NewKey::named("x")).await;
    let (allocations, answer) = hit(&mut service, &header);
    assert!(answer.status().is_success());
    assert!(allocations <= 2, "{allocations}");
}

#[tokio::test]
async fn beyond_that_only_the_limit_headers_allocate() {
    let key = NewKey::named("x").limit(RateLimit::per_minute(100));
    let (_bench, mut service, header) = warm(key).await;
    let (allocations, answer) = hit(&mut service, &header);
    assert_eq!(answer.headers().len(), 2);
    // The map of headers, and the one value that is written anew.
    let mut again = Answer::default();
    let state = answer.headers()["ratelimit"].clone();
    let of_headers = measure(|| {
        let state = HeaderValue::from_bytes(state.as_bytes()).unwrap();
        again.headers_mut().append("ratelimit", state);
    });
    let most = 2 + of_headers.count_total;
    assert!(allocations <= most, "{allocations} of {most}");
}

#[tokio::test]
async fn the_policy_is_written_once_for_each_key() {
    let key = NewKey::named("x").limit(RateLimit::per_minute(100));
    let (_bench, mut service, header) = warm(key).await;
    let (_, first) = hit(&mut service, &header);
    let (_, second) = hit(&mut service, &header);
    let place = |answer: &Answer| answer.headers()["ratelimit-policy"].as_bytes().as_ptr();
    assert_eq!(place(&first), place(&second));
}
