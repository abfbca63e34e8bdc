//! What is measured, each made ready to answer at once.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::ConnectInfo;
use futures_util::FutureExt;
use http::header::AUTHORIZATION;
use http::{Request, Response, StatusCode};
use tokio::runtime::Handle;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_api_key::{
    ApiKeyLayer, ApiKeys, Attempt, CreditPlan, Credits, KeyDigest, RateLimit, RateLimits,
    Requirements,
};
use tower_governor::GovernorError;
use tower_governor::governor::GovernorConfigBuilder;
use tower_governor::key_extractor::KeyExtractor;

use crate::traffic::{Traffic, Visit};

/// Something that takes requests, or as much of them as it needs.
pub(crate) struct Contender {
    pub(crate) name: &'static str,
    serve: Box<dyn FnMut(Vec<Visit>) -> Duration>,
}

impl Contender {
    /// The time that these take; it does not count what is made ready for them.
    pub(crate) fn serve(&mut self, visits: Vec<Visit>) -> Duration {
        (self.serve)(visits)
    }

    /// A service, which must let every request through without waiting.
    fn service<S>(name: &'static str, mut service: S) -> Self
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + 'static,
    {
        let serve = move |visits: Vec<Visit>| {
            let requests: Vec<_> = visits.into_iter().map(Visit::request).collect();
            let mut context = Context::from_waker(Waker::noop());
            let start = Instant::now();
            for request in requests {
                assert!(service.poll_ready(&mut context).is_ready());
                let Some(Ok(response)) = service.call(request).now_or_never() else {
                    panic!("{name} has to wait");
                };
                assert_eq!(response.status(), StatusCode::OK, "{name} denies");
                drop(black_box(response));
            }
            start.elapsed()
        };
        Self {
            name,
            serve: Box::new(serve),
        }
    }

    /// Has seen every key once.
    fn warm(mut self, traffic: &Traffic) -> Self {
        for visit in traffic.all() {
            self.serve(vec![visit]);
        }
        self
    }
}

const BARE: &str = "bare";
pub(crate) const FLOOR: &str = "floor";
pub(crate) const OURS: &str = "tower-api-key";
pub(crate) const ANOTHER_LIMIT: &str = "tower-api-key, one more limit";
pub(crate) const CREDITS: &str = "tower-api-key, credits";
pub(crate) const TOWER_GOVERNOR: &str = "tower_governor";
pub(crate) const AXUM_GOVERNOR: &str = "axum-governor";

/// All of them; the bare service comes first.
pub(crate) fn contenders(traffic: &Traffic) -> Vec<Contender> {
    let makers = [bare, floor, ours, by_tower_governor, by_axum_governor];
    let made = makers.map(|make| make(traffic).warm(traffic));
    made.into()
}

/// This crate's layer alone, over keys with a limit, with one more of them, and with credits.
pub(crate) fn variants(traffic: &Traffic) -> Vec<Contender> {
    let makers = [bare, ours, with_another_limit, with_credits];
    let made = makers.map(|make| make(traffic).warm(traffic));
    made.into()
}

/// This crate's layer alone.
pub(crate) fn plain(traffic: &Traffic) -> Vec<Contender> {
    let makers = [bare, ours];
    let made = makers.map(|make| make(traffic).warm(traffic));
    made.into()
}

fn bare(_: &Traffic) -> Contender {
    Contender::service(BARE, service_fn(nothing))
}

fn nothing(request: Request<Body>) -> Ready<Result<Response<Body>, Infallible>> {
    drop(black_box(request));
    ready(Ok(Response::new(Body::empty())))
}

fn floor(traffic: &Traffic) -> Contender {
    let hasher = foldhash::quality::RandomState::default();
    let cache = moka::sync::Cache::builder().build_with_hasher(hasher);
    for visit in traffic.all() {
        cache.insert(KeyDigest::sha256(&visit.text), Arc::new(()));
    }
    let serve = move |visits: Vec<Visit>| {
        let start = Instant::now();
        for visit in &visits {
            let known = cache.get(&KeyDigest::sha256(&visit.text));
            assert!(black_box(known).is_some());
        }
        start.elapsed()
    };
    Contender {
        name: FLOOR,
        serve: Box::new(serve),
    }
}

fn ours(traffic: &Traffic) -> Contender {
    over(OURS, &traffic.keys, traffic)
}

fn with_another_limit(traffic: &Traffic) -> Contender {
    let keys = traffic.changed(|record| {
        let another = RateLimit::per_day(1_000_000_000).named("daily");
        let limits = record.limits.iter().cloned().chain([another]);
        record.limits = RateLimits::new(limits).expect("they have two names");
    });
    over(ANOTHER_LIMIT, &keys, traffic)
}

fn with_credits(traffic: &Traffic) -> Contender {
    let keys = traffic.changed(|record| {
        record.credits = Some(CreditPlan {
            granted: Credits::MAX,
            refill: None,
            since_version: record.version,
        });
    });
    // A lease follows what was spent before: large enough for all that is to come.
    let much = Requirements::new().cost(1_000_000);
    let little = Requirements::new();
    Handle::current().block_on(async {
        for visit in traffic.all() {
            for needs in [&much, &little] {
                let attempt = Attempt::new(&visit.text);
                let verified = keys.verifier().verify(attempt, needs).await;
                verified.expect("the key is good");
            }
        }
    });
    over(CREDITS, &keys, traffic)
}

fn over(name: &'static str, keys: &ApiKeys, traffic: &Traffic) -> Contender {
    let layer = ApiKeyLayer::new(keys).scopes(["orders:read", "invoices:read"]);
    let service = layer.layer(service_fn(nothing));
    // The first time the store is asked, and that is worth waiting for.
    Handle::current().block_on(async {
        for visit in traffic.all() {
            let Ok(response) = service.clone().oneshot(visit.request()).await;
            assert_eq!(response.status(), StatusCode::OK);
        }
    });
    Contender::service(name, service)
}

fn by_tower_governor(_: &Traffic) -> Contender {
    let config = GovernorConfigBuilder::default()
        .key_extractor(AuthorizationHeader)
        .per_nanosecond(1)
        .burst_size(u32::MAX)
        .use_headers()
        .finish()
        .expect("neither the period nor the burst is zero");
    let layer = tower_governor::GovernorLayer::new(config);
    Contender::service(TOWER_GOVERNOR, layer.layer(service_fn(nothing)))
}

/// What a limit by key goes by where nothing is known of the key but its text.
#[derive(Clone)]
struct AuthorizationHeader;

impl KeyExtractor for AuthorizationHeader {
    type Key = String;

