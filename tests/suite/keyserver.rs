//! The example server, as its users start it: its own process, a file, a socket and signals.

use std::io::Write;
use std::net::TcpListener;
use std::path::Path;
use std::process::Output;

use serde_json::json;

use crate::postgres::Database;
use crate::server::{Server, command, output};

#[test]
fn a_key_lives_through_a_restart_and_its_use_is_written() {
    let directory = tempfile::tempdir().unwrap();
    lives_through_a_restart(&directory.path().join("keys.db"));
}

#[test]
fn a_key_lives_through_a_restart_in_postgres() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let name = "tower_api_key_of_the_keyserver";
    let database = runtime.block_on(Database::separate(name, "tower_api_key"));
    lives_through_a_restart(Path::new(database.url()));
}

fn lives_through_a_restart(database: &Path) {
    let first = Server::start(database);
    let admin = first.admin_key();
    assert!(admin.starts_with("sk_live_"));

    let new = json!({"name": "shop", "owner": "acme", "scopes": ["orders:read", "orders:write"]});
    let (status, issued) = first.call("POST", "/admin/keys", Some(&admin), Some(new));
    let key = issued["secret"].as_str().unwrap().to_owned();
    let id = issued["key"]["id"].as_str().unwrap().to_owned();
    assert_eq!(status, 201);
    let get = |path, key: Option<&str>| first.call("GET", path, key, None);
    assert_eq!(get("/healthz", None), (200, json!("ok")));
    assert_eq!(
        get("/v1/whoami", Some(&key)),
        (
            200,
            json!({
                "key_id": id, "name": "shop", "owner": "acme", "environment": "live",
                "scopes": ["orders:read", "orders:write"],
            })
        )
    );
    assert_eq!(get("/v1/public", None), (200, json!({"key_id": null})));
    assert_eq!(get("/v1/public", Some(&key)), (200, json!({"key_id": id})));
    assert_eq!(get("/v1/orders", Some(&key)).0, 200);
    assert_eq!(first.call("POST", "/v1/orders", Some(&key), None).0, 201);
    assert_eq!(get("/v1/catalog", Some(&key)).0, 403);
    assert_eq!(get("/v1/orders", None).0, 401);
    assert_eq!(get("/admin/keys", None).0, 401);
    let (status, page) = get("/admin", None);
    assert_eq!(status, 200);
    assert!(page.as_str().unwrap().starts_with("<!doctype html>"));
    first.stop("TERM");

    let second = Server::start(database);
    let usage = format!("/admin/keys/{id}/usage?bucket=day");
    let (status, usage) = second.call("GET", &usage, Some(&admin), None);
    assert_eq!(status, 200);
    let sum = |member: &str| {
        let buckets = usage["buckets"].as_array().unwrap();
        buckets
            .iter()
            .filter_map(|day| day[member].as_u64())
            .sum::<u64>()
    };
    assert_eq!((sum("allowed"), sum("denied")), (4, 1));

    let path = format!("/admin/keys/{id}");
    assert_eq!(second.call("DELETE", &path, Some(&admin), None).0, 200);
    assert_eq!(second.call("GET", "/v1/whoami", Some(&key), None).0, 401);
    second.stop("INT");
}

#[test]
fn a_publishable_key_opens_what_is_meant_for_it() {
    let server = Server::start(Path::new("sqlite::memory:"));
    let admin = server.admin_key();
    let new = json!({"name": "web", "prefix": "pk", "scopes": ["catalog:read", "orders:read"]});
    let (_, issued) = server.call("POST", "/admin/keys", Some(&admin), Some(new));
    let key = issued["secret"].as_str().unwrap();
    assert!(key.starts_with("pk_live_"));
    for (path, status) in [
        ("/v1/catalog", 200),
        ("/v1/whoami", 200),
        ("/v1/orders", 401),
    ] {
        assert_eq!(
            server.call("GET", path, Some(key), None).0,
            status,
            "{path}"
        );
    }
    server.stop("TERM");
}

#[test]
fn the_document_tells_every_route() {
    let server = Server::start(Path::new("sqlite::memory:"));
    server.admin_key();
    let (status, document) = server.call("GET", "/openapi.json", None, None);
    assert_eq!((status, &document["openapi"]), (200, &json!("3.1.0")));
    for (path, method, scopes) in [
        ("/v1/whoami", "get", json!([])),
        ("/v1/catalog", "get", json!(["catalog:read"])),
        ("/v1/orders", "get", json!(["orders:read"])),
        ("/v1/orders", "post", json!(["orders:write"])),
        ("/admin/keys", "post", json!(["keys:write"])),
    ] {
        let operation = &document["paths"][path][method];
        assert_eq!(operation["security"][0]["bearer"], scopes, "{path}");
    }
    let public = &document["paths"]["/v1/public"]["get"]["security"];
    assert!(public.as_array().unwrap().contains(&json!({})));
    server.stop("TERM");
}

