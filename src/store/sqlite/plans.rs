//! The plans by which SQLite reads listings.

use jiff::Timestamp;
use sqlx::{AssertSqlSafe, SqlitePool};

use super::{SqliteStore, read};
use crate::record::{KeyId, KeyStatus};
use crate::store::KeyFilter;

/// Also where the statistics say that all keys have one owner and one environment.
#[tokio::test]
async fn no_filter_reads_the_whole_table_or_sorts_it() {
    let store = SqliteStore::open("sqlite::memory:").await.unwrap();
    for statistics in [
        "",
        "ANALYZE; \
         INSERT INTO sqlite_stat1 SELECT tbl_name, name, \
             CASE WHEN name LIKE '%keys_by_%' THEN '1000000 1000000 1 1 1 1 1' ELSE '1000000 1 1 1' END \
         FROM sqlite_schema WHERE type = 'index' AND name LIKE 'tower_api_key_keys%'; \
         ANALYZE sqlite_schema",
    ] {
        sqlx::raw_sql(statistics)
            .execute(&store.writer)
            .await
            .unwrap();
        for filter in filters() {
            let page = read::matching_keys(&filter).into_sql();
            let page = page.as_str().split_once(" (").unwrap().1;
            let plan = plan(&store.writer, &format!("{page} ORDER BY id DESC LIMIT 51")).await;
            let [step] = &plan[..] else {
                panic!("{filter:?} is sorted: {plan:?}");
            };
            let is_of_ids = step.contains("autoindex");
            assert_eq!(
                is_of_ids,
                filter == all_keys(filter.after),
                "{filter:?}: {step}"
            );
            assert!(
                step.starts_with("SEARCH tower_api_key_keys USING INDEX") && step.contains("id<?"),
                "{filter:?}: {step}"
            );
        }
    }
}

#[tokio::test]
async fn what_belongs_to_a_listed_key_is_found_by_its_number() {
    let store = SqliteStore::open("sqlite::memory:").await.unwrap();
    let mut query = read::matching_keys(&KeyFilter::default());
    read::complete(&mut query, 50);
    let plan = plan(&store.writer, query.into_sql().as_str()).await;
    let scans: Vec<_> = plan.iter().filter(|step| step.contains("SCAN")).collect();
    assert_eq!(scans, ["SCAN k"], "the page itself: {plan:?}");
}

/// The filter that names nothing but where the page begins.
fn all_keys(after: Option<KeyId>) -> KeyFilter {
    KeyFilter {
        after,
        ..KeyFilter::default()
    }
}

/// Every combination of what a filter can name.
fn filters() -> Vec<KeyFilter> {
    use KeyStatus::{Active, Disabled, Expired, Revoked};
    let mut filters = Vec::new();
    for owner in [None, Some("acme".to_owned())] {
        for environment in [None, Some("live".to_owned())] {
            for status in [
                None,
                Some(Active),
                Some(Disabled),
                Some(Expired),
                Some(Revoked),
            ] {
                for after in [None, Some(KeyId::generate(Timestamp::UNIX_EPOCH))] {
                    filters.push(KeyFilter {
                        owner: owner.clone(),
                        environment: environment.clone(),
                        status: status.map(|status| (status, Timestamp::UNIX_EPOCH)),
                        after,
                        limit: 50,
                    });
                }
            }
        }
    }
    filters
}

async fn plan(pool: &SqlitePool, query: &str) -> Vec<String> {
    let statement = AssertSqlSafe(format!("EXPLAIN QUERY PLAN {query}"));
    let steps: Vec<(i64, i64, i64, String)> =
        sqlx::query_as(statement).fetch_all(pool).await.unwrap();
    steps.into_iter().map(|(.., step)| step).collect()
}
