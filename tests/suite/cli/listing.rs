//! Listing keys.

use serde_json::Value;

use super::Shell;

#[test]
fn a_listing_is_filtered_and_goes_on_page_by_page() {
    let shell = Shell::new();
    let mut ids: Vec<_> = (0..5)
        .map(|n| shell.issue(&[&format!("k{n}"), "--owner", "acme"]).1)
        .collect();
    shell.issue(&["other", "--environment", "test"]);
    ids.sort();
    ids.reverse();
    let mut listed = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let mut arguments = vec!["list", "--owner", "acme", "--limit", "2"];
        if let Some(cursor) = &cursor {
            arguments.extend(["--cursor", cursor]);
        }
        let page = shell.json(&arguments);
        let keys = page["keys"].as_array().unwrap().iter();
        listed.extend(keys.map(|key| key["id"].as_str().unwrap().to_owned()));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = Some(next.to_owned()),
            None => break,
        }
    }
    assert_eq!(listed, ids);
    let table = shell.run(&["list", "--limit", "4"]);
    assert_eq!(table.is(0).stdout.lines().count(), 5, "{}", table.stdout);
    assert!(table.stderr.contains("--cursor key_"), "{}", table.stderr);
    let test = shell.json(&["list", "--environment", "test"]);
    assert_eq!(test["keys"][0]["name"], "other");
    let none = shell.run(&["list", "--status", "revoked"]);
    assert_eq!(
        (none.is(0).stdout.as_str(), none.stderr.as_str()),
        ("", "No key fits.\n")
    );
}

#[tokio::test]
async fn a_listing_names_what_cannot_be_read() {
    let shell = Shell::new();
    let (_, torn) = shell.issue(&["torn"]);
    let (_, budget) = shell.issue(&["budget", "--credits", "7"]);
    shell.issue(&["good", "--credits", "7"]);
    let pool = sqlx::SqlitePool::connect(&shell.url).await.unwrap();
    for statement in [
        "UPDATE tower_api_key_keys SET scopes = '[\"hunter 2\"]' WHERE name = 'torn'",
        "UPDATE tower_api_key_credits SET begun_at = 9223372036854775807
         WHERE key_row = (SELECT key_row FROM tower_api_key_keys WHERE name = 'budget')",
    ] {
        sqlx::query(statement).execute(&pool).await.unwrap();
    }
    let table = shell.run(&["list"]);
    let named = format!("error: key {torn} cannot be read: column `scopes` cannot be read");
    assert_eq!(table.is(1).stderr.trim_end(), named);
    assert!(table.stdout.contains("good"), "{}", table.stdout);
    let json = shell.run(&["list", "--json"]);
    let page: Value = serde_json::from_str(&json.is(1).stdout).unwrap();
    assert_eq!(page["keys"].as_array().unwrap().len(), 1);
    assert_eq!(page["keys"][0]["name"], "good");
    let unreadable = page["unreadable"].as_array().unwrap();
    let ids: Vec<_> = unreadable
        .iter()
        .map(|key| key["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids, [torn, budget]);
    assert!(!json.stdout.contains("hunter"), "{}", json.stdout);
}
