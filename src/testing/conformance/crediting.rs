use futures_util::future::join_all;
use jiff::Timestamp;

use super::Store;
use super::sample::{NOW, apply, change, insert, key, record, seconds_from_now};
use crate::record::{
    CreditBalance, CreditGrant, CreditPeriod, CreditPlan, CreditReturn, KeyId, KeyRecord, Refill,
};

const SET: &str = "KeyRepository contract 7: the balance is set with the version that says so";
const TAKEN: &str = "KeyRepository contract 8: what is taken is nobody else's";
const BACK: &str =
    "KeyRepository contract 8: credits come back to the balance they were taken from";

pub(super) async fn a_balance_is_set_with_the_version_that_says_so(store: Store) {
    let mut record = with_credits(10, None);
    record.version = 5;
    set_by(&mut record, 10, None);
    insert(&store, record.clone()).await;
    let first = balance(&store, record.id).await.expect(SET);
    assert_eq!((first.remaining, first.refill), (10, None), "{SET}");
    assert_eq!(first.period, period(5, NOW), "{SET}");
    assert_eq!(take(&store, record.id, 4, 4, NOW).await, Some(4), "{TAKEN}");

    let mut renamed = change(&record);
    renamed.record.name = "renamed".to_owned();
    renamed.event.at = seconds_from_now(1);
    assert!(apply(&store, &renamed).await);
    let left = balance(&store, record.id).await;
    assert_eq!(
        left.map(|left| (left.remaining, left.period)),
        Some((6, first.period)),
        "KeyRepository contract 7: any other change leaves the balance as it is"
    );

    let mut topped_up = change(&renamed.record);
    let refill = Some(Refill::monthly(30));
    set_by(&mut topped_up.record, 20, refill);
    topped_up.event.at = seconds_from_now(2);
    assert!(apply(&store, &topped_up).await);
    let second = balance(&store, record.id).await.expect(SET);
    assert_eq!((second.remaining, second.refill), (20, refill), "{SET}");
    assert_eq!(second.period, period(7, NOW), "{SET}, and this month's");
    let stored = key(&store, record.id).await.map(|key| key.record);
    assert_eq!(stored.as_ref(), Some(&topped_up.record), "{SET}");

    let mut stale = change(&renamed.record);
    set_by(&mut stale.record, 1_000, None);
    assert!(!apply(&store, &stale).await);
    assert_eq!(
        balance(&store, record.id).await,
        Some(second),
        "KeyRepository contract 4: a stale change sets no balance"
    );

    let mut freed = change(&topped_up.record);
    freed.record.credits = None;
    assert!(apply(&store, &freed).await);
    assert_eq!(
        (
            balance(&store, record.id).await,
            take(&store, record.id, 1, 1, NOW).await
        ),
        (None, None),
        "KeyRepository contract 7: without a plan there is no balance"
    );
    let stored = key(&store, record.id).await.map(|key| key.record);
    assert_eq!(stored.as_ref(), Some(&freed.record), "{SET}");
}

pub(super) async fn what_is_taken_is_nobody_elses(store: Store) {
    let record = with_credits(100, None);
    insert(&store, record.clone()).await;
    let takers = (0..40_u64).map(|number| {
        let (store, id) = (store.clone(), record.id);
        tokio::spawn(async move { take(&store, id, 1 + number % 3, 5, NOW).await })
    });
    let taken = join_all(takers).await.into_iter();
    let taken: Vec<_> = taken
        .map(|taken| taken.expect(TAKEN).expect(TAKEN))
        .collect();
    let left = balance(&store, record.id).await.expect(TAKEN).remaining;
    assert_eq!(taken.iter().sum::<u64>() + left, 100, "{TAKEN}: {taken:?}");

    let grant = grant(&store, record.id, left + 1, left + 1, NOW).await;
    let grant = grant.expect(TAKEN);
    assert_eq!(
        (grant.granted, grant.left.remaining),
        (0, left),
        "KeyRepository::take_credits: too few are none"
    );
    let grant = take(&store, record.id, left, left, NOW).await;
    assert_eq!(grant, Some(left), "KeyRepository::take_credits: the last");
    assert_eq!(take(&store, record.id, 1, 1, NOW).await, Some(0), "{TAKEN}");
}

