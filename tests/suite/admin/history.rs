use std::time::Duration;

use axum::http::Method;
use serde_json::json;
use tower_api_key::{Attempt, KeyUpdate, Requirements};

use super::{Admin, issue, path};

#[tokio::test]
async fn use_is_told_by_the_hour_and_by_the_day() {
    let admin = Admin::new().await;
    let (id, secret) = issue(&admin.keys, &["a"]).await;
    let present = async |allowed: u32, denied: u32| {
        let verify = async |needs: &str| {
            let needs = Requirements::new().scopes([needs]);
            admin
                .keys
                .verifier()
                .verify(Attempt::new(&secret), &needs)
                .await
        };
        for _ in 0..allowed {
            verify("a").await.unwrap();
        }
        for _ in 0..denied {
            verify("b").await.unwrap_err();
        }
    };
    present(2, 1).await;
    admin.clock.advance(Duration::from_mins(59));
    present(1, 0).await;
    admin.clock.advance(Duration::from_mins(1));
    present(0, 4).await;
    admin
        .clock
        .advance(Duration::from_hours(13) - Duration::from_nanos(1));
    present(5, 0).await;
    admin.clock.advance(Duration::from_nanos(1));
    present(6, 1).await;
    admin.keys.flush().await.unwrap();

    let usage = async |query: &str| {
        let path = format!("{}/usage{query}", path(id));
        let mut body = admin.get(&path).await.with(200);
        body["buckets"].take()
    };
    let ten = json!({"start": "2026-11-23T10:00:00Z", "allowed": 3, "denied": 1});
    let eleven = json!({"start": "2026-11-23T11:00:00Z", "allowed": 0, "denied": 4});
    let last = json!({"start": "2026-11-23T23:00:00Z", "allowed": 5, "denied": 0});
    let midnight = json!({"start": "2026-11-24T00:00:00Z", "allowed": 6, "denied": 1});
    let all = json!([ten, eleven, last, midnight]);
    // It is midnight now: the hour that just begins is not before `to` yet.
    assert_eq!(usage("").await, json!([ten, eleven, last]));
    admin.clock.advance(Duration::from_mins(1));
    assert_eq!(usage("").await, all);
    assert_eq!(usage("?bucket=hour").await, all);
    assert_eq!(
        usage("?bucket=day").await,
        json!([
            {"start": "2026-11-23T00:00:00Z", "allowed": 8, "denied": 5},
            {"start": "2026-11-24T00:00:00Z", "allowed": 6, "denied": 1},
        ])
    );
    let from = "?from=2026-11-23T11:00:00Z";
    assert_eq!(usage(from).await, json!([eleven, last, midnight]));
    let both = format!("{from}&to=2026-11-23T12:00:00%2B01:00");
    assert_eq!(usage(&both).await, json!([]), "nothing is between");
    let both = format!("{from}&to=2026-11-23T23:00:00Z");
    assert_eq!(usage(&both).await, json!([eleven]));
    assert_eq!(
        usage("?from=2025-11-24T00:00:00Z").await,
        all,
        "within 366 days"
    );

    // A day later the default no longer reaches back to the morning.
    admin.clock.advance(Duration::from_hours(11));
    assert_eq!(usage("").await, json!([eleven, last, midnight]));
    let to = "?to=2026-11-23T11:30:00Z";
    assert_eq!(usage(to).await, json!([ten, eleven]));
}

#[tokio::test]
async fn the_shape_of_usage_and_events_is_the_contracts() {
    let admin = Admin::new().await;
    admin.get("/admin/keys").await.with(200);
    admin.keys.flush().await.unwrap();
    admin.clock.advance(Duration::from_mins(1));
    let usage = admin.get(&(path(admin.root_id) + "/usage")).await;
    assert_eq!(
        usage.text,
        r#"{"buckets":[{"start":"2026-11-23T10:00:00Z","allowed":1,"denied":0}]}"#
    );
    let events = admin.get(&(path(admin.root_id) + "/events")).await;
    assert_eq!(
        events.text,
        r#"{"events":[{"at":"2026-11-23T10:00:00Z","action":"issued","actor":null}],"next_cursor":null}"#
    );
}

