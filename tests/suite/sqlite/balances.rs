//! Balances that cannot be read.

use jiff::Timestamp;
use tower_api_key::{ApiKeys, CreditReturn, Credits, KeyRepository, NewKey, StoreErrorKind};

use super::{damaged, open};

#[tokio::test]
async fn a_balance_that_cannot_be_read_keeps_no_other_from_its_credits() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.db");
    let store = open(&path).await;
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
    let damage = "credits SET begun_at = 9223372036854775807 WHERE key_row = 2";
    assert!(damaged(&path, damage).await);
    store.give_back_credits(&returns).await.unwrap();
    let balance = async |of: usize| store.credits(&[returns[of].key]).await;
    for of in [0, 2] {
        assert_eq!(balance(of).await.unwrap()[0].1.remaining, 100);
    }
    let unreadable = balance(1).await.unwrap_err();
    assert_eq!(unreadable.kind(), StoreErrorKind::Corrupt);
}
