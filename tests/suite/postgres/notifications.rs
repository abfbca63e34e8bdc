//! What other instances are told, and by whatever means a key was changed.

use std::time::Duration;

use jiff::Timestamp;
use sqlx::postgres::PgListener;
use tokio::time::timeout;
use tower_api_key::{
    ApiKeys, Key, KeyDigest, KeyId, KeyRepository, KeyUpdate, NewKey, PostgresStore, UsageBatch,
    UsageDelta,
};

use super::{Database, update};
use crate::support::insert;

#[tokio::test]
async fn every_change_of_a_key_is_told_with_its_credentials() {
    let mut told = Told::of("told").await;
    let keys = ApiKeys::builder(told.store.clone()).build();
    let issued = keys.issue(NewKey::named("billing")).await.unwrap();
    let id = issued.key().record.id;
    let first = issued.key().credentials[0].digest;
    assert_eq!(told.next().await, [line(id, &[first])], "a miss is over");

    keys.update(id, KeyUpdate::new().name("renamed"))
        .await
        .unwrap();
    assert_eq!(told.next().await, [line(id, &[first])]);
    let rotated = keys.rotate(id, Duration::from_mins(1)).await.unwrap();
    let second = rotated.key().credentials[1].digest;
    // The key and its first credential, then the second.
    let mut expected = [line(id, &[first]), line(id, &[second])];
    expected.sort();
    assert_eq!(told.next().await, expected);
    keys.disable(id).await.unwrap();
    assert_eq!(told.next().await, [line(id, &[first, second])]);
    keys.enable(id).await.unwrap();
    assert_eq!(told.next().await, [line(id, &[first, second])]);
    keys.revoke(id).await.unwrap();
    assert_eq!(told.next().await, [line(id, &[first, second])]);
}

#[tokio::test]
async fn changes_by_plain_sql_are_told() {
    let mut told = Told::of("told of sql").await;
    let (one, other) = (insert(&told.store).await, insert(&told.store).await);
    told.next().await;
    let lines = |keys: &[&Key]| {
        let mut lines: Vec<_> = keys
            .iter()
            .map(|key| line(key.record.id, &[key.credentials[0].digest]))
            .collect();
        lines.sort();
        lines
    };
    let (id, of_one) = (one.record.id, format!("WHERE id = '{}'", one.record.id));
    let its = format!("WHERE key_row = (SELECT key_row FROM {{schema}}.keys {of_one})");
    let cases = [
        (
            format!("UPDATE {{schema}}.keys SET enabled = false {of_one}"),
            lines(&[&one]),
        ),
        (
            "UPDATE {schema}.keys SET enabled = true".into(),
            lines(&[&one, &other]),
        ),
        (
            format!("UPDATE {{schema}}.credentials SET expires_at = now() {its}"),
            lines(&[&one]),
        ),
        (
            "UPDATE {schema}.credentials SET expires_at = now()".into(),
            lines(&[&one, &other]),
        ),
        (
            "UPDATE {schema}.credentials SET imported = true, last_used_at = now()".into(),
            lines(&[&one, &other]),
        ),
        (
            format!("UPDATE {{schema}}.keys SET enabled = true {of_one} AND version = 77"),
            vec![],
        ),
        (
            format!(
                "SET session_replication_role = replica;
                 UPDATE {{schema}}.keys SET enabled = false {of_one}"
            ),
            lines(&[&one]),
        ),
        (
            "UPDATE {schema}.credentials SET expires_at = expires_at".into(),
            vec![],
        ),
        (
            "UPDATE {schema}.credentials SET last_used_at = now()".into(),
            vec![],
        ),
        (
            format!("BEGIN; UPDATE {{schema}}.keys SET enabled = false {of_one}; ROLLBACK"),
            vec![],
        ),
        (
            format!("DELETE FROM {{schema}}.credentials {its}"),
            lines(&[&one]),
        ),
        (
            "DELETE FROM {schema}.events; DELETE FROM {schema}.usage".into(),
            vec![],
        ),
        (
            format!("DELETE FROM {{schema}}.keys {of_one}"),
            vec![id.to_string()],
        ),
        (
            "WITH c AS (DELETE FROM {schema}.credentials) DELETE FROM {schema}.keys".into(),
            vec!["*".into(), other.record.id.to_string()],
        ),
        ("TRUNCATE {schema}.credentials".into(), vec!["*".into()]),
        ("TRUNCATE {schema}.keys CASCADE".into(), vec!["*".into()]),
    ];
    for (statement, expected) in cases {
        told.database.execute(&statement).await.unwrap();
        assert_eq!(told.next().await, expected, "{statement}");
    }
}

