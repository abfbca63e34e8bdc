//! What a verification costs when the cache does not know the key.
//!
//! The keys are visited in random order, so that of a large database hardly any page that a lookup
//! needs was needed shortly before. A verification among 1,000,000 keys should take at most 1.5
//! times as long as one among 1,000.

mod database;

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use tower_api_key::{Attempt, CacheConfig, Requirements, Verifier};

use database::Database;

criterion_group!(benches, cold);
criterion_main!(benches);

fn cold(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime can be started");
    let mut group = criterion.benchmark_group("sqlite_cold_verification");
    for count in [1_000, 1_000_000] {
        let database = runtime.block_on(Database::with_keys(count, secret));
        // Nothing is used twice, so every verification is a cold one.
        let forgetful = CacheConfig::default()
            .ttl(Duration::ZERO)
            .stale_if_error(Duration::ZERO);
        let verifier = Verifier::builder(database.store.clone())
            // Texts without a checksum are quicker to make.
            .accept_imported(true)
            .cache(forgetful)
            .build_verifier();
        let needs = Requirements::new().scopes(["invoices:read"]);
        let verification = async || {
            let text = secret(database.next_key());
            verifier
                .verify(Attempt::new(&text), &needs)
                .await
                .expect("the key is good")
        };
        group.bench_function(BenchmarkId::from_parameter(count), |bencher| {
            bencher.to_async(&runtime).iter(verification);
        });
        runtime.block_on(database.store.close());
    }
    group.finish();
}

fn secret(number: u32) -> String {
    format!("sk_live_{number:043}000000")
}
