use std::time::Duration;

use serde_json::{Value, json};
use sqlx::SqlitePool;
use tower_api_key::SqliteStore;

use super::Admin;

fn names(page: &Value) -> Vec<&str> {
    let keys = page["keys"].as_array().unwrap();
    keys.iter()
        .map(|key| key["name"].as_str().unwrap())
        .collect()
}

async fn filled() -> Admin {
    let admin = Admin::new().await;
    for (name, owner, environment, end) in [
        ("one", json!("acme"), "live", json!(null)),
        ("two", json!("acme"), "test", json!("2026-11-23T12:00:00Z")),
        ("three", json!("über & co"), "live", json!(null)),
        ("four", json!(null), "test", json!(null)),
    ] {
        admin.clock.advance(Duration::from_secs(1));
        let new = json!({
            "name": name, "owner": owner, "environment": environment, "expires_at": end,
        });
        let id = admin.post("/admin/keys", new).await.with(201)["key"]["id"].take();
        let path = super::path(id.as_str().unwrap());
        match name {
            "three" => drop(
                admin
                    .patch(&path, json!({"enabled": false}))
                    .await
                    .with(200),
            ),
            "four" => drop(admin.delete(&path).await.with(200)),
            _ => {}
        }
    }
    admin
}

#[tokio::test]
async fn each_filter_narrows_the_list_and_they_add_up() {
    let admin = filled().await;
    admin.clock.advance(Duration::from_hours(2));
    for (query, expected) in [
        ("", &["four", "three", "two", "one", "made before"][..]),
        ("?owner=acme", &["two", "one"]),
        ("?owner=%C3%BCber+%26%20co", &["three"]),
        ("?owner=nobody", &[]),
        ("?owner=", &[]),
        ("?environment=test", &["four", "two"]),
        ("?environment=moon", &[]),
        ("?status=active", &["one", "made before"]),
        ("?status=disabled", &["three"]),
        ("?status=expired", &["two"]),
        ("?status=revoked", &["four"]),
        ("?owner=acme&environment=live&status=active", &["one"]),
        ("?owner=acme&environment=live&status=expired", &[]),
    ] {
        let page = admin.get(&format!("/admin/keys{query}")).await.with(200);
        assert_eq!(names(&page), expected, "{query}");
        assert_eq!(page["next_cursor"], json!(null), "{query}");
    }
}

#[tokio::test]
async fn pages_follow_each_other_and_end() {
    let admin = filled().await;
    let mut path = "/admin/keys?limit=2".to_owned();
    for expected in [&["four", "three"][..], &["two", "one"], &["made before"]] {
        let page = admin.get(&path).await.with(200);
        assert_eq!(names(&page), expected);
        let cursor = page["next_cursor"].as_str().unwrap_or("end");
        path = format!("/admin/keys?limit=2&cursor={cursor}");
    }
    assert!(path.ends_with("=end"));

    for _ in 0..50 {
        admin
            .post("/admin/keys", json!({"name": "more"}))
            .await
            .with(201);
    }
    let page = admin.get("/admin/keys").await.with(200);
    assert_eq!(names(&page).len(), 50, "by default");
    assert!(page["next_cursor"].is_string());
    let page = admin.get("/admin/keys?limit=200").await.with(200);
    assert_eq!(names(&page).len(), 55);
}

#[tokio::test]
async fn a_listed_key_is_the_key() {
    let admin = filled().await;
    let page = admin.get("/admin/keys?limit=1").await.with(200);
    let id = page["keys"][0]["id"].as_str().unwrap();
    assert_eq!(page["next_cursor"], id);
    assert_eq!(admin.get(&super::path(id)).await.with(200), page["keys"][0]);
}

