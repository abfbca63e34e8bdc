//! A million keys that nobody issued, in a process of its own: the memory of a process is told
//! for all its threads together.

use std::convert::Infallible;

use http::{Request, Response, StatusCode};
use http_body_util::Empty;
use tower::{Layer, Service, service_fn};
use tower_api_key::testing::{ManualClock, ScriptedStore};
use tower_api_key::{ApiKeyLayer, ApiKeys, DenialBody, KeyFormat, MemoryStore, NewKey, RateLimit};

const MEBIBYTE: usize = 1_024 * 1_024;

#[tokio::test]
async fn a_million_random_keys_take_little_memory_and_push_no_real_key_out() {
    let store = ScriptedStore::new(MemoryStore::new());
    let keys = ApiKeys::builder(store.clone())
        .clock(ManualClock::default())
        .build();
    let key = NewKey::named("real").limit(RateLimit::per_minute(1_000_000));
    let issued = keys.issue(key).await.unwrap();
    let mut service = ApiKeyLayer::new(&keys).layer(service_fn(async |_: Request<_>| {
        Ok::<_, Infallible>(Response::new(DenialBody::default()))
    }));
    let mut status = async |text: &str| {
        let request = Request::builder().header("authorization", format!("Bearer {text}"));
        let request = request.body(Empty::<&[u8]>::new()).unwrap();
        service.call(request).await.unwrap().status()
    };
    let format = KeyFormat::new("sk");
    let random = || format.generate("sk", "live").unwrap();
    let real = issued.secret().expose();
    // Whatever a process needs once is there before it is measured.
    assert_eq!(status(real).await, StatusCode::OK);
    for _ in 0..1_000 {
        assert_eq!(status(random().expose()).await, StatusCode::UNAUTHORIZED);
    }
    let before = resident_bytes();

    for number in 0..1_000_000 {
        assert_eq!(status(random().expose()).await, StatusCode::UNAUTHORIZED);
        if number % 1_000 == 0 {
            assert_eq!(status(real).await, StatusCode::OK);
        }
    }

    let lookups = store.lookups();
    assert_eq!(
        lookups, 1_001_001,
        "each random key is looked up, the real one was once"
    );
    if let (Some(before), Some(after)) = (before, resident_bytes()) {
        let grown = after.saturating_sub(before);
        println!("resident memory grew by {} KiB", grown / 1_024);
        assert!(grown < 32 * MEBIBYTE, "{grown} bytes");
    }
}

/// The memory that this process holds, where the system tells it.
fn resident_bytes() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: usize = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes * 1_024)
}
