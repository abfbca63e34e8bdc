//! Changing what a key is.

use serde_json::json;

use super::Shell;

#[test]
fn an_update_changes_what_it_names_and_nothing_else() {
    let shell = Shell::new();
    let issued = shell.json(&[
        "issue",
        "web",
        "--scope",
        "a:*",
        "--limit",
        "burst=1/1s",
        "--expires",
        "2999-01-31",
        "--metadata",
        "plan=pro",
        "--allow",
        "10.0.0.0/8",
        "--credits",
        "5",
    ]);
    let mut key = issued["key"].clone();
    let id = key["id"].as_str().unwrap().to_owned();
    let limit = json!([{"name": "l", "quota": 2, "window_seconds": 60}]);
    for (arguments, member, value) in [
        (&["--name", "shop"][..], "name", json!("shop")),
        (
            &["--allow", "192.0.2.1", "--allow", "::/0"],
            "allowed_addresses",
            json!(["192.0.2.1/32", "::/0"]),
        ),
        (&["--allow-all"], "allowed_addresses", json!([])),
        (
            &["--scope", "b:read", "--scope", "c:*"],
            "scopes",
            json!(["b:read", "c:*"]),
        ),
        (&["--no-scopes"], "scopes", json!([])),
        (&["--limit", "l=2/1m"], "limits", limit),
        (&["--no-limits"], "limits", json!([])),
        (&["--metadata", "team=a"], "metadata", json!({"team": "a"})),
        (&["--no-metadata"], "metadata", json!({})),
        (&["--expires", "never"], "expires_at", json!(null)),
        (
            &["--expires", "2998-01-31"],
            "expires_at",
            json!("2998-01-31T00:00:00Z"),
        ),
    ] {
        key[member] = value;
        let told = shell.json(&[&["update", &id], arguments].concat());
        assert_eq!(told, key, "{arguments:?}");
        assert_eq!(shell.json(&["show", &id]), key, "{arguments:?}");
    }
    let said = shell.run(&["update", &id, "--name", "web", "--allow-all"]);
    assert_eq!(said.is(0).stdout, format!("Updated {id} (web).\n"));

    for (arguments, complaint) in [
        (&[][..], "required"),
        (&["--allow", "10.0.0.0/33"], "10.0.0.0/8"),
        (&["--allow", "::1", "--allow-all"], "--allow-all"),
        (&["--scope", "a", "--no-scopes"], "--no-scopes"),
        (&["--scope", "a b"], "scopes"),
        (&["--expires", "2000-01-01"], "expires_at"),
        (&["--expires", "soon"], "90d"),
    ] {
        let said = shell.run(&[&["update", &id], arguments].concat());
        assert!(said.is(2).stderr.contains(complaint), "{}", said.stderr);
    }
}
