//! What a client and an administrator are told.

use axum::Router;
use axum::routing::get as on_get;
use serde_json::json;
use tower_api_key::{Credits, NewKey, Refill};

use super::with;
use crate::admin::{Admin, path};
use crate::support::{Bench, bearing, limit, send};

async fn exhausted(bench: &Bench, key: NewKey, cost: u64) -> crate::support::Answer {
    let text = bench.secret(key).await;
    let layer = bench.layer().cost(cost);
    let app = Router::new().route("/", on_get(|| async {}).layer(layer));
    let mut answer = send(&app, bearing(&text)).await;
    while answer.status == 200 {
        answer = send(&app, bearing(&text)).await;
    }
    answer
}

#[tokio::test]
async fn a_key_without_credits_is_told_so() {
    let bench = Bench::new();
    let answer = exhausted(&bench, with(2), 1).await;
    assert_eq!(answer.status, 429);
    assert_eq!(
        answer.body,
        r#"{"type":"about:blank","title":"Too Many Requests","status":429,"code":"credits_exhausted","detail":"the API key has too few credits left, and no refill is due"}"#
    );
    let names: Vec<_> = answer.headers.iter().map(|(name, _)| &**name).collect();
    assert_eq!(names, ["cache-control", "content-type"]);
    assert_eq!(answer.header("cache-control").as_deref(), Some("no-store"));
}

#[tokio::test]
async fn the_next_refill_is_when_to_come_again() {
    let bench = Bench::new();
    bench.clock.advance(std::time::Duration::from_nanos(1));
    let monthly = with(1).credits(Credits::refilled(Refill::monthly(3)));
    let answer = exhausted(&bench, monthly, 1).await;
    // All of January but a nanosecond, rounded up.
    let january = (31 * 86_400).to_string();
    assert_eq!(answer.header("retry-after"), Some(january));
    assert!(answer.body.contains("until the next refill"));

    let daily = with(1).credits(Credits::refilled(Refill::daily(3)));
    let answer = exhausted(&bench, daily, 4).await;
    assert_eq!(answer.header("retry-after"), None);
    assert_eq!(answer.code(), "credits_exhausted");
    assert!(answer.body.contains("it cannot succeed"));
}

#[tokio::test]
async fn the_limits_are_told_beside_it() {
    let bench = Bench::new();
    let answer = exhausted(&bench, with(2).limit(limit("burst", 9, 16)), 1).await;
    assert_eq!(answer.code(), "credits_exhausted");
    assert_eq!(
        answer.header("ratelimit").as_deref(),
        Some(r#""burst";r=7;t=16"#)
    );
}

#[tokio::test]
async fn credits_come_and_go_through_the_admin_router() {
    let admin = Admin::new().await;
    let refill = json!({"amount": 1_000, "every": "month"});
    let credits = json!({"remaining": 500, "refill": refill});
    let issued = admin
        .post("/admin/keys", json!({"name": "n", "credits": credits}))
        .await
        .with(201);
    assert_eq!(issued["key"]["credits"], credits);
    let (secret, id) = (&issued["secret"], issued["key"]["id"].as_str().unwrap());
    for _ in 0..5 {
        assert!(super::admits(&admin.keys, secret.as_str().unwrap(), 3).await);
    }
    let spent = json!({"remaining": 485, "refill": refill});
    let shown = admin.get(&path(id)).await.with(200);
    assert_eq!(shown["credits"], spent);
    let list = admin.get("/admin/keys").await.with(200);
    let keys = list["keys"].as_array().unwrap();
    // Of this one, and not of the caller's own.
    assert_eq!(keys.len(), 2);
    for key in keys {
        assert_eq!(key.get("credits"), (key["id"] == id).then_some(&spent));
    }
    let rotated = admin
        .post(&(path(id) + "/rotate"), json!({"grace_seconds": 0}))
        .await
        .with(201);
    assert_eq!(rotated["key"]["credits"], spent);

    let patch = json!({"credits": {"remaining": 7}});
    let patched = admin.patch(&path(id), patch).await.with(200);
    assert_eq!(patched["credits"], json!({"remaining": 7, "refill": null}));
    let named = admin.patch(&path(id), json!({"name": "m"})).await.with(200);
    assert_eq!(named["credits"]["remaining"], 7);
    let freed = admin.patch(&path(id), json!({"credits": null})).await;
    assert_eq!(freed.with(200).get("credits"), None);
    let revoked = admin.delete(&path(id)).await.with(200);
    assert_eq!(revoked.get("credits"), None);
}

#[tokio::test]
async fn a_wrong_budget_is_refused_by_name() {
    let admin = Admin::new().await;
    let over = Credits::MAX + 1;
    for (credits, field) in [
        (json!(5), "credits"),
        (json!([5, null]), "credits"),
        (json!({}), "credits.remaining"),
        (json!({"remaining": -1}), "credits.remaining"),
        (json!({"remaining": 1.5}), "credits.remaining"),
        (json!({"remaining": over}), "credits.remaining"),
        (json!({"remaining": 1, "more": 1}), "credits.more"),
        (
            json!({"remaining": 1, "refill": {"amount": 0, "every": "day"}}),
            "credits.refill.amount",
        ),
        (
            json!({"remaining": 1, "refill": {"amount": over, "every": "day"}}),
            "credits.refill.amount",
        ),
        (
            json!({"remaining": 1, "refill": {"amount": 1, "every": "week"}}),
            "credits.refill.every",
        ),
        (
            json!({"remaining": 1, "refill": {"amount": 1}}),
            "credits.refill.every",
        ),
    ] {
        let new = json!({"name": "n", "credits": credits});
        let answer = admin.post("/admin/keys", new).await;
        assert_eq!(answer.problem(422, "invalid_request"), field, "{credits}");
    }
    let none = json!({"name": "n", "credits": null});
    let key = admin.post("/admin/keys", none).await.with(201);
    assert_eq!(key["key"].get("credits"), None);
}
