//! A cluster of three servers.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::server::Server;
use super::{charge, limit, now, remaining, stranger};
use crate::limit::{Acquire, OutagePolicy, RedisLimiter};

fn cluster() -> Vec<Server> {
    let start = || {
        let options = ["--cluster-enabled", "yes", "--cluster-node-timeout", "2000"];
        Server::with(&options)
    };
    let servers: Vec<_> = (0..3).map(|_| start()).collect();
    for (server, slots) in servers
        .iter()
        .zip([0..5_461, 5_461..10_923, 10_923..16_384])
    {
        // One by one: Redis 6.2 does not know ADDSLOTSRANGE.
        let slots: Vec<_> = slots.map(|slot: u32| slot.to_string()).collect();
        let words = ["CLUSTER", "ADDSLOTS"].into_iter();
        let words: Vec<_> = words.chain(slots.iter().map(String::as_str)).collect();
        server.tell(&words);
        let port = servers[0].port().to_string();
        server.tell(&["CLUSTER", "MEET", "127.0.0.1", &port]);
    }
    let until = Instant::now() + Duration::from_secs(20);
    for server in &servers {
        let knows_all = || {
            let redis::Value::BulkString(info) = server.tell(&["CLUSTER", "INFO"]) else {
                panic!("CLUSTER INFO is a text");
            };
            let info = String::from_utf8(info).unwrap();
            info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3")
        };
        while !knows_all() {
            assert!(Instant::now() < until, "the cluster does not come about");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    servers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subjects_are_spread_over_a_cluster_and_each_is_counted_as_one() {
    let servers = tokio::task::spawn_blocking(cluster).await.unwrap();
    let urls: Vec<_> = servers.iter().map(Server::url).collect();
    for leased in [false, true] {
        let builder = RedisLimiter::cluster_builder(urls[..2].iter().map(String::as_str))
            .deadline(Duration::from_secs(2))
            .on_outage(OutagePolicy::Deny);
        let builder = if leased { builder.leased() } else { builder };
        let (one, other) = (
            builder.clone().connect().await.unwrap(),
            builder.connect().await.unwrap(),
        );
        let (hour, day) = (limit("hour", 10, 3_600), limit("day", 12, 86_400));
        for _ in 0..30 {
            let subject = stranger();
            // Two keys, in one slot or the script would be refused.
            let charges = [charge(&hour, 4), charge(&day, 4)];
            for (limiter, left) in [(&one, [6, 8]), (&other, [2, 4])] {
                let decision = limiter.acquire(&subject, &charges, now()).await.unwrap();
                assert_eq!(remaining(&decision), left);
            }
            let denied = one.acquire(&subject, &charges, now()).await.unwrap();
            assert!(!denied.is_admitted());
        }
    }
    let keys = |server: &Server| match server.tell(&["KEYS", "*"]) {
        redis::Value::Array(keys) => keys.len(),
        other => panic!("{other:?}"),
    };
    let keys: Vec<_> = servers.iter().map(keys).collect();
    assert_eq!(keys.iter().sum::<usize>(), 120);
    assert!(keys.iter().all(|keys| *keys > 0), "{keys:?}");
    let ports: HashSet<_> = servers.iter().map(Server::port).collect();
    assert_eq!(ports.len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_moved_slot_is_followed() {
    let servers = tokio::task::spawn_blocking(cluster).await.unwrap();
    let limiter = RedisLimiter::builder(&servers[0].url())
        .cluster()
        .deadline(Duration::from_secs(2))
        .on_outage(OutagePolicy::Deny)
        .connect()
        .await
        .unwrap();
    let (subject, hour) = (stranger(), limit("hour", 10, 3_600));
    let ids: Vec<_> = servers
        .iter()
        .map(|server| match server.tell(&["CLUSTER", "MYID"]) {
            redis::Value::BulkString(id) => String::from_utf8(id).unwrap(),
            other => panic!("{other:?}"),
        })
        .collect();
    // A slot without keys, which may move at once.
    let key = format!("{{tower-api-key:owner:{}}}:k:hour:3600", owner(&subject));
    let redis::Value::Int(slot) = servers[0].tell(&["CLUSTER", "KEYSLOT", &key]) else {
        panic!("a slot is a number");
    };
    let from = [5_461, 10_923]
        .iter()
        .filter(|first| slot >= **first)
        .count();
    let to = (from + 1) % 3;
    for server in [&servers[to], &servers[from], &servers[3 - from - to]] {
        server.tell(&["CLUSTER", "SETSLOT", &slot.to_string(), "NODE", &ids[to]]);
    }
    for left in [9, 8] {
        let decision = limiter
            .acquire(&subject, &[charge(&hour, 1)], now())
            .await
            .unwrap();
        assert_eq!(remaining(&decision), [left]);
    }
    let exists = servers[to].tell(&["EXISTS", &key]);
    assert_eq!(exists, redis::Value::Int(1));
}

/// The others go on, so the gate stays closed; still nobody waits one by one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_hangs_holds_up_the_first_request_of_a_subject() {
    let servers = tokio::task::spawn_blocking(cluster).await.unwrap();
    let limiter = RedisLimiter::builder(&servers[0].url())
        .cluster()
        .deadline(Duration::from_millis(300))
        .on_outage(OutagePolicy::Deny)
        .connect()
        .await
        .unwrap();
    let hour = limit("hour", 1_000, 3_600);
    let on_first = |subject: &crate::limit::Subject| {
        let key = format!("{{tower-api-key:owner:{}}}", owner(subject));
        let slot = servers[0].tell(&["CLUSTER", "KEYSLOT", &key]);
        matches!(slot, redis::Value::Int(..5_461))
    };
    let subjects = || std::iter::repeat_with(stranger);
    let there = subjects().find(&on_first).unwrap();
    let elsewhere = subjects().find(|subject| !on_first(subject)).unwrap();
    servers[0].tell(&["CLIENT", "PAUSE", "5000", "ALL"]);
    let at = now();
    for _ in 0..20 {
        let other = limiter.acquire(&elsewhere, &[charge(&hour, 1)], at).await;
        assert!(other.is_ok());
        _ = limiter
            .acquire(&there, &[charge(&hour, 1)], at)
            .await
            .unwrap_err();
        let calls = limiter.calls();
        let next = limiter.begin(&there, &[charge(&hour, 1)], at);
        assert!(matches!(next, Acquire::Done(Err(_))));
        assert_eq!(limiter.calls(), calls);
    }
}

fn owner(subject: &crate::limit::Subject) -> String {
    match subject.id() {
        crate::limit::SubjectId::Owner(owner) => owner.to_string(),
        other => panic!("{other:?}"),
    }
}
