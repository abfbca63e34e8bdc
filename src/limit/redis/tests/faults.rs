//! What Redis may do to us. Each test has a server of its own.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

use super::server::Server;
use super::{charge, limit, now, remaining, stranger};
use crate::limit::redis::gate::Gate;
use crate::limit::{Acquire, OutagePolicy, RedisLimiter, RedisLimiterBuilder};

fn on(server: &Server) -> RedisLimiterBuilder {
    RedisLimiter::builder(&server.url()).deadline(Duration::from_millis(200))
}

#[tokio::test]
async fn a_script_that_was_flushed_is_loaded_again() {
    let server = Server::start();
    let limiter = on(&server)
        .on_outage(OutagePolicy::Deny)
        .connect()
        .await
        .unwrap();
    let (subject, hour) = (stranger(), limit("hour", 10, 3_600));
    for left in [9, 8, 7] {
        server.tell(&["SCRIPT", "FLUSH"]);
        let decision = limiter
            .acquire(&subject, &[charge(&hour, 1)], now())
            .await
            .unwrap();
        assert_eq!(remaining(&decision), [left]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_holds_nobody_up() {
    let server = Server::start();
    let limiter = on(&server)
        .on_outage(OutagePolicy::Deny)
        .connect()
        .await
        .unwrap();
    let (subject, hour) = (stranger(), limit("hour", 1_000, 3_600));
    limiter
        .acquire(&subject, &[charge(&hour, 1)], now())
        .await
        .unwrap();
    server.tell(&["CLIENT", "PAUSE", "1500", "ALL"]);
    let (before, frozen) = (limiter.calls(), now());
    for _ in 0..Gate::FAILURES {
        limiter
            .acquire(&subject, &[charge(&hour, 1)], frozen)
            .await
            .unwrap_err();
    }
    let asked = limiter.calls() - before;
    assert_eq!(
        asked,
        u64::from(Gate::FAILURES),
        "each waited for its deadline"
    );
    for _ in 0..1_000 {
        // At once, or this would not be a decision.
        let decision = limiter.begin(&subject, &[charge(&hour, 1)], frozen);
        assert!(
            matches!(decision, Acquire::Done(Err(_))),
            "none of these waits"
        );
    }
    assert_eq!(limiter.calls() - before, asked);
    recovers(&limiter, Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_was_killed_is_found_again() {
    let mut server = Server::start();
    let limiter = on(&server)
        .on_outage(OutagePolicy::Deny)
        .connect()
        .await
        .unwrap();
    let (subject, hour) = (stranger(), limit("hour", 1_000, 3_600));
    for _ in 0..2 {
        recovers(&limiter, Duration::from_secs(5)).await;
        server.kill();
        let until = Instant::now() + Duration::from_millis(300);
        let mut refused = 0;
        while Instant::now() < until {
            let decision = limiter.acquire(&subject, &[charge(&hour, 1)], now()).await;
            refused += u32::from(decision.is_err());
        }
        assert!(refused > 100, "refused at once, {refused} times");
        server.resume();
    }
    recovers(&limiter, Duration::from_secs(5)).await;
}

/// Between a limiter and its server: connections that were frozen stay open and bring nothing.
pub(super) struct Relay {
    port: u16,
    connections: Arc<Mutex<Vec<Arc<AtomicBool>>>>,
}

impl Relay {
    pub(super) async fn to(server: &Server) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (to, connections) = (server.port(), Arc::<Mutex<Vec<Arc<AtomicBool>>>>::default());
        let opened = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let far = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
                let frozen = Arc::new(AtomicBool::new(false));
                opened.lock().unwrap().push(Arc::clone(&frozen));
                let ((near_in, near_out), (far_in, far_out)) =
                    (near.into_split(), far.into_split());
                tokio::spawn(pass_on(near_in, far_out, Arc::clone(&frozen)));
                tokio::spawn(pass_on(far_in, near_out, frozen));
            }
        });
        Self { port, connections }
    }

    pub(super) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    pub(super) fn freeze(&self) {
        for connection in self.connections.lock().unwrap().iter() {
            connection.store(true, Ordering::Relaxed);
        }
    }
}

async fn pass_on(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, frozen: Arc<AtomicBool>) {
    let mut buffer = vec![0; 4_096];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if frozen.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        to.write_all(&buffer[..read]).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_went_silent_is_replaced() {
    let server = Server::start();
    let relay = Relay::to(&server).await;
    let builder = RedisLimiter::builder(&relay.url()).on_outage(OutagePolicy::Deny);
    let limiter = builder.connect().await.unwrap();
    recovers(&limiter, Duration::from_secs(1)).await;
    relay.freeze();
    let (subject, hour) = (stranger(), limit("hour", 10, 3_600));
    limiter
        .acquire(&subject, &[charge(&hour, 1)], now())
        .await
        .unwrap_err();
    recovers(&limiter, Duration::from_secs(10)).await;
}

/// Two instances, each asked without a pause, over a server that dies and comes back empty. What
/// happens next waits for what was seen, so that a busy machine only takes longer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_under_load_stays_within_its_bound() {
    const QUOTA: u64 = 1_000;
    const PERCENT: u8 = 25;
    for leased in [false, true] {
        let mut server = Server::start();
        let (subject, hour) = (stranger(), limit("hour", QUOTA, 3_600));
        let (admitted, ended) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let mut tasks = tokio::task::JoinSet::new();
        let mut limiters = Vec::new();
        for _ in 0..2 {
            let builder = on(&server).on_outage(OutagePolicy::Local { percent: PERCENT });
            let builder = if leased { builder.leased() } else { builder };
            let limiter = builder.connect().await.unwrap();
            limiters.push(limiter.clone());
            for _ in 0..8 {
                let (limiter, subject, hour) = (limiter.clone(), subject.clone(), hour.clone());
                let (admitted, ended) = (Arc::clone(&admitted), Arc::clone(&ended));
                tasks.spawn(async move {
                    while !ended.load(Ordering::Relaxed) {
                        let charges = [charge(&hour, 1)];
                        let decision = limiter.acquire(&subject, &charges, now()).await;
                        let units = u64::from(decision.unwrap().is_admitted());
                        admitted.fetch_add(units, Ordering::Relaxed);
                        // Some of the quota is left when the server dies.
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                });
            }
        }
        let reaches = async |units: u64| {
            let until = Instant::now() + Duration::from_mins(1);
            while admitted.load(Ordering::Relaxed) < units {
                assert!(Instant::now() < until, "{units} are not reached");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        reaches(QUOTA / 3).await;
        server.kill();
        tokio::time::sleep(Duration::from_millis(400)).await;
        server.resume();
        // It came back, on both.
        for limiter in &limiters {
            while limiter.0.gate.is_failing(Duration::MAX, now()) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        reaches(QUOTA * 9 / 10).await;
        // Beyond the bound, if it may.
        tokio::time::sleep(Duration::from_secs(1)).await;
        ended.store(true, Ordering::Relaxed);
        tasks.join_all().await;
        let admitted = admitted.load(Ordering::Relaxed);
        println!("leased: {leased}, {admitted} of {QUOTA} admitted");
        // One loss, and the share of two instances.
        assert!(admitted <= 2 * QUOTA + 2 * QUOTA * u64::from(PERCENT) / 100);
    }
}

async fn recovers(limiter: &RedisLimiter, within: Duration) {
    let (subject, hour) = (stranger(), limit("hour", 1_000, 3_600));
    let until = Instant::now() + within;
    while limiter
        .acquire(&subject, &[charge(&hour, 1)], now())
        .await
        .is_err()
    {
        assert!(Instant::now() < until, "it does not come back");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn each_policy_does_what_it_says() {
    let mut server = Server::start();
    let (subject, hour) = (stranger(), limit("hour", 40, 3_600));
    let connect = async |policy| on(&server).on_outage(policy).connect().await.unwrap();
    let denying = connect(OutagePolicy::Deny).await;
    let allowing = connect(OutagePolicy::Allow).await;
    let sharing = connect(OutagePolicy::default()).await;
    // Six units of its share of twenty, and as many of another instance.
    for limiter in [&sharing, &denying] {
        limiter
            .acquire(&subject, &[charge(&hour, 6)], now())
            .await
            .unwrap();
    }
    server.kill();
    let admitted = async |limiter: &RedisLimiter| {
        let mut admitted = 0;
        for _ in 0..50 {
            let decision = limiter.acquire(&subject, &[charge(&hour, 1)], now()).await;
            admitted += u32::from(decision.is_ok_and(|decision| decision.is_admitted()));
        }
        admitted
    };
    assert_eq!(admitted(&denying).await, 0);
    assert_eq!(admitted(&allowing).await, 50);
    assert_eq!(
        admitted(&sharing).await,
        14,
        "the share, less what it was granted"
    );
    let decision = sharing
        .acquire(&subject, &[charge(&hour, 21)], now())
        .await
        .unwrap();
    assert!(
        decision.retry_after().is_some(),
        "above the share is not above the quota"
    );
    let decision = sharing
        .acquire(&subject, &[charge(&hour, 41)], now())
        .await
        .unwrap();
    assert!(decision.retry_after().is_none());
}

#[tokio::test]
async fn what_the_outage_policy_let_through_is_not_taken_back_from_redis() {
    let mut server = Server::start();
    let limiter = on(&server).connect().await.unwrap();
    let (subject, hour) = (stranger(), limit("hour", 40, 3_600));
    limiter
        .acquire(&subject, &[charge(&hour, 2)], now())
        .await
        .unwrap();
    server.kill();
    let then = now();
    limiter
        .acquire(&subject, &[charge(&hour, 5)], then)
        .await
        .unwrap();
    let calls = limiter.calls();
    limiter.refund(&subject, &[charge(&hour, 5)], then, now());
    assert_eq!(limiter.calls(), calls);
}

/// One instance alone gives nothing away: it reports what it was granted before it asks for more.
/// Of several, the others may be granted again what one has not reported yet.
#[tokio::test]
async fn lost_data_is_reported_again() {
    for leased in [false, true] {
        let server = Server::start();
        let connect = async || {
            let builder = if leased {
                on(&server).leased()
            } else {
                on(&server)
            };
            builder
                .on_outage(OutagePolicy::Deny)
                .connect()
                .await
                .unwrap()
        };
        let (one, other) = (connect().await, connect().await);
        let (subject, hour) = (stranger(), limit("hour", 100, 3_600));
        let spend = async |limiter: &RedisLimiter, most: u64| {
            let mut spent = 0;
            while spent < most {
                let decision = limiter.acquire(&subject, &[charge(&hour, 1)], now()).await;
                if !decision.unwrap().is_admitted() {
                    break;
                }
                spent += 1;
            }
            spent
        };
        let (first, second) = (spend(&one, 60).await, spend(&other, 25).await);
        assert_eq!((first, second), (60, 25));
        server.tell(&["FLUSHALL"]);
        let again = spend(&one, 100).await;
        assert!(again <= 40, "it reported its 60 and got {again}");
        server.tell(&["FLUSHALL"]);
        // Now the other reports first, and then the one with all it was granted.
        let other_again = spend(&other, 100).await;
        assert!(other_again <= 75);
        assert_eq!(spend(&one, 100).await, 0);
        // After each loss, at most what others had been granted and had not reported yet.
        let (unreported, total) = (25 + 60 + again, 85 + again + other_again);
        assert!(total <= 100 + unreported);
        println!("leased: {leased}, granted again: {again}, {other_again}");
    }
}