pub(super) async fn credits_come_back_to_where_they_were_taken_from(store: Store) {
    let record = with_credits(100, Some(Refill::daily(50)));
    insert(&store, record.clone()).await;
    let today = grant(&store, record.id, 40, 40, NOW).await.expect(BACK);
    assert_eq!((today.granted, today.left.remaining), (40, 60), "{TAKEN}");
    let back = |key, credits, period| CreditReturn {
        key,
        credits,
        period,
    };
    let returned = [
        back(KeyId::generate(NOW), 1, today.left.period),
        back(record.id, 10, today.left.period),
        back(record.id, 7, period(2, NOW)),
        back(record.id, 5, today.left.period),
    ];
    give_back(&store, &returned).await;
    give_back(&store, &[]).await;
    let left = balance(&store, record.id).await.expect(BACK);
    assert_eq!(left.remaining, 75, "{BACK}");

    let tomorrow = seconds_from_now(86_400);
    let just_before = tomorrow - jiff::SignedDuration::from_nanos(1);
    let before = grant(&store, record.id, 1, 1, just_before).await;
    assert_eq!(before.expect(BACK).left.remaining, 74, "{TAKEN}");
    let after = grant(&store, record.id, 1, 1, tomorrow).await.expect(BACK);
    assert_eq!(
        (after.granted, after.left.remaining, after.left.period),
        (1, 49, period(1, tomorrow)),
        "KeyRepository::take_credits: a refill that is due is made first"
    );
    give_back(&store, &[back(record.id, 9, today.left.period)]).await;
    let left = balance(&store, record.id).await.expect(BACK);
    assert_eq!(left.remaining, 49, "{BACK}, and not to the next one");
    let again = grant(&store, record.id, 1, 1, just_before).await;
    assert_eq!(
        again.map(|grant| grant.left.remaining),
        Some(48),
        "KeyRepository::take_credits: a clock that is late undoes no refill"
    );
}

fn with_credits(credits: u64, refill: Option<Refill>) -> KeyRecord {
    let mut record = record();
    set_by(&mut record, credits, refill);
    record
}

fn set_by(record: &mut KeyRecord, credits: u64, refill: Option<Refill>) {
    record.credits = Some(CreditPlan {
        granted: credits,
        refill,
        since_version: record.version,
    });
}

fn period(since_version: u64, begun_at: Timestamp) -> CreditPeriod {
    CreditPeriod {
        since_version,
        begun_at,
    }
}

async fn grant(
    store: &Store,
    id: KeyId,
    at_least: u64,
    at_most: u64,
    now: Timestamp,
) -> Option<CreditGrant> {
    let grant = store.take_credits(id, at_least, at_most, now).await;
    grant.expect("KeyRepository::take_credits: it has an answer")
}

async fn take(
    store: &Store,
    id: KeyId,
    at_least: u64,
    at_most: u64,
    now: Timestamp,
) -> Option<u64> {
    let grant = grant(store, id, at_least, at_most, now).await;
    grant.map(|grant| grant.granted)
}

async fn give_back(store: &Store, returns: &[CreditReturn]) {
    let given = store.give_back_credits(returns).await;
    given.expect("KeyRepository::give_back_credits: what does not exist is passed over");
}

async fn balance(store: &Store, id: KeyId) -> Option<CreditBalance> {
    let asked = [KeyId::generate(NOW), id];
    let mut balances = store
        .credits(&asked)
        .await
        .expect("KeyRepository::credits: a lookup has an answer");
    assert!(balances.iter().all(|(of, _)| *of == id));
    balances.pop().map(|(_, balance)| balance)
}
