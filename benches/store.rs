//! What a verification costs when the cache does not know the key.
//!
//! The keys are visited in random order, so that of a large database hardly any page that a lookup
//! needs was needed shortly before. A verification among 1,000,000 keys should take at most 1.5
//! times as long as one among 1,000.
//!
//! With the feature `postgres` and a `DATABASE_URL` of `postgres://…` the same is measured there, over
//! 1,000 keys that the bench issues and revokes again.

mod database;

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use tower_api_key::{Attempt, CacheConfig, Requirements, Verifier};

use database::Database;

#[cfg(not(feature = "postgres"))]
criterion_group!(benches, cold);
#[cfg(feature = "postgres")]
criterion_group!(benches, cold, cold_on_postgres);
criterion_main!(benches);

fn cold(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime can be started");
    // Where the task runs that looks for changes in the file.
    let _context = runtime.enter();
    let mut group = criterion.benchmark_group("sqlite_cold_verification");
    for count in [1_000, 1_000_000] {
        let database = runtime.block_on(Database::with_keys(count, secret));
        let verifier = Verifier::builder(database.store.clone())
            // Texts without a checksum are quicker to make.
            .accept_imported(true)
            .cache(forgetful())
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

/// Nothing is used twice, so every verification is a cold one.
fn forgetful() -> CacheConfig {
    CacheConfig::default()
        .ttl(Duration::ZERO)
        .stale_if_error(Duration::ZERO)
}

#[cfg(feature = "postgres")]
fn cold_on_postgres(criterion: &mut Criterion) {
    use std::cell::Cell;

    use tower_api_key::{ApiKeys, Issued, NewKey, PostgresStore};

    let url = std::env::var("DATABASE_URL").unwrap_or_default();
    if !url.starts_with("postgres") {
        return;
    }
    let runtime = tokio::runtime::Runtime::new().expect("a runtime can be started");
    let (keys, issued) = runtime.block_on(async {
        let store = PostgresStore::connect(&url)
            .await
            .expect("the database can be opened");
        let keys = ApiKeys::builder(store).cache(forgetful()).build();
        let mut issued: Vec<Issued> = Vec::new();
        for number in 0..1_000 {
            let new = NewKey::named(format!("bench {number}"));
            issued.push(keys.issue(new).await.expect("a key can be issued"));
        }
        (keys, issued)
    });
    let (next, needs) = (Cell::new(0), Requirements::new());
    let verification = async || {
        let key = &issued[next.replace(next.get() + 1) % issued.len()];
        let attempt = Attempt::new(key.secret().expose());
        keys.verifier()
            .verify(attempt, &needs)
            .await
            .expect("the key is good")
    };
    criterion.bench_function("postgres_cold_verification/1000", |bencher| {
        bencher.to_async(&runtime).iter(verification);
    });
    runtime.block_on(async {
        for key in &issued {
            keys.revoke(key.key().record.id)
                .await
                .expect("a key can be revoked");
        }
    });
}

fn secret(number: u32) -> String {
    format!("sk_live_{number:043}000000")
}
