//! What the middleware adds to a request whose key is in the cache.
//!
//! The whole layer is measured, over a service that does nothing: finding the credential, its
//! checksum and digest, the cache, the status, two scopes, one limit, the use that is counted, the
//! principal in the request and the limit headers on the answer. Among 1,000 keys and among
//! 100,000, visited in random order. Beside it, in the same run and with the same requests:
//!
//! - `bare`: the service that does nothing;
//! - `floor`: the SHA-256 of the key's text and one `get` of a moka cache of digests, without any
//!   request: less than that no middleware with hashed keys can do;
//! - `tower_governor`: its limit by the text of the same header, with its headers on;
//! - `axum-governor`: its limit by the client's address, which is all that version 1 can go by,
//!   and version 2 wants a newer Rust than this crate does.
//!
//! None of them ever denies. A request is made before the clock starts and dropped before it stops,
//! like its answer. What is wanted, of the time that is added to the bare service, at 1,000 keys:
//! at most 1.5 times the floor, 0.8 of `tower_governor` and 0.4 of `axum-governor`. Those ratios
//! are printed by
//!
//! ```text
//! cargo bench -p benches --features metrics --bench verify -- table
//! ```
//!
//! which lets all of them take turns, many and short ones, so that what else the machine does
//! disturbs all alike; without `table` each is measured by Criterion, one after the other. With
//! `credits` in its place it shows what credits add to a request, which should be no more than what
//! one more limit does; with `observed`, what metrics and the cap on failed attempts add, which
//! should be no more than 15 %.

mod contenders;
mod observed;
mod table;
mod traffic;

use criterion::{BenchmarkId, Criterion, criterion_group};

use contenders::contenders;
use traffic::Traffic;

criterion_group!(benches, verify);

const KEYS: [u32; 2] = [1_000, 100_000];

fn main() {
    // Limiters and the cache have tasks of their own.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime can be started");
    let _context = runtime.enter();
    let words: Vec<_> = std::env::args().skip(1).collect();
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    match *words {
        ["table", ..] => table::print(),
        ["credits", ..] => table::print_variants(),
        ["observed", ..] => observed::print(),
        ["once", watch] => observed::print_once(watch),
        _ => {
            benches();
            Criterion::default().configure_from_args().final_summary();
        }
    }
}

fn verify(criterion: &mut Criterion) {
    for count in KEYS {
        let mut group = criterion.benchmark_group("cached_verification");
        let mut traffic = Traffic::among(count);
        for mut contender in contenders(&traffic) {
            let id = BenchmarkId::new(contender.name, count);
            group.bench_function(id, |bencher| {
                bencher.iter_custom(|requests| traffic.send(requests, &mut contender));
            });
        }
        group.finish();
    }
}
