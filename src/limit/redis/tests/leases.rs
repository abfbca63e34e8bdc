//! Leases on a real server: what they save and what they cost.

use std::time::Duration;

use super::{builder, charge, limit, now, stranger};
use crate::limit::{RedisLimiter, Subject};

/// Asks at a steady rate, in steps of two milliseconds, and counts what is admitted.
async fn run(limiter: &RedisLimiter, subject: &Subject, rate: u64, time: Duration) -> u64 {
    let minute = limit("minute", 10_000, 60);
    let mut ticks = tokio::time::interval(Duration::from_millis(2));
    let (began, mut asked, mut admitted) = (tokio::time::Instant::now(), 0, 0);
    while began.elapsed() < time {
        ticks.tick().await;
        let due = u64::try_from(began.elapsed().as_micros()).unwrap() * rate / 1_000_000;
        while asked < due {
            asked += 1;
            let decision = limiter.acquire(subject, &[charge(&minute, 1)], now()).await;
            admitted += u64::from(decision.unwrap().is_admitted());
        }
    }
    admitted
}

#[tokio::test]
async fn one_call_serves_many_requests_of_a_busy_key() {
    let limiter = builder().leased().connect().await.unwrap();
    let admitted = run(&limiter, &stranger(), 1_000, Duration::from_secs(4)).await;
    let calls = limiter.calls();
    println!("{admitted} requests in 4 seconds, {calls} calls");
    // How many exactly, at that rate, the simulation says: here the machine may have other work.
    assert!(
        calls * 10 <= admitted,
        "{calls} calls for {admitted} requests"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_instances_use_the_quota_and_never_more() {
    let subject = stranger();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..3 {
        let (subject, limiter) = (subject.clone(), builder().leased().connect().await.unwrap());
        tasks.spawn(async move {
            // 3 × 1,500 a second for three seconds: more than the quota.
            let admitted = run(&limiter, &subject, 1_500, Duration::from_secs(3)).await;
            (admitted, limiter.calls())
        });
    }
    let told = tasks.join_all().await;
    let admitted: u64 = told.iter().map(|(admitted, _)| admitted).sum();
    println!("three instances: {told:?}, together {admitted} of 10000");
    assert!((9_000..=10_000).contains(&admitted), "{admitted}");
}

#[tokio::test]
async fn a_quiet_key_leases_nothing() {
    let limiter = builder().leased().connect().await.unwrap();
    let (subject, minute) = (stranger(), limit("minute", 10_000, 60));
    for left in [9_999, 9_998] {
        let decision = limiter
            .acquire(&subject, &[charge(&minute, 1)], now())
            .await
            .unwrap();
        assert_eq!(super::remaining(&decision), [left]);
        tokio::time::sleep(Duration::from_millis(1_200)).await;
    }
    let other = builder().connect().await.unwrap();
    let decision = other
        .acquire(&subject, &[charge(&minute, 0)], now())
        .await
        .unwrap();
    assert_eq!(super::remaining(&decision), [9_998]);
}
