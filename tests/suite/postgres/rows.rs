//! What rows can hold, and what happens when they hold something else.

use std::error::Error;

use jiff::Timestamp;
use sqlx::{AssertSqlSafe, Executor};
use tower_api_key::testing::conformance;
use tower_api_key::{
    ApiKeys, CreditReturn, Credits, KeyDigest, KeyFilter, KeyRepository, KeyStore, NewKey,
    StoreError, StoreErrorKind, UsageBatch, UsageDelta,
};

use super::{Database, update};
use crate::support::insert;

/// Lets the tables take anything.
const WITHOUT_CHECKS: &str = "
DO $$
DECLARE
    c record;
BEGIN
    FOR c IN SELECT conrelid::regclass AS name, conname FROM pg_constraint
             WHERE contype = 'c' AND connamespace = '{schema}'::regnamespace
    LOOP
        EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', c.name, c.conname);
    END LOOP;
    FOR c IN SELECT attrelid::regclass AS name, attname FROM pg_attribute
             JOIN pg_class ON pg_class.oid = attrelid
             WHERE relnamespace = '{schema}'::regnamespace AND relkind = 'r'
               AND relname NOT IN ('migrations', 'usage_batches', 'deleted_keys') AND attnum > 0 AND attnotnull AND attidentity = ''
               AND attname NOT IN ('digest', 'key_row', 'hour')
    LOOP
        EXECUTE format('ALTER TABLE %s ALTER %I DROP NOT NULL', c.name, c.attname);
    END LOOP;
END $$";

