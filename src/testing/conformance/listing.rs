use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};

use super::Store;
use super::sample::{
    NOW, apply, change, credential, insert, key, record, seconds_from_now, unique,
};
use crate::record::{Key, KeyId, KeyStatus};
use crate::store::KeyFilter;

/// Lists under every combination of filters, by pages of several sizes, and compares with what
/// the filters' own words say of the keys that were written.
pub(super) async fn every_filter_pages_through_all_that_fit(store: Store) {
    let owners = [unique(), unique()];
    let environments = [unique(), unique()];
    let mut keys = write_keys(&store, &owners, &environments).await;
    keys.sort_by_key(|key| std::cmp::Reverse(key.record.id));

    let owners = optional(owners);
    let environments = optional(environments);
    for owner in &owners {
        for environment in &environments {
            for status in statuses() {
                let mut filter = KeyFilter::default();
                filter.owner.clone_from(owner);
                filter.environment.clone_from(environment);
                filter.status = status;
                let fitting: Vec<_> = keys
                    .iter()
                    .filter(|key| fits(key, &filter))
                    .cloned()
                    .collect();
                // Without an owner or an environment, others' keys are listed too.
                let sizes = match (owner, environment) {
                    (None, None) => &[500][..],
                    _ => &[1, 4, 50],
                };
                for &size in sizes {
                    filter.limit = size;
                    let listed = list_all(&store, &filter, &keys).await;
                    assert_eq!(
                        listed, fitting,
                        "KeyRepository::list: all keys that fit are listed once, newest first, \
                         with their credentials, for {filter:?}"
                    );
                }
            }
        }
    }

    let none = KeyFilter {
        limit: 0,
        ..KeyFilter::default()
    };
    let page = store.list(&none).await.expect(ANSWERS);
    assert_eq!(
        page.keys,
        [],
        "KeyRepository::list: at most `limit` keys are listed"
    );
}

const ANSWERS: &str = "KeyRepository::list: a listing has an answer";

/// Keys of each owner and none, in each environment, in each state; some have two credentials.
async fn write_keys(store: &Store, owners: &[String], environments: &[String]) -> Vec<Key> {
    let mut ids = Vec::new();
    for number in 0..24_i64 {
        let mut record = record();
        // Two in a millisecond, and written in another order than that of their ids.
        record.id = KeyId::generate(NOW + SignedDuration::from_millis(number * 7 % 12));
        record.owner = owners.get(ids.len() % 3).cloned();
        record.environment = environments[ids.len() / 3 % 2].clone();
        record.enabled = number % 2 == 0;
        record.expires_at = match number % 4 {
            0 => None,
            1 => Some(NOW),
            2 => Some(NOW + SignedDuration::from_micros(1)),
            _ => Some(seconds_from_now(10)),
        };
        record.revoked_at = (number % 8 == 5).then_some(NOW);
        let key = insert(store, record).await;
        if number % 3 == 0 {
            let mut rotation = change(&key.record);
            rotation.end_credentials_at = Some(seconds_from_now(5));
            rotation.add_credential = Some(credential());
            assert!(
                apply(store, &rotation).await,
                "KeyRepository::apply: it fits the version"
            );
        }
        ids.push(key.record.id);
    }
    let mut keys = Vec::new();
    for id in ids {
        keys.extend(key(store, id).await);
    }
    keys
}

/// No filter, each of `values`, and one that nothing has.
fn optional(values: [String; 2]) -> Vec<Option<String>> {
    let unused = unique();
    [None]
        .into_iter()
        .chain(values.into_iter().chain([unused]).map(Some))
        .collect()
}

/// No filter, and each status at the instants around the keys' ends.
fn statuses() -> Vec<Option<(KeyStatus, Timestamp)>> {
    use KeyStatus::{Active, Disabled, Expired, Revoked};
    let micros = |micros| NOW + SignedDuration::from_micros(micros);
    let instants = [micros(-1), NOW, micros(1), micros(2), seconds_from_now(10)];
    let at_each = |status| instants.map(|now| Some((status, now)));
    [None]
        .into_iter()
        .chain(
            [Active, Disabled, Expired, Revoked]
                .into_iter()
                .flat_map(at_each),
        )
        .collect()
}

fn fits(key: &Key, filter: &KeyFilter) -> bool {
    let record = &key.record;
    let has_status = |(status, now)| record.status(now) == status;
    (filter.owner.is_none() || record.owner == filter.owner)
        && filter
            .environment
            .as_ref()
            .is_none_or(|name| record.environment == *name)
        && filter.status.is_none_or(has_status)
}

/// Those of `keys` that all the pages together have.
async fn list_all(store: &Store, filter: &KeyFilter, keys: &[Key]) -> Vec<Key> {
    let own: BTreeSet<_> = keys.iter().map(|key| key.record.id).collect();
    let mut filter = filter.clone();
    let mut listed = Vec::new();
    loop {
        let page = store.list(&filter).await.expect(ANSWERS);
        assert!(
            page.keys.len() <= filter.limit,
            "KeyRepository::list: at most `limit` keys are listed for {filter:?}"
        );
        if filter.after.is_some() {
            assert!(
                !page.keys.is_empty(),
                "KeyRepository::list: a `next` leads to a further page for {filter:?}"
            );
        }
        let last = page.keys.last().map(|key| key.record.id);
        listed.extend(
            page.keys
                .into_iter()
                .filter(|key| own.contains(&key.record.id)),
        );
        let Some(next) = page.next else {
            return listed;
        };
        assert_eq!(
            Some(next),
            last,
            "KeyPage::next: it is the id that the page ended with for {filter:?}"
        );
        assert!(
            filter.after.is_none_or(|after| next < after),
            "KeyRepository::list: pages go downwards for {filter:?}"
        );
        filter.after = Some(next);
    }
}
