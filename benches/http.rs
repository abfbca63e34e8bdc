//! What is left of a service's HTTP throughput with the middleware in front of it.
//!
//! ```text
//! REDIS_URL=redis://127.0.0.1/ cargo bench --bench http
//! ```
//!
//! One axum server answers on three routes with the same handler: `bare` without any layer, `local`
//! with a key in the cache and a limit that is counted in this process, `leased` with the same limit
//! in Redis. `wrk` asks for each in turn, many and short runs, so that what else the machine does
//! disturbs all alike; the medians of their ratios are printed. Wanted: `local` at least 0.95 of
//! `bare`, and `leased` at least 0.9 of `local`.

use std::env;
use std::process::Command;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use tokio::net::TcpListener;
use tower_api_key::limit::RedisLimiter;
use tower_api_key::{ApiKeyLayer, ApiKeys, Issued, MemoryStore, NewKey, RateLimit};

type Error = Box<dyn std::error::Error + Send + Sync>;

const ROUNDS: usize = 15;
const CONNECTIONS: &str = "-c32";
const RUN: &str = "-d2s";

#[tokio::main(flavor = "multi_thread", worker_threads = 1)]
async fn main() -> Result<(), Error> {
    let redis = env::var("REDIS_URL").map_err(|_| "set REDIS_URL to a Redis server")?;
    let limiter = RedisLimiter::builder(&redis).leased();
    // The load leaves Redis and the server one processor between them.
    let limiter = limiter.deadline(Duration::from_secs(1)).connect().await?;
    let builder = || ApiKeys::builder(MemoryStore::new());
    let (local, shared) = (
        builder().build(),
        builder().redis_limiter(limiter.clone()).build(),
    );
    let [local_key, shared_key] = [issue(&local).await?, issue(&shared).await?];

    let handler = || get(|| async { "ok" });
    let app = Router::new()
        .route("/bare", handler())
        .route("/local", handler().layer(layer(&local)))
        .route("/leased", handler().layer(layer(&shared)));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move { axum::serve(listener, app).await });

    let targets = [
        ("bare", &local_key),
        ("local", &local_key),
        ("leased", &shared_key),
    ];
    let mut rounds = Vec::new();
    for round in 0..=ROUNDS {
        let mut rates = [0.0; 3];
        for turn in 0..3 {
            let which = (turn + round) % 3;
            let (path, key) = targets[which];
            let url = format!("http://{address}/{path}");
            let secret = key.secret().expose().to_owned();
            rates[which] = tokio::task::spawn_blocking(move || ask(&url, &secret)).await??;
        }
        // The first one warms everything up.
        if round > 0 {
            rounds.push(rates);
        }
    }
    let [bare, local, leased] =
        [0, 1, 2].map(|which| median(rounds.iter().map(|rates| rates[which])));
    println!(
        "requests a second, median of {ROUNDS}: bare {bare:.0}, local {local:.0}, leased {leased:.0}"
    );
    let ratio =
        |one: usize, other: usize| median(rounds.iter().map(|rates| rates[one] / rates[other]));
    println!("local / bare   {:.3}, at least 0.95", ratio(1, 0));
    println!("leased / local {:.3}, at least 0.9", ratio(2, 1));
    println!("{} calls of Redis", limiter.calls());
    Ok(())
}

fn layer(keys: &ApiKeys) -> ApiKeyLayer {
    ApiKeyLayer::new(keys).scopes(["orders:read"])
}

async fn issue(keys: &ApiKeys) -> Result<Issued, Error> {
    let limit = RateLimit::per_hour(1_000_000_000);
    let new = NewKey::named("load").scopes(["orders:*"]).limit(limit);
    Ok(keys.issue(new).await?)
}

/// The requests a second that `wrk` has made.
fn ask(url: &str, secret: &str) -> Result<f64, Error> {
    let output = Command::new("wrk")
        .args([
            "-t1",
            CONNECTIONS,
            RUN,
            "-H",
            &format!("Authorization: Bearer {secret}"),
            url,
        ])
        .output()
        .map_err(|error| format!("wrk: {error}: install wrk"))?;
    let told = String::from_utf8(output.stdout)?;
    if told.contains("Non-2xx") {
        return Err(format!("{url} is refused: {told}").into());
    }
    let rate = told
        .lines()
        .find_map(|line| line.strip_prefix("Requests/sec:"));
    Ok(rate.ok_or("wrk has told nothing")?.trim().parse()?)
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
