//! Several instances over one server.

use std::time::Duration;

use super::{builder, charge, limit, now, remaining, server, stranger};
use crate::limit::Acquire;
use crate::limit::{Charge, LimitSpace, LimitStatus, OutagePolicy, RedisLimiter, Subject, Verdict};

async fn two() -> [RedisLimiter; 2] {
    [
        builder().connect().await.unwrap(),
        builder().connect().await.unwrap(),
    ]
}

#[tokio::test]
async fn instances_share_what_is_left() {
    let (limiters, subject) = (two().await, stranger());
    let hour = limit("hour", 10, 3_600);
    for turn in 0..10 {
        let decision = limiters[turn % 2]
            .acquire(&subject, &[charge(&hour, 1)], now())
            .await;
        assert_eq!(remaining(&decision.unwrap()), [9 - turn as u64]);
    }
    for limiter in &limiters {
        let decision = limiter
            .acquire(&subject, &[charge(&hour, 1)], now())
            .await
            .unwrap();
        assert!(!decision.is_admitted());
        let retry = decision.retry_after().unwrap();
        assert!((3_500..=3_600).contains(&retry.as_secs()), "{retry:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_come_at_once_are_admitted_up_to_the_quota() {
    for leased in [false, true] {
        let set_up = || {
            if leased {
                builder().leased()
            } else {
                builder()
            }
        };
        let subject = stranger();
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..3 {
            let limiter = set_up().connect().await.unwrap();
            for _ in 0..32 {
                let (limiter, subject) = (limiter.clone(), subject.clone());
                tasks.spawn(async move {
                    let (hour, day) = (limit("hour", 500, 3_600), limit("day", 800, 86_400));
                    let mut admitted = 0;
                    for _ in 0..20 {
                        let charges = [charge(&hour, 1), charge(&day, 1)];
                        let decision = limiter.acquire(&subject, &charges, now()).await.unwrap();
                        admitted += u64::from(decision.is_admitted());
                    }
                    admitted
                });
            }
        }
        let admitted: u64 = tasks.join_all().await.into_iter().sum();
        assert!(admitted <= 500);
        if leased {
            assert!(
                admitted >= 450,
                "90 % are usable, and were {admitted} of 500"
            );
        } else {
            assert_eq!(admitted, 500);
        }
    }
}

#[tokio::test]
async fn several_limits_are_charged_together_or_not_at_all() {
    let (limiters, subject) = (two().await, stranger());
    let (few, many) = (limit("few", 2, 3_600), limit("many", 10, 3_600));
    let charges = [charge(&few, 1), charge(&many, 1)];
    for limiter in limiters.iter().chain(&limiters) {
        limiter.acquire(&subject, &charges, now()).await.unwrap();
    }
    let decision = limiters[0]
        .acquire(&subject, &[charge(&many, 0)], now())
        .await
        .unwrap();
    assert_eq!(
        remaining(&decision),
        [8],
        "two were refused by the other limit"
    );
    let decision = limiters[0]
        .acquire(&subject, &charges, now())
        .await
        .unwrap();
    let verdicts: Vec<_> = decision
        .statuses()
        .iter()
        .map(LimitStatus::verdict)
        .collect();
    assert!(matches!(
        verdicts[..],
        [Verdict::Denied { .. }, Verdict::Admitted]
    ));
    assert_eq!(remaining(&decision), [0, 8]);
}

#[tokio::test]
async fn a_denial_is_repeated_without_a_call() {
    let (limiter, subject) = (builder().connect().await.unwrap(), stranger());
    let hour = limit("hour", 10, 3_600);
    let ask = async |cost, quota| {
        let limit = limit("hour", quota, 3_600);
        let before = limiter.calls();
        let decision = limiter
            .acquire(&subject, &[charge(&limit, cost)], now())
            .await
            .unwrap();
        (decision.is_admitted(), limiter.calls() - before)
    };
    assert_eq!(ask(8, 10).await, (true, 1));
    assert_eq!(ask(3, 10).await, (false, 0), "known from the answer before");
    assert_eq!(ask(1, 10).await, (true, 1), "a smaller cost may fit");
    assert_eq!(ask(2, 10).await, (false, 0));
    assert_eq!(
        ask(2, 12).await,
        (true, 1),
        "a quota that was raised is another matter"
    );
    assert_eq!(ask(13, 12).await, (false, 0), "impossible");
    // It ends when the units leave, which is told as time goes on.
    let denied = limiter
        .acquire(&subject, &[charge(&hour, 1)], now())
        .await
        .unwrap();
    let first = denied.retry_after().unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    let denied = limiter
        .acquire(&subject, &[charge(&hour, 1)], now())
        .await
        .unwrap();
    assert!(denied.retry_after().unwrap() + Duration::from_millis(20) <= first);
}

#[tokio::test]
async fn what_is_denied_is_admitted_when_it_was_said() {
    let (limiters, subject) = (two().await, stranger());
    let second = limit("second", 3, 1);
    for limiter in &limiters {
        while limiter
            .acquire(&subject, &[charge(&second, 1)], now())
            .await
            .unwrap()
            .is_admitted()
        {}
    }
    let denied = limiters[1]
        .acquire(&subject, &[charge(&second, 3)], now())
        .await
        .unwrap();
    let retry = denied.retry_after().unwrap();
    assert!(retry <= Duration::from_secs(1));
    tokio::time::sleep(retry).await;
    let decision = limiters[1]
        .acquire(&subject, &[charge(&second, 3)], now())
        .await
        .unwrap();
    assert!(decision.is_admitted());
}

#[tokio::test]
async fn a_refund_is_seen_by_the_others() {
    for leased in [false, true] {
        let subject = stranger();
        let limiters = if leased {
            [
                builder().leased().connect().await.unwrap(),
                builder().connect().await.unwrap(),
            ]
        } else {
            two().await
        };
        let hour = limit("hour", 10, 3_600);
        let then = now();
        assert!(
            limiters[0]
                .acquire(&subject, &[charge(&hour, 4)], then)
                .await
                .unwrap()
                .is_admitted()
        );
        limiters[0].refund(&subject, &[charge(&hour, 4)], then, now());
        let mut left = Vec::new();
        for _ in 0..100 {
            tokio::time::sleep(Duration::from_millis(5)).await;
            let asked = limiters[1]
                .acquire(&subject, &[charge(&hour, 0)], now())
                .await;
            left = remaining(&asked.unwrap());
            if left == [10] {
                break;
            }
        }
        assert_eq!(left, [10]);
    }
}

fn keys(server: &server::Server) -> usize {
    match server.tell(&["KEYS", "*"]) {
        redis::Value::Array(keys) => keys.len(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn keys_end_by_themselves_when_nothing_counts() {
    let server = server::Server::start();
    // Of counters only: with another policy the instance has a key for its ordinal.
    let limiter = RedisLimiter::builder(&server.url())
        .on_outage(OutagePolicy::Deny)
        .connect()
        .await
        .unwrap();
    let (subject, second) = (stranger(), limit("second", 5, 1));
    limiter
        .acquire(&subject, &[charge(&second, 0)], now())
        .await
        .unwrap();
    assert_eq!(keys(&server), 0, "a question leaves nothing");
    limiter
        .acquire(&subject, &[charge(&second, 1)], now())
        .await
        .unwrap();
    assert_eq!(keys(&server), 1);
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert_eq!(keys(&server), 0);
}

#[tokio::test]
async fn counters_have_keys_of_their_own() {
    let limiter = builder().connect().await.unwrap();
    let subjects = [stranger(), stranger()];
    let ask = async |subject: &Subject, limit: &crate::limit::RateLimit, space| {
        let cost = 3;
        let charges = [Charge { limit, space, cost }];
        remaining(&limiter.acquire(subject, &charges, now()).await.unwrap())
    };
    let (key, route) = (LimitSpace::Key, LimitSpace::Route);
    assert_eq!(ask(&subjects[0], &limit("burst", 10, 600), key).await, [7]);
    assert_eq!(
        ask(&subjects[0], &limit("burst", 10, 600), route).await,
        [7],
        "another space"
    );
    assert_eq!(
        ask(&subjects[0], &limit("daily", 10, 600), key).await,
        [7],
        "another name"
    );
    assert_eq!(
        ask(&subjects[0], &limit("burst", 10, 601), key).await,
        [7],
        "another window"
    );
    assert_eq!(
        ask(&subjects[1], &limit("burst", 10, 600), key).await,
        [7],
        "another subject"
    );
    assert_eq!(
        ask(&subjects[0], &limit("burst", 20, 600), key).await,
        [14],
        "another quota"
    );
}

#[tokio::test]
async fn what_can_be_decided_here_is_decided_without_waiting() {
    let (limiter, subject) = (builder().connect().await.unwrap(), stranger());
    let hour = limit("hour", 10, 3_600);
    let done = |cost| {
        matches!(
            limiter.begin(&subject, &[charge(&hour, cost)], now()),
            Acquire::Done(_)
        )
    };
    assert!(done(11));
    assert!(!done(10));
    assert!(matches!(
        limiter.begin(&subject, &[], now()),
        Acquire::Done(Ok(_))
    ));
}

#[tokio::test]
async fn it_foresees_by_what_it_has_heard() {
    let (limiter, subject) = (builder().connect().await.unwrap(), stranger());
    let hour = limit("hour", 10, 3_600);
    let then = now();
    limiter
        .acquire(&subject, &[charge(&hour, 7)], then)
        .await
        .unwrap();
    let calls = limiter.calls();
    let denied = limiter.foresee(&subject, &[charge(&hour, 4)], &[], now());
    assert!(!denied.is_admitted());
    assert_eq!(remaining(&denied), [3]);
    let refunds = [(charge(&hour, 7), then)];
    let admitted = limiter.foresee(&subject, &[charge(&hour, 4)], &refunds, now());
    assert_eq!(remaining(&admitted), [6]);
    assert_eq!(limiter.calls(), calls);
}

#[tokio::test]
async fn a_prefix_that_would_spread_a_subject_is_refused() {
    assert!(builder().key_prefix("a}b").connect().await.is_err());
    assert!(RedisLimiter::builder("nonsense").connect().await.is_err());
}

/// With TLS, a server that does not speak it is an error; without, the URL is.
#[tokio::test]
async fn a_server_without_tls_is_not_taken_for_one_with_it() {
    let server = server::Server::start();
    let secure = server.url().replace("redis:", "rediss:");
    assert!(RedisLimiter::builder(&secure).connect().await.is_err());
}
