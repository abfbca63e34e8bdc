//! The crate as a running service: keys in SQLite or PostgreSQL, a few routes that need them, and
//! the admin router to make and end them.
//!
//! ```console
//! $ cargo run --example keyserver --features admin-page,metrics,sqlite
//! listening on http://127.0.0.1:3000
//! admin key: sk_live_…
//! $ curl -H 'X-API-Key: sk_live_…' http://127.0.0.1:3000/v1/whoami
//! ```
//!
//! `LISTEN`, `DATABASE_URL`, `REDIS_URL` and `FAILED_ATTEMPTS_PER_MINUTE` set it up, `RUST_LOG`
//! what it logs. At Ctrl-C or SIGTERM it finishes what is in flight, for `DRAIN_SECONDS` at most
//! (10), and writes the gathered use. Further features make more of it:
//!
//! - `postgres`: a `DATABASE_URL` of `postgres://…`;
//! - `redis`: `REDIS_URL`, by which several servers count limits together and tell each other of
//!   changes;
//! - `admin-page`: a page to administer keys in a browser, at `/admin`;
//! - `metrics`: what happens, for Prometheus, at `/metrics`;
//! - `openapi`: all of it described, at `/openapi.json`.

#[cfg(feature = "metrics")]
#[path = "keyserver/metrics.rs"]
mod metrics;
#[cfg(feature = "openapi")]
#[path = "keyserver/openapi.rs"]
mod openapi;

use std::future::Future;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use std::{env, io, iter};

use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::time::sleep;
#[cfg(feature = "postgres")]
use tower_api_key::PostgresStore;
use tower_api_key::{
    ApiKeyLayer, ApiKeys, Builder, KeyFilter, KeyFormat, KeyPrincipal, KeyRepository, NewKey,
    RateLimit, SqliteStore, admin,
};
#[cfg(feature = "redis")]
use tower_api_key::{RedisBus, limit::RedisLimiter};
use tracing_subscriber::EnvFilter;

type Error = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .init();
    match serve().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("keyserver: {}", with_causes(&*error));
            ExitCode::FAILURE
        }
    }
}

async fn serve() -> Result<(), Error> {
    let Config {
        listen,
        database,
        redis,
        failed_attempts,
        drain,
    } = Config::from_env()?;
    let stopped = stop_signal()?;
    // Before the first key is made: nobody would see it if the port were taken.
    let listener = TcpListener::bind(&listen)
        .await
        .map_err(|error| format!("LISTEN={listen}: {error}"))?;
    // Before anything is counted.
    #[cfg(feature = "metrics")]
    let metrics = metrics::route()?;
    let store = open(&database)
        .await
        .map_err(|error| format!("DATABASE_URL: {}", with_causes(&*error)))?;
    let mut keys = ApiKeys::builder(store)
        .format(KeyFormat::new("sk").prefix("pk"))
        .failed_attempts(failed_attempts);
    if let Some(url) = redis {
        keys = over_redis(keys, &url)
            .await
            .map_err(|error| format!("REDIS_URL: {}", with_causes(&*error)))?;
    }
    let keys = keys.build();

    let address = listener.local_addr()?;
    let admin = first_key(&keys).await?.unwrap_or_default();
    print!("listening on http://{address}\n{admin}");

    let app = app(&keys);
    #[cfg(feature = "metrics")]
    let app = app.route("/metrics", metrics);
    serve_until(stopped, drain, listener, app).await?;
    keys.shutdown(SHUTDOWN)
        .await
        .map_err(|error| with_causes(&error).into())
}

/// Time for the store to write the gathered use. With the draining it stays below the thirty
/// seconds that orchestrators usually grant.
const SHUTDOWN: Duration = Duration::from_secs(10);