#[tokio::test]
async fn a_bad_parameter_is_named() {
    let admin = Admin::new().await;
    let usage = super::path(admin.root_id) + "/usage";
    for (path, query, parameter) in [
        ("/admin/keys", "limit=0", "limit"),
        ("/admin/keys", "limit=201", "limit"),
        ("/admin/keys", "limit=-1", "limit"),
        ("/admin/keys", "limit=x", "limit"),
        ("/admin/keys", "limit=", "limit"),
        ("/admin/keys", "status=gone", "status"),
        ("/admin/keys", "status=Active", "status"),
        ("/admin/keys", "status=", "status"),
        ("/admin/keys", "cursor=x", "cursor"),
        ("/admin/keys", "page=2", "page"),
        ("/admin/keys", "owner=a&owner=b", "owner"),
        ("/admin/keys", "owner=a%00", "owner"),
        ("/admin/keys", "environment=%00", "environment"),
        ("/admin/keys", "limit=1&limit=1", "limit"),
        (&usage, "bucket=week", "bucket"),
        (&usage, "bucket=hour&bucket=hour", "bucket"),
        (&usage, "from=yesterday", "from"),
        (&usage, "from=2026-11-23T10:00:00", "from"),
        (&usage, "to=", "to"),
        (&usage, "from=2026-11-23T10:00:01Z", "from"),
        (
            &usage,
            "from=2026-11-02T00:00:00Z&to=2026-11-01T00:00:00Z",
            "from",
        ),
        (&usage, "from=2025-11-22T09:59:59Z", "from"),
        (&usage, "limit=1", "limit"),
    ] {
        let field = admin.get(&format!("{path}?{query}")).await;
        assert!(
            field.json()["detail"]
                .as_str()
                .unwrap()
                .starts_with(parameter)
        );
        assert_eq!(field.problem(400, "invalid_request"), parameter, "{query}");
    }
}

#[tokio::test]
async fn what_cannot_be_read_is_named_and_hides_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.db");
    let store = SqliteStore::open(path.to_str().unwrap()).await.unwrap();
    let admin = Admin::over(store).await;
    let mut ids = Vec::new();
    for name in ["good", "torn", "budget"] {
        admin.clock.advance(Duration::from_secs(1));
        let new = json!({"name": name, "credits": {"remaining": 5}});
        let id = admin.post("/admin/keys", new).await.with(201)["key"]["id"].take();
        ids.push(id.as_str().unwrap().to_owned());
    }
    let pool = SqlitePool::connect(path.to_str().unwrap()).await.unwrap();
    for statement in [
        "UPDATE tower_api_key_keys SET limits = '[\"hunter2\"]' WHERE name = 'torn'",
        "UPDATE tower_api_key_credits SET begun_at = 9223372036854775807
         WHERE key_row = (SELECT key_row FROM tower_api_key_keys WHERE name = 'budget')",
    ] {
        sqlx::query(statement).execute(&pool).await.unwrap();
    }

    let answer = admin.get("/admin/keys").await;
    assert!(!answer.text.contains("hunter2"), "{answer:?}");
    let page = answer.with(200);
    assert_eq!(names(&page), ["good", "made before"]);
    assert_eq!(page["keys"][0]["credits"]["remaining"], 5);
    assert_eq!(
        page["unreadable"],
        json!([
            {"id": ids[2], "detail": "column `begun_at` cannot be read"},
            {"id": ids[1], "detail": "column `limits` cannot be read"},
        ])
    );
    // Alone, it is what the store cannot answer.
    let torn = admin.get(&super::path(&ids[1])).await;
    torn.problem(503, "unavailable");
    // A page by page listing gets past them.
    let mut listed = Vec::new();
    let mut path = "/admin/keys?limit=1".to_owned();
    loop {
        let page = admin.get(&path).await.with(200);
        listed.extend(names(&page).into_iter().map(str::to_owned));
        let Some(cursor) = page["next_cursor"].as_str() else {
            break;
        };
        path = format!("/admin/keys?limit=1&cursor={cursor}");
    }
    assert_eq!(listed, ["good", "made before"]);
    let whole = Admin::new().await.get("/admin/keys").await.with(200);
    assert!(whole.get("unreadable").is_none(), "{whole}");
}
