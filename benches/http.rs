//! What is left of a service's HTTP throughput with the middleware in front of it.
//!
//! ```text
//! REDIS_URL=redis://127.0.0.1/ cargo bench -p benches --features redis --bench http
//! ```
//!
//! One axum service is served four times, and `wrk` asks each in turn, many and short runs, so that
//! what else the machine does disturbs all alike: `bare` without any layer around it, `fields` with
//! one that does nothing but write two fields as long as those of a limit, `local` with a key in
//! the cache and a limit that is counted in this process, `leased` with the same limit in Redis.
//! The medians of their ratios are printed. Wanted: `local` at least 0.95 of `bare`, and `leased`
//! at least 0.9 of `local`. No middleware that tells of limits can keep more than `fields` does.

use std::convert::Infallible;
use std::env;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::response::Response;
use axum::routing::get;
use http::{HeaderName, HeaderValue};
use tokio::net::TcpListener;
use tower::make::Shared;
use tower::util::MapResponseLayer;
use tower::{Layer, Service};
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

    let app = Router::new().route("/", get(|| async { "ok" }));
    let fields = MapResponseLayer::new(with_fields).layer(app.clone());
    let targets = [
        ("bare", serve(app.clone()).await?, &local_key),
        ("fields", serve(fields).await?, &local_key),
        (
            "local",
            serve(layer(&local).layer(app.clone())).await?,
            &local_key,
        ),
        (
            "leased",
            serve(layer(&shared).layer(app)).await?,
            &shared_key,
        ),
    ];
    let mut rounds = Vec::new();
    for round in 0..=ROUNDS {
        let mut rates = [0.0; 4];
        for turn in 0..targets.len() {
            let which = (turn + round) % targets.len();
            let (_, address, key) = targets[which];
            let url = format!("http://{address}/");
            let secret = key.secret().expose().to_owned();
            rates[which] = tokio::task::spawn_blocking(move || ask(&url, &secret)).await??;
        }
        // The first one warms everything up.
        if round > 0 {
            rounds.push(rates);
        }
    }
    println!("requests a second, median of {ROUNDS}:");
    for (which, (name, ..)) in targets.iter().enumerate() {
        let rate = median(rounds.iter().map(|rates| rates[which]));
        println!("{name:<14} {rate:.0}");
    }
    let ratio =
        |one: usize, other: usize| median(rounds.iter().map(|rates| rates[one] / rates[other]));
    println!("fields / bare  {:.3}", ratio(1, 0));
    println!("local / fields {:.3}", ratio(2, 1));
    println!("local / bare   {:.3}, at least 0.95", ratio(2, 0));
    println!("leased / local {:.3}, at least 0.9", ratio(3, 2));
    println!("{} calls of Redis", limiter.calls());
    Ok(())
}

/// Serves it on a port of its own.
async fn serve<S>(service: S) -> Result<SocketAddr, Error>
where
    S: Service<Request, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move { axum::serve(listener, Shared::new(service)).await });
    Ok(address)
}

fn with_fields(mut response: Response) -> Response {
    let policy = HeaderValue::from_static("\"hour\";q=1000000000;w=3600");
    let state = HeaderValue::from_static("\"hour\";r=999999999;t=3600");
    let headers = response.headers_mut();
    headers.append(HeaderName::from_static("ratelimit-policy"), policy);
    headers.append(HeaderName::from_static("ratelimit"), state);
    response
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
