//! Limiters over Redis side by side, in one run on one server: how many decisions a second 64 tasks
//! get that each ask again as soon as they have an answer.
//!
//! ```console
//! $ REDIS_URL=redis://127.0.0.1/ cargo run --release --manifest-path benches/redis/Cargo.toml
//! ```

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use axum_limit::{Quota, RateLimitBackend, RedisBackend, TokenBucketPolicy};
use tokio::task::JoinSet;
use tower_api_key::limit::{Charge, LimitSpace, LocalLimiter, RedisLimiter, Subject, SubjectId};
use tower_api_key::{Clock, RateLimit, SystemClock};

const TASKS: usize = 64;
/// What each limiter counts for: a few busy keys.
const SUBJECTS: usize = 16;
const ROUND: Duration = Duration::from_secs(3);

#[tokio::main]
async fn main() {
    let url = std::env::var("REDIS_URL").expect("REDIS_URL must name a Redis server");
    println!("{TASKS} tasks, {SUBJECTS} keys, {ROUND:?} each, decisions a second");
    let names = names();

    let actix = actix_limitation::Limiter::builder(&url)
        .limit(1_000_000_000)
        .period(Duration::from_secs(60))
        .build()
        .expect("the URL is one");
    let actix = Arc::new(actix);
    let of = names.clone();
    let actix = run("actix-limitation, count()", move |task| {
        let (actix, name) = (Arc::clone(&actix), of[task % SUBJECTS].clone());
        async move { actix.count(name).await.is_ok() }
    });
    let actix = actix.await;

    let backend = RedisBackend::connect(&url)
        .await
        .expect("the server is there");
    let quota = Quota::per_minute(1_000_000_000);
    let of = names.clone();
    let axum = run("axum-limit, RedisBackend", move |task| {
        let (backend, name) = (backend.clone(), format!("axum-{}", of[task % SUBJECTS]));
        async move {
            let now = SystemTime::UNIX_EPOCH
                .elapsed()
                .expect("after 1970")
                .as_millis();
            let now = now.try_into().expect("64 bits");
            let asked = backend
                .transact::<TokenBucketPolicy>(&name, quota, now)
                .await;
            asked.is_ok()
        }
    });
    let axum = axum.await;

    let deadline = Duration::from_secs(2);
    let prefix = names[0].as_str();
    let set_up = || {
        RedisLimiter::builder(&url)
            .key_prefix(prefix)
            .deadline(deadline)
    };
    let strict = set_up().connect().await.expect("the server is there");
    let one = ours("RedisLimiter, strict, one limit", &strict, 1).await;
    ours("RedisLimiter, strict, three limits", &strict, 3).await;
    let leased = set_up()
        .leased()
        .connect()
        .await
        .expect("the server is there");
    let leasing = ours("RedisLimiter, leased, one limit", &leased, 1).await;
    println!("{:>44} calls", leased.calls());
    let local = local().await;

    println!("strict / actix-limitation: {:.1}", one / actix);
    println!("strict / axum-limit:       {:.1}", one / axum);
    println!("leased / local:            {:.2}", leasing / local);
}

/// Strict or leased, under so many limits.
async fn ours(what: &str, limiter: &RedisLimiter, limits: usize) -> f64 {
    let limits = limits_of(limits);
    let (limiter, clock, subjects) = (limiter.clone(), clock(), subjects());
    run(what, move |task| {
        let (limiter, clock, subjects) = (limiter.clone(), clock.clone(), subjects.clone());
        let limits = limits.clone();
        async move {
            let charges: Vec<_> = limits.iter().map(charge).collect();
            let subject = &subjects[task % SUBJECTS];
            let decision = limiter.acquire(subject, &charges, clock.now()).await;
            decision.is_ok_and(|decision| decision.is_admitted())
        }
    })
    .await
}

async fn local() -> f64 {
    let (limiter, limits) = (Arc::new(LocalLimiter::default()), limits_of(1));
    let (clock, subjects) = (clock(), subjects());
    run("LocalLimiter, one limit", move |task| {
        let (limiter, clock, subjects) = (limiter.clone(), clock.clone(), subjects.clone());
        let limits = limits.clone();
        async move {
            let charges: Vec<_> = limits.iter().map(charge).collect();
            let subject = &subjects[task % SUBJECTS];
            limiter
                .acquire(subject, &charges, clock.now())
                .is_admitted()
        }
    })
    .await
}

/// Decisions a second. An error is none.
async fn run<F>(what: &str, ask: impl Fn(usize) -> F + Clone + Send + 'static) -> f64
where
    F: Future<Output = bool> + Send + 'static,
{
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let ask = ask.clone();
        tasks.spawn(async move {
            let mut decisions = 0_u32;
            while began.elapsed() < ROUND {
                decisions += u32::from(ask(task).await);
                // Whoever never waits lets the others have their turn.
                tokio::task::yield_now().await;
            }
            decisions
        });
    }
    let decisions: u32 = tasks.join_all().await.into_iter().sum();
    let rate = f64::from(decisions) / began.elapsed().as_secs_f64();
    println!("{what:<34} {rate:>10.0}");
    rate
}

fn charge(limit: &RateLimit) -> Charge<'_> {
    let space = LimitSpace::Key;
    Charge {
        limit,
        space,
        cost: 1,
    }
}

/// Quotas that are never used up.
fn limits_of(count: usize) -> Arc<[RateLimit]> {
    let quota = 1_000_000_000;
    let limits = [
        RateLimit::per_minute(quota),
        RateLimit::per_hour(quota),
        RateLimit::per_day(quota),
    ];
    limits[..count].into()
}

fn subjects() -> Arc<[Subject]> {
    let subject = |name: String| Subject::new(SubjectId::Owner(name.into()));
    names().into_iter().map(subject).collect()
}

/// Other ones in each run.
fn names() -> Vec<String> {
    let run = std::process::id();
    (0..SUBJECTS)
        .map(|number| format!("bench-{run}-{number}"))
        .collect()
}

fn clock() -> Arc<SystemClock> {
    Arc::new(SystemClock::new())
}