/// Serves until `stopped`, and for `drain` at most to finish what is in flight then. A client that
/// has sent half a request would otherwise hold the server up for as long as it likes.
async fn serve_until(
    stopped: impl Future<Output = ()> + Send + 'static,
    drain: Duration,
    listener: TcpListener,
    app: Router,
) -> io::Result<()> {
    let (draining, begun) = oneshot::channel();
    let stopped = async move {
        stopped.await;
        // Nobody listens any more when the server has failed.
        _ = draining.send(());
    };
    let service = app.into_make_service_with_connect_info::<SocketAddr>();
    let server = axum::serve(listener, service).with_graceful_shutdown(stopped);
    let overdue = async {
        match begun.await {
            Ok(()) => sleep(drain).await,
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        ended = server => ended,
        () = overdue => {
            tracing::warn!("connections are still open after {drain:?} and are cut off");
            Ok(())
        }
    }
}

/// The store that a URL names, whichever it is.
async fn open(database: &str) -> Result<Arc<dyn KeyRepository>, Error> {
    if database.starts_with("postgres://") || database.starts_with("postgresql://") {
        #[cfg(feature = "postgres")]
        return Ok(Arc::new(PostgresStore::connect(database).await?));
        #[cfg(not(feature = "postgres"))]
        return Err("PostgreSQL takes a build with `--features postgres`".into());
    }
    Ok(Arc::new(SqliteStore::open(database).await?))
}

/// Counts limits together with the other servers on that Redis, and hears from them of changes.
#[cfg_attr(not(feature = "redis"), expect(clippy::unused_async, unused_variables))]
async fn over_redis<S>(keys: Builder<S>, url: &str) -> Result<Builder<S>, Error> {
    #[cfg(feature = "redis")]
    {
        let limiter = RedisLimiter::builder(url).leased().connect().await?;
        Ok(keys.redis_limiter(limiter).bus(RedisBus::new(url)?))
    }
    #[cfg(not(feature = "redis"))]
    Err("Redis takes a build with `--features redis`".into())
}

/// What is wrong, and why: a store's error says no more than that it failed.
fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = iter::successors(Some(error), |&error| error.source());
    causes
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

/// Makes a key that may do everything, where there is none yet, and says which.
async fn first_key(keys: &ApiKeys) -> Result<Option<String>, Error> {
    let mut any = KeyFilter::default();
    any.limit = 1;
    if !keys.list(&any).await?.keys.is_empty() {
        return Ok(None);
    }
    let issued = keys.issue(NewKey::named("admin").scopes(["*"])).await?;
    Ok(Some(format!("admin key: {}\n", issued.secret().expose())))
}

// ---- The routes ----

fn app(keys: &ApiKeys) -> Router {
    let needs = Needs::of(keys);
    let list = get(orders).layer(needs.list_orders.clone());
    let order = axum::routing::post(order).layer(needs.order.clone());
    let app = Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/v1/whoami", get(whoami).layer(needs.whoami.clone()))
        .route("/v1/public", get(public).layer(needs.public.clone()))
        .route("/v1/catalog", get(catalog).layer(needs.catalog.clone()))
        .route("/v1/orders", list.merge(order))
        .nest("/admin", administration(keys));
    #[cfg(feature = "openapi")]
    let app = {
        let document = openapi::document(keys, &needs);
        app.route("/openapi.json", get(|| async { Json(document) }))
    };
    app
}

/// What each route asks for.
struct Needs {
    whoami: ApiKeyLayer,
    public: ApiKeyLayer,
    catalog: ApiKeyLayer,
    list_orders: ApiKeyLayer,
    order: ApiKeyLayer,
}

impl Needs {
    fn of(keys: &ApiKeys) -> Self {
        let secret = ApiKeyLayer::new(keys);
        let any = secret.accept_prefixes(["pk"]);
        Self {
            public: any.optional(),
            catalog: any.scopes(["catalog:read"]),
            whoami: any,
            list_orders: secret.scopes(["orders:read"]),
            order: secret.scopes(["orders:write"]).cost(5),
        }
    }
}

/// The admin API and, where the build has it, the page for a browser.
fn administration(keys: &ApiKeys) -> Router {
    let router = admin::router(keys);
    #[cfg(feature = "admin-page")]
    let router = router.merge(admin::page());
    router
}

async fn whoami(principal: KeyPrincipal) -> Json<Value> {
    Json(json!({
        "key_id": principal.key_id(),
        "name": principal.name(),
        "owner": principal.owner(),
        "environment": principal.environment(),
        "scopes": principal.scopes(),
    }))
}

async fn public(principal: Option<KeyPrincipal>) -> Json<Value> {
    Json(json!({ "key_id": principal.map(|principal| principal.key_id()) }))
}

async fn catalog() -> Json<Value> {
    Json(json!({ "products": ["tea", "coffee"] }))
}

async fn orders() -> Json<Value> {
    Json(json!({ "orders": [{ "id": 1, "product": "tea" }] }))
}

async fn order() -> (StatusCode, Json<Value>) {
    (StatusCode::CREATED, Json(json!({ "id": 2 })))
}

// ---- What it is told ----

struct Config {
    listen: String,
    database: String,
    redis: Option<String>,
    failed_attempts: RateLimit,
    drain: Duration,
}

impl Config {
    fn from_env() -> Result<Self, Error> {
        let database = variable("DATABASE_URL")?.unwrap_or_else(|| "sqlite:keyserver.db".into());
        let per_minute = variable("FAILED_ATTEMPTS_PER_MINUTE")?.unwrap_or_else(|| "60".into());
        let failed_attempts = match per_minute.parse() {
            Ok(quota @ 1..=RateLimit::MAX_QUOTA) => RateLimit::per_minute(quota),
            _ => {
                return Err(format!(
                    "FAILED_ATTEMPTS_PER_MINUTE={per_minute}: a number from 1 is needed"
                )
                .into());
            }
        };
        let drain = variable("DRAIN_SECONDS")?.unwrap_or_else(|| "10".into());
        let seconds = drain
            .parse::<u32>()
            .map_err(|_| format!("DRAIN_SECONDS={drain}: a number of seconds is needed"))?;
        Ok(Self {
            drain: Duration::from_secs(seconds.into()),
            listen: variable("LISTEN")?.unwrap_or_else(|| "127.0.0.1:3000".into()),
            database,
            redis: variable("REDIS_URL")?,
            failed_attempts,
        })
    }
}

/// An environment variable; an empty one counts as none.
fn variable(name: &str) -> Result<Option<String>, Error> {
    match env::var(name) {
        Ok(value) if value.is_empty() => Ok(None),
        Ok(value) => Ok(Some(value)),
        Err(env::VarError::NotPresent) => Ok(None),
        // Not with the value: a URL may hold a password.
        Err(env::VarError::NotUnicode(_)) => Err(format!("{name}: it is not UTF-8").into()),
    }
}

/// Resolves at Ctrl-C or SIGTERM, also at one that comes before anybody waits for it.
#[cfg(unix)]
fn stop_signal() -> io::Result<impl Future<Output = ()> + Send + 'static> {
    use tokio::signal::unix::{SignalKind, signal};

    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

#[cfg(not(unix))]
fn stop_signal() -> io::Result<impl Future<Output = ()> + Send + 'static> {
    let mut interrupt = tokio::signal::windows::ctrl_c()?;
    Ok(async move {
        interrupt.recv().await;
    })
}