#[tokio::test]
async fn every_change_is_an_event_with_its_actor() {
    let admin = Admin::new().await;
    let (other, secret) = issue(&admin.keys, &["keys:*"]).await;
    let issued = admin
        .post("/admin/keys", json!({"name": "n"}))
        .await
        .with(201);
    let path = path(issued["key"]["id"].as_str().unwrap());
    admin.clock.advance(Duration::from_secs(1));
    let by_other =
        async |method, path: &str, body| admin.call(&secret, method, path, body).await.status;
    assert_eq!(
        by_other(Method::PATCH, &path, json!({"name": "m"})).await,
        200
    );
    assert_eq!(
        by_other(Method::PATCH, &path, json!({"enabled": false})).await,
        200
    );
    assert_eq!(
        by_other(Method::PATCH, &path, json!({"scopes": ["x"]})).await,
        403
    );
    admin.patch(&path, json!({"enabled": true})).await.with(200);
    let rotation = json!({"grace_seconds": 5});
    admin
        .post(&format!("{path}/rotate"), rotation)
        .await
        .with(201);
    assert_eq!(
        admin.call(&secret, Method::DELETE, &path, "").await.status,
        200
    );

    let (root, other) = (admin.root_id, other);
    let (first, then) = ("2026-11-23T10:00:00Z", "2026-11-23T10:00:01Z");
    assert_eq!(
        admin.get(&(path + "/events")).await.with(200),
        json!({"events": [
            {"at": then, "action": "revoked", "actor": other},
            {"at": then, "action": "rotated", "actor": root},
            {"at": then, "action": "enabled", "actor": root},
            {"at": then, "action": "disabled", "actor": other},
            {"at": then, "action": "updated", "actor": other},
            {"at": first, "action": "issued", "actor": root},
        ], "next_cursor": null})
    );
}

#[tokio::test]
async fn events_are_paged_newest_first_down_to_the_first() {
    let admin = Admin::new().await;
    let (id, _) = issue(&admin.keys, &[]).await;
    let rotation = json!({"grace_seconds": 60});
    admin
        .post(&format!("{}/rotate", path(id)), rotation)
        .await
        .with(201);
    for name in 0..1_001 {
        let update = KeyUpdate::new().name(name.to_string());
        admin.keys.update(id, update).await.unwrap();
    }
    let page = async |query: &str| {
        let page = admin.get(&format!("{}/events{query}", path(id))).await;
        let page = page.with(200);
        let events = page["events"].as_array().unwrap().iter();
        let actions: Vec<_> = events
            .map(|event| event["action"].as_str().unwrap().to_owned())
            .collect();
        (actions, page["next_cursor"].as_str().map(str::to_owned))
    };
    assert_eq!(page("").await.0.len(), 100, "unless `limit` says otherwise");
    let (newest, next) = page("?limit=1000").await;
    assert!(newest.len() == 1_000 && newest.iter().all(|action| action == "updated"));
    let (older, none) = page(&format!("?before={}", next.unwrap())).await;
    assert_eq!(older, ["updated", "rotated", "issued"]);
    assert_eq!(none, None);

    // A page follows the one before it, whatever happens between.
    let (first, next) = page("?limit=2").await;
    admin
        .patch(&path(id), json!({"enabled": false}))
        .await
        .with(200);
    let (second, _) = page(&format!("?limit=1000&before={}", next.unwrap())).await;
    assert_eq!((first.len(), second.len()), (2, 1_000));
    let (renamed, rotated) = second.split_at(999);
    assert!(renamed.iter().all(|action| action == "updated"));
    assert_eq!(rotated, ["rotated"]);
    assert_eq!(page("?limit=1").await.0, ["disabled"]);
    assert_eq!(page("?before=0").await, (Vec::new(), None));

    for (query, field) in [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=x", "limit"),
        ("limit=1&limit=1", "limit"),
        ("before=", "before"),
        ("before=-1", "before"),
        ("before=key_x", "before"),
        ("before=99999999999999999999", "before"),
        ("after=1", "after"),
        ("cursor=1", "cursor"),
    ] {
        let refused = admin.get(&format!("{}/events?{query}", path(id))).await;
        assert_eq!(refused.problem(400, "invalid_request"), field, "{query}");
    }
}