#[test]
fn an_order_costs_five() {
    let server = Server::start(Path::new("sqlite::memory:"));
    let admin = server.admin_key();
    let limits = json!([{"name": "l", "quota": 12, "window_seconds": 3600}]);
    let new = json!({"name": "shop", "scopes": ["orders:*"], "limits": limits});
    let (_, issued) = server.call("POST", "/admin/keys", Some(&admin), Some(new));
    let key = issued["secret"].as_str();
    let statuses = ["POST", "POST", "POST", "GET", "GET", "GET"]
        .map(|method| server.call(method, "/v1/orders", key, None).0);
    assert_eq!(statuses, [201, 201, 429, 200, 200, 429]);
    server.stop("TERM");
}

#[test]
fn too_many_bad_keys_from_one_address_are_turned_away() {
    let mut command = command(Path::new("sqlite::memory:"));
    let server = Server::spawn(command.env("FAILED_ATTEMPTS_PER_MINUTE", "2"));
    let statuses = [(); 3].map(|()| server.call("GET", "/v1/whoami", Some("bad"), None).0);
    assert_eq!(statuses, [401, 401, 429]);
    server.admin_key();
    server.stop("TERM");
}

/// It would be waited for until the client thinks better of it.
#[test]
fn half_a_request_does_not_hold_up_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let database = directory.path().join("keys.db");
    let mut command = command(&database);
    let server = Server::spawn(command.env("DRAIN_SECONDS", "1"));
    let admin = server.admin_key();
    let mut half = server.connect();
    half.write_all(b"GET /healthz HTTP/1.1\r\nHost: ").unwrap();
    let status = |server: &Server| server.call("GET", "/v1/whoami", Some(&admin), None).0;
    assert_eq!(status(&server), 200);
    server.stop("TERM");

    // The use was written.
    let server = Server::start(&database);
    let (_, listed) = server.call("GET", "/admin/keys", Some(&admin), None);
    assert!(listed["keys"][0]["last_used_at"].is_string(), "{listed}");
    server.stop("TERM");
}

#[test]
fn a_server_starts_while_redis_is_away() {
    let nowhere = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis://{}/", nowhere.local_addr().unwrap());
    drop(nowhere);
    let mut command = command(Path::new("sqlite::memory:"));
    let server = Server::spawn(command.env("REDIS_URL", url));
    let admin = server.admin_key();
    let limits = json!([{"name": "l", "quota": 4, "window_seconds": 3600}]);
    let new = json!({"name": "shop", "limits": limits});
    let (_, issued) = server.call("POST", "/admin/keys", Some(&admin), Some(new));
    let key = issued["secret"].as_str();
    let statuses = [(); 3].map(|()| server.call("GET", "/v1/whoami", key, None).0);
    assert_eq!(statuses, [200, 200, 429], "half of the quota, by itself");
    server.stop("TERM");
}

#[test]
fn what_cannot_work_is_one_line_and_a_failure() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let directory = tempfile::tempdir().unwrap();
    let no_database = directory.path().join("garbage.db");
    std::fs::write(
        &no_database,
        "no database, whatever its name says. ".repeat(100),
    )
    .unwrap();
    let postgres = "postgres://user:hunter2@127.0.0.1:1/keys";
    for (name, value) in [
        ("LISTEN", taken.as_str()),
        ("LISTEN", "nonsense"),
        ("LISTEN", "127.0.0.1:99999"),
        ("DATABASE_URL", directory.path().to_str().unwrap()),
        (
            "DATABASE_URL",
            directory.path().join("no/keys.db").to_str().unwrap(),
        ),
        ("DATABASE_URL", no_database.to_str().unwrap()),
        ("DATABASE_URL", postgres),
        ("DATABASE_URL", "mysql://user:hunter2@localhost/keys"),
        ("REDIS_URL", "redis://user:hunter2@localhost/no-number"),
        ("REDIS_URL", "http://user:hunter2@localhost"),
        ("DRAIN_SECONDS", "-1"),
        ("DRAIN_SECONDS", "long"),
        ("FAILED_ATTEMPTS_PER_MINUTE", "0"),
        ("FAILED_ATTEMPTS_PER_MINUTE", "-1"),
        ("FAILED_ATTEMPTS_PER_MINUTE", "many"),
        ("FAILED_ATTEMPTS_PER_MINUTE", "1000000000000000"),
    ] {
        let mut command = command(Path::new("sqlite::memory:"));
        let Output {
            status,
            stdout,
            stderr,
        } = output(command.env(name, value));
        let (stdout, stderr) = (
            String::from_utf8(stdout).unwrap(),
            String::from_utf8(stderr).unwrap(),
        );
        assert_eq!(status.code(), Some(1), "{name}={value}: {stderr}");
        assert_eq!(stdout, "", "{name}={value}");
        assert_eq!(stderr.lines().count(), 1, "{name}={value}: {stderr}");
        assert!(
            stderr.starts_with(&format!("keyserver: {name}")),
            "{stderr}"
        );
        assert!(!stderr.contains("hunter2"), "{stderr}");
    }
}
