//! Random keys by the million.

use std::convert::Infallible;
use std::process::Command;

use axum::body::Body;
use http::{Request, Response, StatusCode};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_api_key::{KeyFormat, NewKey};

use crate::support::{Bench, bearing};

/// Well-formed keys that nobody has issued. Without optimization each takes so long that there are
/// fewer of them; they are still twenty times as many as the cache remembers.
const KEYS: usize = if cfg!(debug_assertions) {
    200_000
} else {
    1_000_000
};

/// In bytes: what the process may grow by at any time while they come.
const MEMORY: u64 = 32 << 20;

/// The memory is that of a whole process, so the test has one of its own.
#[tokio::test]
async fn random_keys_neither_fill_the_memory_nor_push_a_real_one_out() {
    const NAME: &str = "flood::random_keys_neither_fill_the_memory_nor_push_a_real_one_out";
    const ALONE: &str = "TOWER_API_KEY_FLOOD_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return flood().await;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", NAME, "--nocapture"])
        .env(ALONE, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr),
    );
}

async fn flood() {
    let bench = Bench::new();
    let real = bench.secret(NewKey::named("real")).await;
    let mut service = bench.layer().layer(service_fn(async |_: Request<Body>| {
        Ok::<_, Infallible>(Response::new(Body::empty()))
    }));
    let mut send = async |key: &str| {
        let Ok(response) = service.ready().await.unwrap().call(bearing(key)).await;
        response.status()
    };
    assert_eq!(send(&real).await, StatusCode::OK);

    let format = KeyFormat::new("sk");
    let before = resident_bytes();
    for number in 1..=KEYS {
        let key = format.generate("sk", "live").unwrap();
        assert_eq!(send(key.expose()).await, StatusCode::UNAUTHORIZED);
        if number % 1_000 == 0
            && let Some((before, now)) = before.zip(resident_bytes())
        {
            let grown = now.saturating_sub(before);
            assert!(grown < MEMORY, "{grown} bytes more after {number} keys");
        }
    }
    // Each of them was new to the cache.
    assert_eq!(bench.store.lookups(), 1 + KEYS);

    assert_eq!(send(&real).await, StatusCode::OK);
    assert_eq!(bench.store.lookups(), 1 + KEYS);
}

/// How much memory the process has, where the operating system tells.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1_024)
}
