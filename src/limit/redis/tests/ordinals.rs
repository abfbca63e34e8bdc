//! Instances that share quotas of few units while Redis is down.

use std::time::Duration;

use super::server::Server;
use super::{charge, limit, now, stranger};
use crate::limit::{OutagePolicy, RedisLimiter};

async fn connect(server: &Server, percent: u8) -> RedisLimiter {
    RedisLimiter::builder(&server.url())
        .deadline(Duration::from_secs(2))
        .on_outage(OutagePolicy::Local { percent })
        .connect()
        .await
        .unwrap()
}

fn ordinals(limiters: &[RedisLimiter]) -> Vec<Option<u32>> {
    let ordinals = limiters.iter().map(|limiter| limiter.0.ordinal.held());
    ordinals.collect()
}

/// The units that these instances admit together, of as many new subjects.
async fn admitted(limiters: &[RedisLimiter], quota: u64, subjects: u64) -> Vec<u64> {
    let hour = limit("hour", quota, 3_600);
    let mut admitted = Vec::new();
    for _ in 0..subjects {
        let (subject, mut units) = (stranger(), 0);
        for limiter in limiters {
            for _ in 0..=quota {
                let decision = limiter.acquire(&subject, &[charge(&hour, 1)], now()).await;
                units += u64::from(decision.unwrap().is_admitted());
            }
        }
        admitted.push(units);
    }
    admitted
}

#[tokio::test]
async fn instances_share_out_the_whole_quota_in_an_outage() {
    let mut server = Server::start();
    let mut limiters = Vec::new();
    for _ in 0..4 {
        limiters.push(connect(&server, 25).await);
    }
    assert_eq!(ordinals(&limiters), [Some(0), Some(1), Some(2), Some(3)]);
    server.kill();
    for quota in [1, 2, 3, 4, 5, 6, 7, 17] {
        assert_eq!(admitted(&limiters, quota, 8).await, [quota; 8]);
    }
    // One that starts meanwhile has no ordinal, and rounds down.
    limiters.push(connect(&server, 25).await);
    assert_eq!(admitted(&limiters, 3, 8).await, [3; 8]);
}

#[tokio::test]
async fn an_ordinal_has_one_instance_and_is_free_when_it_is_dropped() {
    let mut server = Server::start();
    let mut limiters = Vec::new();
    for _ in 0..3 {
        limiters.push(connect(&server, 50).await);
    }
    assert_eq!(ordinals(&limiters), [Some(0), Some(1), None]);
    limiters[0].0.ordinal.renew().await;
    limiters[2].0.ordinal.renew().await;
    assert_eq!(ordinals(&limiters), [Some(0), Some(1), None]);
    limiters.remove(0);
    for _ in 0..1_000 {
        limiters[1].0.ordinal.renew().await;
        if limiters[1].0.ordinal.held().is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(ordinals(&limiters), [Some(1), Some(0)]);
    // Without an answer it is held, but not longer than Redis keeps it from others.
    server.kill();
    limiters[0].0.ordinal.renew().await;
    assert_eq!(ordinals(&limiters), [Some(1), Some(0)]);
    tokio::time::pause();
    tokio::time::advance(Duration::from_mins(10)).await;
    assert_eq!(ordinals(&limiters), [None, None]);
}

#[tokio::test]
async fn an_instance_takes_the_ordinal_of_one_that_died() {
    let server = Server::start();
    let key = "{tower-api-key:instances}";
    // In the past, as of an instance that has not renewed it.
    let script = "redis.call('HSET', KEYS[1], 0, cmsgpack.pack({'dead', 1}))";
    server.tell(&["EVAL", script, "1", key]);
    let limiters = [connect(&server, 50).await, connect(&server, 50).await];
    assert_eq!(ordinals(&limiters), [Some(0), Some(1)]);
    // An ordinal that Redis has lost goes to the next that asks for it, and the other one gives way.
    server.tell(&["FLUSHALL"]);
    let other = connect(&server, 50).await;
    assert_eq!(other.0.ordinal.held(), Some(0));
    limiters[1].0.ordinal.renew().await;
    limiters[0].0.ordinal.renew().await;
    assert_eq!(ordinals(&limiters), [None, Some(1)]);
}

#[tokio::test]
async fn no_ordinal_is_taken_where_nothing_is_shared_out() {
    let server = Server::start();
    let builder = || RedisLimiter::builder(&server.url());
    for policy in [
        OutagePolicy::Deny,
        OutagePolicy::Allow,
        OutagePolicy::Local { percent: 51 },
    ] {
        let limiter = builder().on_outage(policy).connect().await.unwrap();
        assert_eq!(limiter.0.ordinal.held(), None);
    }
    assert_eq!(server.tell(&["DBSIZE"]), redis::Value::Int(0));
}
