//! Whatever a client puts where a key may be, the layer answers as the contract says and never
//! panics.
#![no_main]

use std::convert::Infallible;
use std::future::ready;
use std::sync::LazyLock;

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use libfuzzer_sys::fuzz_target;
use tokio::runtime::Runtime;
use tower::{Layer, Service, service_fn};
use tower_api_key::{
    ApiKeyLayer, ApiKeys, ClientAddress, CredentialSources, KeyPrincipal, MemoryStore, NewKey,
    RateLimit,
};

fuzz_target!(|data: &[u8]| {
    // The first byte says which sources are used, the rest is cut into their values at NULs, which
    // no header can have.
    let Some((&sources, rest)) = data.split_first() else {
        return;
    };
    let mut values = rest.split(|&byte| byte == 0);
    let mut request = Request::new(());
    for bit in 0..4 {
        if sources & 1 << bit == 0 {
            continue;
        }
        let value = values.next().unwrap_or_default();
        let value = if sources & 1 << (bit + 4) == 0 {
            value.to_vec()
        } else {
            // So that good keys and near misses come up too.
            [SECRET.as_bytes(), value].concat()
        };
        match bit {
            0 => header(&mut request, AUTHORIZATION, &[b"Bearer ", value.as_slice()].concat()),
            1 => header(&mut request, AUTHORIZATION, &value),
            2 => header(&mut request, HeaderName::from_static("x-api-key"), &value),
            _ => {
                let uri = format!("/path?x=1&api_key={}&y=2", String::from_utf8_lossy(&value));
                if let Ok(uri) = uri.parse() {
                    *request.uri_mut() = uri;
                }
            }
        }
    }
    request.extensions_mut().insert(ClientAddress([192, 0, 2, 1].into()));
    let response = RUNTIME.block_on(LAYER.layer(service_fn(handler)).call(request));
    let response = response.expect("the service does not fail");
    let expected = [
        StatusCode::OK,
        StatusCode::BAD_REQUEST,
        StatusCode::UNAUTHORIZED,
    ];
    assert!(expected.contains(&response.status()), "{response:?}");
});

fn header(request: &mut Request<()>, name: HeaderName, value: &[u8]) {
    if let Ok(value) = HeaderValue::from_bytes(value) {
        request.headers_mut().append(name, value);
    }
}

/// A request that got here has a principal and no credential.
async fn handler(request: Request<()>) -> Result<Response<Full<Bytes>>, Infallible> {
    assert!(request.extensions().get::<KeyPrincipal>().is_some());
    assert!(!request.headers().contains_key("x-api-key"));
    // What follows a `#` is no query, and what follows an `&` is another parameter.
    let mut parameters = request.uri().query().unwrap_or("x=1").split('&');
    assert_eq!(parameters.next(), Some("x=1"));
    assert!(parameters.all(|pair| pair.split('=').next() != Some("api_key")));
    // What is left in `Authorization` is of another scheme, which may be anything.
    let other = request.headers().get(AUTHORIZATION);
    assert!(!other.is_some_and(|line| line.as_bytes().starts_with(b"Bearer ")));
    ready(Ok(Response::default())).await
}

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime can be started")
});

static KEYS: LazyLock<(ApiKeys, String)> = LazyLock::new(|| {
    RUNTIME.block_on(async {
        let keys = ApiKeys::builder(MemoryStore::new()).build();
        let limit = RateLimit::per_minute(RateLimit::MAX_QUOTA);
        let issued = keys.issue(NewKey::named("fuzz").limit(limit)).await;
        let secret = issued.expect("the key is issued").secret().expose().to_owned();
        (keys, secret)
    })
});

static SECRET: LazyLock<&'static str> = LazyLock::new(|| &KEYS.1);

static LAYER: LazyLock<ApiKeyLayer> = LazyLock::new(|| {
    ApiKeyLayer::new(&KEYS.0).sources(CredentialSources::default().query_parameter("api_key"))
});
