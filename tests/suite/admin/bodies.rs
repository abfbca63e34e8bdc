//! What a body must be, and how a wrong one is named.

use axum::body::Body;
use axum::http::{Method, Request};
use serde_json::{Value, json};

use super::{Admin, issue, path};

/// New keys that are refused, each with the field that is wrong.
async fn assert_refused(rows: impl IntoIterator<Item = (String, Value)>) {
    let admin = Admin::new().await;
    for (body, field) in rows {
        let answer = admin.post("/admin/keys", &body).await;
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(
            detail.starts_with(field.as_str().unwrap_or_default()),
            "{detail}"
        );
        assert_eq!(answer.problem(422, "invalid_request"), field, "{body}");
    }
    let keys = admin.get("/admin/keys").await.with(200)["keys"].take();
    assert_eq!(keys.as_array().unwrap().len(), 1, "none was made");
}

fn with(members: &str) -> String {
    format!(r#"{{"name":"n",{members}}}"#)
}

fn many(count: usize, item: &str) -> String {
    vec![item; count].join(",")
}

#[tokio::test]
async fn what_a_problem_repeats_of_a_body_is_cut() {
    let admin = Admin::new().await;
    let member = "\u{e4}".repeat(20_000);
    let body = with(&format!(r#""{member}":1"#));
    let answer = admin.post("/admin/keys", body).await.json();
    assert_eq!(answer["status"], 422);
    for (text, most) in [("field", 256), ("detail", 1_024)] {
        let text = answer[text].as_str().unwrap();
        assert!(text.ends_with('\u{2026}'), "{text}");
        assert!(text.len() <= most + '\u{2026}'.len_utf8(), "{}", text.len());
    }
}

#[tokio::test]
async fn a_bad_new_key_is_refused_with_the_field() {
    let long = "x".repeat(201);
    assert_refused([
        ("{}".to_owned(), json!("name")),
        (r#"{"name":null}"#.into(), json!("name")),
        (r#"{"name":1}"#.into(), json!("name")),
        (r#"{"name":""}"#.into(), json!("name")),
        (r#"{"name":"a\n"}"#.into(), json!("name")),
        (format!(r#"{{"name":"{long}"}}"#), json!("name")),
        (r#"{"name":"a","name":"a"}"#.into(), json!("name")),
        (with(r#""id":"key_1""#), json!("id")),
        (with(r#""enabled":true"#), json!("enabled")),
        (with(r#""owner":"""#), json!("owner")),
        (with(r#""owner":7"#), json!("owner")),
        (with(r#""prefix":"xx""#), json!("prefix")),
        (with(r#""environment":"moon""#), json!("environment")),
        (with(r#""scopes":"a""#), json!("scopes")),
        (with(r#""scopes":null"#), json!("scopes")),
        (with(r#""scopes":["a",1]"#), json!("scopes[1]")),
        (with(r#""scopes":["a","a b"]"#), json!("scopes[1]")),
        (with(r#""scopes":["*:a"]"#), json!("scopes[0]")),
        (
            with(r#""expires_at":"2026-11-23T10:00:00Z""#),
            json!("expires_at"),
        ),
        (with(r#""expires_at":"2030-01-01""#), json!("expires_at")),
        (with(r#""expires_at":1900000000"#), json!("expires_at")),
        (with(r#""metadata":[]"#), json!("metadata")),
        (with(r#""metadata":null"#), json!("metadata")),
        (with(r#""metadata":{"a":1}"#), json!("metadata.a")),
        (with(r#""metadata":{"a":null}"#), json!("metadata.a")),
        (with(r#""metadata":{"":"a"}"#), json!("metadata")),
        (with(r#""metadata":{"a":"1","a":"2"}"#), json!("metadata")),
        (
            with(r#""allowed_addresses":["10.0.0.0/33"]"#),
            json!("allowed_addresses[0]"),
        ),
        (
            with(r#""allowed_addresses":["::1"]"#),
            json!("allowed_addresses[0]"),
        ),
        (
            with(&format!(
                r#""allowed_addresses":[{}]"#,
                many(101, r#""10.0.0.0/8""#)
            )),
            json!("allowed_addresses"),
        ),
        ("[]".into(), json!(null)),
        (r#"["n"]"#.into(), json!(null)),
        ("null".into(), json!(null)),
        (r#""n""#.into(), json!(null)),
    ])
    .await;
}

#[tokio::test]
async fn a_bad_limit_is_refused_with_its_member() {
    let limit = |members: &str| with(&format!(r#""limits":[{{{members}}}]"#));
    assert_refused([
        (with(r#""limits":{}"#), json!("limits")),
        (with(r#""limits":null"#), json!("limits")),
        (with(r#""limits":[["burst",1,1]]"#), json!("limits[0]")),
        (
            limit(r#""quota":1,"window_seconds":1"#),
            json!("limits[0].name"),
        ),
        (
            limit(r#""name":"a b","quota":1,"window_seconds":1"#),
            json!("limits[0].name"),
        ),
        (
            limit(r#""name":"b","window_seconds":1"#),
            json!("limits[0].quota"),
        ),
        (
            limit(r#""name":"b","quota":0,"window_seconds":1"#),
            json!("limits[0].quota"),
        ),
        (
            limit(r#""name":"b","quota":-1,"window_seconds":1"#),
            json!("limits[0].quota"),
        ),
        (
            limit(r#""name":"b","quota":1.5,"window_seconds":1"#),
            json!("limits[0].quota"),
        ),
        (
            limit(r#""name":"b","quota":"1","window_seconds":1"#),
            json!("limits[0].quota"),
        ),
        (
            limit(r#""name":"b","quota":1000000000000000,"window_seconds":1"#),
            json!("limits[0].quota"),
        ),
        (
            limit(r#""name":"b","quota":1,"window_seconds":0"#),
            json!("limits[0].window_seconds"),
        ),
        (
            limit(r#""name":"b","quota":1,"window_seconds":31622401"#),
            json!("limits[0].window_seconds"),
        ),
        (
            limit(r#""name":"b","quota":1,"window_seconds":99999999999"#),
            json!("limits[0].window_seconds"),
        ),
        (
            limit(r#""name":"b","quota":1,"window_seconds":1,"burst":2"#),
            json!("limits[0].burst"),
        ),
        (
            with(&format!(
                r#""limits":[{}]"#,
                many(2, r#"{"name":"b","quota":1,"window_seconds":1}"#)
            )),
            json!("limits"),
        ),
    ])
    .await;
}

#[tokio::test]
async fn a_bad_change_is_refused_with_the_field() {
    let admin = Admin::new().await;
    let (id, _) = issue(&admin.keys, &["a"]).await;
    let before = admin.get(&path(id)).await.with(200);
    for (body, field) in [
        (r#"{"name":null}"#, "name"),
        (r#"{"name":""}"#, "name"),
        (r#"{"scopes":null}"#, "scopes"),
        (r#"{"scopes":[""]}"#, "scopes[0]"),
        (r#"{"limits":null}"#, "limits"),
        (
            r#"{"limits":[{"name":"b","quota":1,"window_seconds":1},{"name":"c","quota":0,"window_seconds":1}]}"#,
            "limits[1].quota",
        ),
        (r#"{"metadata":null}"#, "metadata"),
        (r#"{"metadata":{"a":true}}"#, "metadata.a"),
        (r#"{"enabled":null}"#, "enabled"),
        (r#"{"enabled":"yes"}"#, "enabled"),
        (r#"{"enabled":true,"enabled":false}"#, "enabled"),
        (r#"{"expires_at":"2026-11-23T09:59:59Z"}"#, "expires_at"),
        (r#"{"expires_at":""}"#, "expires_at"),
        (r#"{"expires_at":null,"expires_at":null}"#, "expires_at"),
        (r#"{"owner":"x"}"#, "owner"),
        (r#"{"prefix":"sk"}"#, "prefix"),
        (r#"{"environment":"live"}"#, "environment"),
        (r#"{"allowed_addresses":null}"#, "allowed_addresses"),
        (r#"{"allowed_addresses":["::1"]}"#, "allowed_addresses[0]"),
        (
            r#"{"allowed_addresses":["::/0","10.0.0.0/33"]}"#,
            "allowed_addresses[1]",
        ),
        (r#"{"revoked_at":null}"#, "revoked_at"),
    ] {
        let refused = admin.patch(&path(id), body).await;
        assert_eq!(refused.problem(422, "invalid_request"), field, "{body}");
    }
    for body in [
        "{}",
        r#"{"grace_seconds":null}"#,
        r#"{"grace_seconds":-1}"#,
        r#"{"grace_seconds":31536001}"#,
        r#"{"grace_seconds":18446744073709551616}"#,
        r#"{"grace_seconds":1.5}"#,
        r#"{"grace_seconds":"1"}"#,
        r#"{"grace_seconds":1,"grace_seconds":1}"#,
    ] {
        let refused = admin.post(&(path(id) + "/rotate"), body).await;
        let field = refused.problem(422, "invalid_request");
        assert_eq!(field, "grace_seconds", "{body}");
    }
    assert_eq!(admin.get(&path(id)).await.with(200), before);
}

#[tokio::test]
async fn what_is_no_json_is_a_bad_request() {
    let admin = Admin::new().await;
    let deep = "[".repeat(1_000);
    for body in [
        "{",
        r#"{"name":"a"} {}"#,
        "name=a",
        r#"{"name":"\ud800"}"#,
        " ",
        &deep,
    ] {
        let refused = admin.post("/admin/keys", body).await;
        let status = refused.status.as_u16();
        // How deep an array is does not matter where an object is needed.
        assert_eq!(status, if body == deep { 422 } else { 400 }, "{body}");
        refused.problem(status, "invalid_request");
    }
}

#[tokio::test]
async fn a_body_must_be_json_by_name_and_small() {
    let admin = Admin::new().await;
    let send = async |content_type: Option<&str>, body: String| {
        let mut request = Request::builder()
            .method(Method::POST)
            .uri("/admin/keys")
            .header("x-api-key", &admin.root);
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        admin.send(request.body(Body::from(body)).unwrap()).await
    };
    let good = || r#"{"name":"n"}"#.to_owned();
    for other in [
        None,
        Some("text/plain"),
        Some("application/x-www-form-urlencoded"),
        Some(""),
    ] {
        let refused = send(other, good()).await;
        refused.problem(415, "unsupported_media_type");
    }
    for json in ["application/json", "application/json; charset=utf-8"] {
        send(Some(json), good()).await.with(201);
    }

    let filled = |length| good() + &" ".repeat(length - good().len());
    send(Some("application/json"), filled(64 * 1024))
        .await
        .with(201);
    let large = send(Some("application/json"), filled(64 * 1024 + 1)).await;
    large.problem(413, "content_too_large");
}

#[tokio::test]
async fn a_whole_number_may_be_written_with_a_point() {
    let admin = Admin::new().await;
    let limit = r#""limits":[{"name":"l","quota":100.0,"window_seconds":6e1}]"#;
    let issued = admin.post("/admin/keys", with(limit)).await.with(201);
    let limits = json!([{"name": "l", "quota": 100, "window_seconds": 60}]);
    assert_eq!(issued["key"]["limits"], limits);
    let rotate = path(issued["key"]["id"].as_str().unwrap()) + "/rotate";
    admin
        .post(&rotate, r#"{"grace_seconds":0.0}"#)
        .await
        .with(201);
    for number in ["0.5", "-1.0", "1e300", "1e15", "\"1\"", "null"] {
        let body = format!(r#"{{"grace_seconds":{number}}}"#);
        let answer = admin.post(&rotate, body).await;
        assert_eq!(answer.problem(422, "invalid_request"), "grace_seconds");
    }
}
