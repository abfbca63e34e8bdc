//! More requests than Redis answers at once, and answers that come late.

use std::time::Duration;

use super::faults::Relay;
use super::server::Server;
use super::{builder, charge, limit, now, remaining, stranger};
use crate::limit::redis::gate::Gate;
use crate::limit::redis::ledger::Ledger;
use crate::limit::{OutagePolicy, RedisLimiter};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_of_one_subject_share_calls_where_there_are_too_many() {
    const REQUESTS: usize = 3_000;
    for leased in [false, true] {
        let builder = builder().on_outage(OutagePolicy::Allow);
        let builder = if leased { builder.leased() } else { builder };
        let limiter = builder.connect().await.unwrap();
        let (subject, hour) = (stranger(), limit("hour", 1_000, 3_600));
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..REQUESTS {
            let (limiter, subject, hour) = (limiter.clone(), subject.clone(), hour.clone());
            tasks.spawn(async move {
                let decision = limiter.acquire(&subject, &[charge(&hour, 1)], now()).await;
                decision.unwrap().is_admitted()
            });
        }
        let decisions = tasks.join_all().await;
        let admitted = decisions.into_iter().filter(|admitted| *admitted).count();
        println!(
            "leased: {leased}, {admitted} admitted with {} calls",
            limiter.calls()
        );
        assert_eq!(admitted, 1_000);
    }
}

/// All are asked about while Redis pauses, so that none of the calls ends.
#[tokio::test]
async fn a_subject_has_only_so_many_calls_at_a_time() {
    let server = Server::start();
    let limiter = RedisLimiter::builder(&server.url())
        .deadline(Duration::from_secs(20))
        .connect()
        .await
        .unwrap();
    let (subject, hour) = (stranger(), limit("hour", 1_000, 3_600));
    server.tell(&["CLIENT", "PAUSE", "500", "ALL"]);
    let charges = [charge(&hour, 1)];
    let requests = (0..500).map(|_| limiter.acquire(&subject, &charges, now()));
    let mut requests = std::pin::pin!(futures_util::future::join_all(requests));
    assert!(futures_util::poll!(requests.as_mut()).is_pending());
    let calls = u64::try_from(Ledger::CALLS_AT_ONCE).unwrap();
    assert_eq!(limiter.calls(), calls + 1);
    for decision in requests.await {
        assert!(decision.unwrap().is_admitted());
    }
    // The others had one call together, or few.
    assert!(limiter.calls() < 3 * calls, "{} calls", limiter.calls());
    let left = limiter.acquire(&subject, &[charge(&hour, 0)], now()).await;
    assert_eq!(remaining(&left.unwrap()), [500]);
}

#[tokio::test]
async fn overload_is_no_outage() {
    let server = Server::start();
    let limiter = RedisLimiter::builder(&server.url())
        .deadline(Duration::from_secs(20))
        .on_outage(OutagePolicy::Deny)
        .connect()
        .await
        .unwrap();
    let hour = limit("hour", 1, 3_600);
    server.tell(&["CLIENT", "PAUSE", "500", "ALL"]);
    // Of as many subjects, so that none shares a call.
    let charges = [charge(&hour, 1)];
    let subjects: Vec<_> = (0..Gate::IN_FLIGHT + 500).map(|_| stranger()).collect();
    let requests = subjects
        .iter()
        .map(|subject| limiter.acquire(subject, &charges, now()));
    for decision in futures_util::future::join_all(requests).await {
        assert!(decision.unwrap().is_admitted());
    }
}

/// By a clock that moves when everybody waits.
#[tokio::test]
async fn no_request_waits_longer_than_one_deadline() {
    const DEADLINE: Duration = Duration::from_secs(10);
    for leased in [false, true] {
        let server = Server::start();
        let relay = Relay::to(&server).await;
        let builder = RedisLimiter::builder(&relay.url()).deadline(DEADLINE);
        let builder = if leased { builder.leased() } else { builder };
        let limiter = builder.connect().await.unwrap();
        let (subject, hour) = (stranger(), limit("hour", 1_000, 3_600));
        let charges = [charge(&hour, 1)];
        // So that something is leased at once where it is.
        for _ in 0..3 {
            limiter.acquire(&subject, &charges, now()).await.unwrap();
        }
        relay.freeze();
        tokio::time::pause();
        let ask = async |after: Duration| {
            tokio::time::sleep(after).await;
            let began = tokio::time::Instant::now();
            _ = limiter.acquire(&subject, &[charge(&hour, 40)], now()).await;
            began.elapsed()
        };
        let requests = (0..100).map(|request| ask(DEADLINE * (request % 10) / 7));
        for waited in futures_util::future::join_all(requests).await {
            // The timers of this clock tick once in a millisecond.
            assert!(waited <= DEADLINE + Duration::from_millis(2), "{waited:?}");
        }
        tokio::time::resume();
    }
}

#[tokio::test]
async fn what_a_late_answer_was_charged_is_given_back() {
    let server = Server::start();
    let connect = async |deadline| {
        RedisLimiter::builder(&server.url())
            .deadline(Duration::from_millis(deadline))
            .on_outage(OutagePolicy::Deny)
            .connect()
            .await
            .unwrap()
    };
    let (hasty, patient) = (connect(50).await, connect(20_000).await);
    let (subject, hour) = (stranger(), limit("hour", 10, 3_600));
    hasty
        .acquire(&subject, &[charge(&hour, 0)], now())
        .await
        .unwrap();
    server.tell(&["CLIENT", "PAUSE", "300", "ALL"]);
    let late = hasty.acquire(&subject, &[charge(&hour, 4)], now()).await;
    assert!(late.is_err());
    let mut left = Vec::new();
    for _ in 0..400 {
        let asked = patient.acquire(&subject, &[charge(&hour, 0)], now()).await;
        left = remaining(&asked.unwrap());
        if left == [10] {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(left, [10]);
}