#[tokio::test]
async fn a_row_that_cannot_be_read_names_its_key() {
    let database = Database::new("unreadable").await;
    let store = database.open().await;
    database.execute(WITHOUT_CHECKS).await.unwrap();
    for damage in [
        "keys SET version = -1",
        "keys SET version = NULL",
        "keys SET name = NULL",
        "keys SET prefix = NULL",
        "keys SET environment = NULL",
        "keys SET scopes = '{orders::read}'",
        "keys SET scopes = '{NULL}'",
        "keys SET scopes = '{{a,b},{c,d}}'",
        "keys SET scopes = '[0:0]={a}'",
        "keys SET scopes = NULL",
        "keys SET limits = '[{\"name\":\"burst\",\"quota\":0,\"window_seconds\":60}]'",
        "keys SET limits = '{}'",
        "keys SET limits = 'null'",
        "keys SET limits = NULL",
        "keys SET metadata = '{\"plan\":1}'",
        "keys SET metadata = '[]'",
        "keys SET allowed_addresses = '{NULL}'",
        "keys SET allowed_addresses = NULL",
        "keys SET enabled = NULL",
        "keys SET created_at = 'infinity'",
        "keys SET expires_at = '-infinity'",
        "keys SET revoked_at = '10000-01-01'",
        "credentials SET created_at = 'infinity'",
        "credentials SET expires_at = 'infinity'",
        "credentials SET last_used_at = '-infinity'",
        "credentials SET start = NULL",
        "credentials SET imported = NULL",
    ] {
        let key = insert(&store).await;
        let id = key.record.id;
        let statement = format!("UPDATE {{schema}}.{damage}");
        assert_eq!(database.execute(&statement).await.unwrap(), 1, "{damage}");
        conformance::check_unreadable_row(&store, &key.credentials[0].digest, id).await;
        let read = store.get(id).await.unwrap_err();
        let column = damage.split(' ').nth(2).unwrap();
        names(&read, &id.to_string(), damage);
        let source = read.source().unwrap().to_string();
        assert!(source.contains(column), "{damage}: {source}");
        // The others are listed, and this one is named.
        let later = insert(&store).await;
        let page = store.list(&KeyFilter::default()).await.unwrap();
        assert_eq!(page.keys, [later], "{damage}");
        let [unreadable] = &page.unreadable[..] else {
            panic!("{damage}: {page:?}");
        };
        assert_eq!(unreadable.id, id.to_string(), "{damage}");
        assert_eq!(unreadable.reason, source, "{damage}");
        database
            .execute("TRUNCATE {schema}.keys CASCADE")
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn rows_beside_the_key_that_cannot_be_read_name_it_too() {
    let database = Database::new("unreadable beside").await;
    let store = database.open().await;
    database.execute(WITHOUT_CHECKS).await.unwrap();
    let key = insert(&store).await;
    let id = key.record.id;
    let used = UsageDelta {
        key: id,
        credential: key.credentials[0].digest,
        hour: Timestamp::UNIX_EPOCH,
        allowed: 1,
        denied: 1,
        last_used_at: None,
    };
    store
        .record_usage(&UsageBatch::new(vec![used]))
        .await
        .unwrap();

    for (damage, is_usage) in [
        ("usage SET allowed = -1", true),
        ("usage SET allowed = 1, denied = NULL", true),
        ("usage SET denied = 1, hour = '20000-01-01'", true),
        ("events SET action = 'exploded'", false),
        ("events SET action = 'issued', at = '20000-01-01'", false),
    ] {
        let statement = format!("UPDATE {{schema}}.{damage}");
        database.execute(&statement).await.unwrap();
        let error = if is_usage {
            // An hour after the last that a timestamp can be is outside of any range.
            let usage = store.usage(id, Timestamp::MIN, Timestamp::MAX).await;
            if damage.contains("hour") {
                assert_eq!(usage.unwrap(), []);
                continue;
            }
            usage.unwrap_err()
        } else {
            store.events(id, None, 10).await.unwrap_err()
        };
        names(&error, &id.to_string(), damage);
    }

    database
        .execute("UPDATE {schema}.credentials SET digest = '\\x00'")
        .await
        .unwrap();
    names(
        &store.get(id).await.unwrap_err(),
        &id.to_string(),
        "short digest",
    );
    assert_eq!(store.find(&key.credentials[0].digest).await.unwrap(), None);
    database
        .execute("UPDATE {schema}.keys SET id = 'key_lost'")
        .await
        .unwrap();
    let lost = store.list(&KeyFilter::default()).await.unwrap();
    assert_eq!(lost.keys, []);
    assert_eq!(lost.unreadable[0].id, "key_lost");
}

#[tokio::test]
async fn a_balance_that_cannot_be_read_keeps_no_other_from_its_credits() {
    let database = Database::new("unreadable balance").await;
    let store = database.open().await;
    let keys = ApiKeys::builder(store.clone()).build();
    let mut returns = Vec::new();
    for _ in 0..3 {
        let new = NewKey::named("x").credits(Credits::new(100));
        let key = keys.issue(new).await.unwrap().key().record.id;
        let grant = store.take_credits(key, 10, 10, Timestamp::now()).await;
        let period = grant.unwrap().unwrap().left.period;
        returns.push(CreditReturn {
            key,
            credits: 10,
            period,
        });
    }
    database
        .execute("UPDATE {schema}.credits SET begun_at = '20000-01-01' WHERE key_row = 2")
        .await
        .unwrap();
    store.give_back_credits(&returns).await.unwrap();
    let balance = async |of: usize| store.credits(&[returns[of].key]).await;
    for of in [0, 2] {
        assert_eq!(balance(of).await.unwrap()[0].1.remaining, 100);
    }
    let unreadable = balance(1).await.unwrap_err();
    names(&unreadable, &returns[1].key.to_string(), "begun_at");
}

#[track_caller]
fn names(error: &StoreError, id: &str, damage: &str) {
    assert_eq!(error.kind(), StoreErrorKind::Corrupt, "{damage}");
    assert!(error.to_string().contains(id), "{damage}: {error}");
}

#[tokio::test]
async fn the_tables_refuse_what_is_no_key() {
    let database = Database::new("refusing").await;
    let store = database.open().await;
    let id = insert(&store).await.record.id;
    for statement in [
        "UPDATE {schema}.credentials SET digest = '\\x00'",
        "UPDATE {schema}.credentials SET key_row = 99",
        "UPDATE {schema}.credentials SET expires_at = 'infinity'",
        "UPDATE {schema}.keys SET id = 'key_lost'",
        "UPDATE {schema}.keys SET version = 0",
        "UPDATE {schema}.keys SET scopes = NULL",
        "UPDATE {schema}.keys SET limits = '{}'",
        "UPDATE {schema}.keys SET metadata = '[]'",
        "UPDATE {schema}.keys SET allowed_addresses = '{10.0.0.0/33}'",
        "UPDATE {schema}.keys SET expires_at = 'infinity'",
        "DELETE FROM {schema}.keys",
        "TRUNCATE {schema}.credentials, {schema}.keys",
    ] {
        assert!(database.execute(statement).await.is_err(), "{statement}");
    }
    assert!(store.get(id).await.unwrap().is_some());
}

#[tokio::test]
async fn addresses_and_edges_of_time_come_back_as_they_were() {
    let database = Database::new("coming back").await;
    let store = database.open().await;
    let key = insert(&store).await;
    let mut change = update(&key);
    // With bits beyond the network's length, which PostgreSQL's `cidr` refuses.
    change.record.allowed_addresses = ["10.1.2.3/8", "10.1.2.3/32", "2001:db8::1/32", "::/0"]
        .map(|network| network.parse().unwrap())
        .to_vec();
    change.record.expires_at = Some("9999-12-30T22:00:00.999999Z".parse().unwrap());
    change.record.revoked_at = Some("-004713-11-24T00:00:00.000001Z".parse().unwrap());
    assert!(store.apply(&change).await.unwrap());
    let stored = store.get(key.record.id).await.unwrap().unwrap();
    assert_eq!(stored.record, change.record);
}

#[tokio::test]
async fn lookups_use_the_indexes() {
    let database = Database::new("indexed").await;
    let store = database.open().await;
    let id = insert(&store).await.record.id;
    assert!(store.find(&KeyDigest::sha256("")).await.unwrap().is_none());
    assert!(store.get(id).await.unwrap().is_some());
    let pool = database
        .pool_with([("enable_seqscan", "off"), ("enable_sort", "off")])
        .await;
    for (query, index) in [
        (
            "keys WHERE owner = 'a' AND id < 'b' ORDER BY id DESC",
            "keys_by_owner",
        ),
        ("keys WHERE id < 'b' ORDER BY id DESC", "keys_id_key"),
        ("credentials WHERE digest = '\\x00'", "credentials_pkey"),
        (
            "credentials WHERE key_row = 1 ORDER BY position",
            "credentials_key_row_position_key",
        ),
        (
            "events WHERE key_row = 1 ORDER BY seq DESC",
            "events_by_key",
        ),
        (
            "usage WHERE key_row = 1 AND hour > now() ORDER BY hour",
            "usage_pkey",
        ),
    ] {
        let query = format!("EXPLAIN SELECT * FROM \"{}\".{query}", database.schema);
        let plan = pool.fetch_all(AssertSqlSafe(query)).await.unwrap();
        let plan: Vec<String> = plan.iter().map(|row| sqlx::Row::get(row, 0)).collect();
        let plan = plan.join("\n");
        assert!(plan.contains(index) && !plan.contains("Sort"), "{plan}");
    }
}
