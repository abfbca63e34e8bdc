//! What a lookup in the store costs when the cache does not know the key.
//!
//! The keys are visited in random order, so that of a large database hardly any page that a lookup
//! needs was needed shortly before. A lookup among 1,000,000 keys should take at most 1.5 times as
//! long as one among 1,000.

mod database;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use tower_api_key::{KeyDigest, KeyStore};

use database::Database;

criterion_group!(benches, find);
criterion_main!(benches);

fn find(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime can be started");
    let mut group = criterion.benchmark_group("sqlite_find");
    for count in [1_000, 1_000_000] {
        let database = runtime.block_on(Database::with_keys(count, secret));
        let lookup = async || {
            let digest = KeyDigest::sha256(&secret(database.next_key()));
            let found = database.store.find(&digest).await;
            found.expect("the store answers").expect("the key exists")
        };
        group.bench_function(BenchmarkId::from_parameter(count), |bencher| {
            bencher.to_async(&runtime).iter(lookup);
        });
        runtime.block_on(database.store.close());
    }
    group.finish();
}

fn secret(number: u32) -> String {
    format!("sk_live_{number:043}000000")
}