    fn extract<T>(&self, request: &Request<T>) -> Result<String, GovernorError> {
        let value = request.headers().get(AUTHORIZATION);
        value
            .and_then(|value| value.to_str().ok())
            .map(ToOwned::to_owned)
            .ok_or(GovernorError::UnableToExtractKey)
    }
}

fn by_axum_governor(_: &Traffic) -> Contender {
    // There is one for the whole process.
    static LIMITER: OnceLock<()> = OnceLock::new();
    LIMITER.get_or_init(|| {
        // It counts faster in windows up to five minutes than in longer ones.
        let rule = lazy_limit::RuleConfig::new(lazy_limit::Duration::minutes(5), u32::MAX);
        // Its collector, which holds everything up from time to time, goes with this runtime.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime can be started");
        let config = lazy_limit::LimiterConfig::new(rule);
        runtime.block_on(lazy_limit::initialize_limiter(config));
    });
    let layer = axum_governor::GovernorLayer::default();
    // The layer that it comes with looks for the address in a map of all headers; this is quicker.
    let service = layer
        .layer(service_fn(nothing))
        .map_request(|mut request: Request<Body>| {
            let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
            let address = peer.expect("the request has it").ip();
            request.extensions_mut().insert(real::RealIp(address));
            request
        });
    Contender::service(AXUM_GOVERNOR, service)
}