#[tokio::test]
async fn a_credential_under_another_digest_is_told_under_both() {
    let mut told = Told::of("told of both").await;
    let key = insert(&told.store).await;
    told.next().await;
    let other = KeyDigest::sha256("another");
    let statement = format!(
        "UPDATE {{schema}}.credentials SET digest = '\\x{}'",
        hex(&other)
    );
    told.database.execute(&statement).await.unwrap();
    let expected = line(key.record.id, &[key.credentials[0].digest, other]);
    assert_eq!(told.next().await, [expected]);
}

#[tokio::test]
async fn use_is_not_told() {
    let mut told = Told::of("told of use").await;
    let key = insert(&told.store).await;
    told.next().await;
    for hour in 0..2 {
        let used = UsageDelta {
            key: key.record.id,
            credential: key.credentials[0].digest,
            hour: Timestamp::from_second(hour * 3_600).unwrap(),
            allowed: 1,
            denied: 0,
            last_used_at: Some(Timestamp::from_second(hour * 3_600).unwrap()),
        };
        told.store
            .record_usage(&UsageBatch::new(vec![used]))
            .await
            .unwrap();
    }
    let stored = told.store.get(key.record.id).await.unwrap().unwrap();
    assert!(stored.last_used_at().is_some());
    assert_eq!(told.next().await, [""; 0]);
}

#[tokio::test]
async fn a_change_of_many_keys_is_told_as_one() {
    let mut told = Told::of("told of many").await;
    let generate = "
        WITH k AS (
            INSERT INTO {schema}.keys OVERRIDING SYSTEM VALUE
            SELECT n, 'key_' || lpad(n::text, 26, '0'), 1, 'n', NULL, 'sk', 'live', '{}', '[]', '{}',
                   '{}', true, now(), NULL, NULL
            FROM generate_series(FROM_NUMBER, TO_NUMBER) AS n
            RETURNING key_row
        )
        INSERT INTO {schema}.credentials
        SELECT sha256(key_row::text::bytea), key_row, 1, NULL, 's', false, now(), NULL, NULL FROM k";
    let generate = |from: u32, to: u32| {
        let statement = generate.replace("FROM_NUMBER", &from.to_string());
        statement.replace("TO_NUMBER", &to.to_string())
    };
    told.database.execute(&generate(1, 100)).await.unwrap();
    assert_eq!(told.next().await.len(), 100);
    let touch = "UPDATE {schema}.keys SET enabled = true";
    told.database.execute(touch).await.unwrap();
    assert_eq!(told.next().await.len(), 100);

    told.database.execute(&generate(101, 101)).await.unwrap();
    assert_eq!(told.next().await.len(), 1);
    for statement in [
        touch,
        "UPDATE {schema}.credentials SET expires_at = now()",
        &generate(102, 20_000),
        touch,
        "UPDATE {schema}.credentials SET expires_at = now() + '1 s'",
        "UPDATE {schema}.credentials SET digest = sha256(digest)",
        "DELETE FROM {schema}.credentials",
        "DELETE FROM {schema}.keys",
    ] {
        told.database.execute(statement).await.unwrap();
        assert_eq!(told.next().await, ["*"], "{statement}");
    }
}

