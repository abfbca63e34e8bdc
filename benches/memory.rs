//! How much memory a cached key takes.
//!
//! ```text
//! cargo bench -p benches --bench memory
//! ```
//!
//! A million keys, each with an owner, two scopes and a limit of its own that was charged once,
//! from a store that makes them up: so what the process grows by is the cache and the limiter. The
//! second half is measured, when tables have grown that are there once.

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use tower_api_key::{
    Attempt, CacheConfig, Credential, KeyDigest, KeyId, KeyRecord, KeyStore, RateLimit, RateLimits,
    Requirements, ScopeSet, StoreError, StoredKey, Verifier,
};

const KEYS: u64 = 1_000_000;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let cache = CacheConfig::default()
        .capacity(2 * KEYS)
        .ttl(Duration::from_hours(24));
    let verifier = Verifier::builder(Everything)
        // Texts without a checksum are quicker to make.
        .accept_imported(true)
        .cache(cache)
        .max_limited(2_000_000)
        .build_verifier();
    let needs = Requirements::new().scopes(["invoices:read"]);
    let mut before = 0;
    for number in 0..KEYS {
        if number == KEYS / 2 {
            before = resident_bytes();
        }
        let text = format!("sk_live_{number:043}000000");
        let outcome = verifier.verify(Attempt::new(&text), &needs).await;
        outcome.expect("the key is good");
    }
    let each = (resident_bytes() - before) / (KEYS / 2);
    println!(
        "{each} bytes for each cached key with one limit: {} MiB for a million",
        (each * 1_000_000) >> 20
    );
}

/// Has a key for every digest.
#[derive(Debug)]
struct Everything;

#[async_trait]
impl KeyStore for Everything {
    async fn find(&self, digest: &KeyDigest) -> Result<Option<StoredKey>, StoreError> {
        let now = Timestamp::now();
        let id = KeyId::generate(now);
        let limits =
            RateLimits::new([RateLimit::per_hour(1_000)]).expect("one limit is no problem");
        let scopes = ScopeSet::new(["orders:*", "invoices:read"]).expect("these are scopes");
        Ok(Some(StoredKey {
            record: KeyRecord {
                id,
                version: 1,
                name: format!("key {id}"),
                owner: Some(format!("owner {id}")),
                prefix: "sk".into(),
                environment: "live".into(),
                scopes,
                limits,
                credits: None,
                metadata: [("plan".to_owned(), "pro".to_owned())].into(),
                allowed_addresses: Vec::new(),
                enabled: true,
                created_at: now,
                expires_at: None,
                revoked_at: None,
            },
            credential: Credential {
                digest: *digest,
                pepper: None,
                start: "sk_live_8fJ2".into(),
                imported: false,
                created_at: now,
                expires_at: None,
                last_used_at: None,
            },
        }))
    }
}

/// The memory that this process holds.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("this measures Linux only");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kibibytes.expect("the system tells it") * 1_024
}