#[tokio::test]
async fn a_key_of_many_credentials_is_told_in_parts() {
    let mut told = Told::of("told in parts").await;
    let key = insert(&told.store).await;
    told.next().await;
    let add = "INSERT INTO {schema}.credentials
               SELECT sha256(n::text::bytea), 1, n, NULL, 's', false, now(), NULL, NULL
               FROM generate_series(2, 900) AS n";
    told.database.execute(add).await.unwrap();
    for added in [0, 1] {
        let lines = if added == 0 {
            told.next().await
        } else {
            assert!(told.store.apply(&update(&key)).await.unwrap());
            told.next().await
        };
        let id = key.record.id.to_string();
        assert!(
            lines
                .iter()
                .all(|line| line.starts_with(&id) && line.len() < 8_000)
        );
        let tags = lines.iter().flat_map(|line| line.split(' ').skip(1));
        assert_eq!(tags.count(), 899 + added);
    }
}

#[tokio::test]
async fn schemas_do_not_hear_each_other() {
    let long = "long".repeat(15);
    let mut all = Vec::new();
    for name in [
        "heard",
        "Heard",
        "tower_api_key_heard",
        &format!("{long}a"),
        &format!("{long}b"),
    ] {
        all.push(Told::of(name).await);
    }
    for changed in 0..all.len() {
        let key = insert(&all[changed].store).await;
        for (number, told) in all.iter_mut().enumerate() {
            let expected =
                (number == changed).then(|| line(key.record.id, &[key.credentials[0].digest]));
            assert_eq!(told.next().await, Vec::from_iter(expected));
        }
    }
}

#[tokio::test]
async fn the_default_schema_is_told_on_a_channel_of_its_name() {
    let database = Database::separate("tower_api_key_by_default", "tower_api_key").await;
    let store = PostgresStore::connect(database.url()).await.unwrap();
    assert_eq!(store.channel(), "tower_api_key");
    let mut told = Told::over(database, store).await;
    let key = insert(&told.store).await;
    assert_eq!(
        told.next().await,
        [line(key.record.id, &[key.credentials[0].digest])]
    );
}

/// A store, and somebody who listens to it.
struct Told {
    database: Database,
    store: PostgresStore,
    listener: PgListener,
}

impl Told {
    async fn of(schema: &str) -> Self {
        let database = Database::new(schema).await;
        let store = database.open().await;
        Self::over(database, store).await
    }

    async fn over(database: Database, store: PostgresStore) -> Self {
        let mut listener = PgListener::connect(database.url()).await.unwrap();
        listener.listen(store.channel()).await.unwrap();
        listener.listen("end").await.unwrap();
        Self {
            database,
            store,
            listener,
        }
    }

    /// Everything that was told since the last time, sorted.
    async fn next(&mut self) -> Vec<String> {
        // Notifications come in the order of the commits, so this is the last.
        let end = KeyId::generate(Timestamp::UNIX_EPOCH).to_string();
        let marker = format!("NOTIFY \"end\", '{end}'");
        self.database.execute(&marker).await.unwrap();
        let mut lines = Vec::new();
        loop {
            let next = timeout(Duration::from_secs(30), self.listener.recv()).await;
            let next = next.expect("the marker arrives").unwrap();
            if next.channel() == "end" {
                if next.payload() == end {
                    lines.sort();
                    return lines;
                }
            } else {
                assert_eq!(next.channel(), self.store.channel());
                lines.push(next.payload().to_owned());
            }
        }
    }
}

fn line(id: KeyId, digests: &[KeyDigest]) -> String {
    let mut tags: Vec<_> = digests
        .iter()
        .map(|digest| hex(digest)[..16].to_owned())
        .collect();
    tags.sort();
    format!("{id} {}", tags.join(" "))
}

fn hex(digest: &KeyDigest) -> String {
    let bytes = digest.as_bytes().iter();
    bytes
        .map(|byte| format!("{byte:02x}"))
        .collect::<Vec<_>>()
        .concat()
}
