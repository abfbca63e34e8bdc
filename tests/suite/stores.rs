//! Every store keeps the contracts, and the suite that says so can tell when one does not.

use std::panic::AssertUnwindSafe;

use async_trait::async_trait;
use futures_util::FutureExt;
use jiff::Timestamp;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};
use tower_api_key::testing::conformance;
use tower_api_key::{
    Credential, CreditBalance, CreditGrant, CreditReturn, EventCursor, EventPage, Key, KeyChange,
    KeyDigest, KeyEvent, KeyFilter, KeyId, KeyInsertion, KeyPage, KeyRecord, KeyRepository,
    KeyStore, MemoryStore, SqliteStore, StoreError, StoredKey, UsageBatch, UsageBucket,
};

use crate::postgres::Database;

#[tokio::test(flavor = "multi_thread")]
async fn memory_keeps_the_contracts() {
    conformance::check(async || MemoryStore::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_keeps_the_contracts_in_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.db");
    conformance::check(async || SqliteStore::open(path.to_str().unwrap()).await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_keeps_the_contracts_in_memory() {
    conformance::check(async || SqliteStore::open("sqlite::memory:").await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_keeps_the_contracts_in_an_applications_pool() {
    let directory = tempfile::tempdir().unwrap();
    // Without WAL mode, and with several connections that all write.
    let options = SqliteConnectOptions::new()
        .filename(directory.path().join("app.db"))
        .create_if_missing(true);
    let pool = SqlitePoolOptions::new()
        .max_connections(4)
        .connect_with(options)
        .await
        .unwrap();
    conformance::check(async || SqliteStore::from_pool(pool.clone()).await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_keeps_the_contracts() {
    let database = Database::new("keeps the contracts").await;
    let store = database.open().await;
    conformance::check(async || store.clone()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_keeps_the_contracts_in_an_applications_pool() {
    let database = Database::new("keeps the contracts in a pool").await;
    // As strict as it goes: of concurrent transactions all but one would fail.
    let pool = database
        .pool_with([
            ("default_transaction_isolation", "serializable"),
            ("default_transaction_read_only", "on"),
            ("search_path", "pg_catalog"),
            ("timezone", "Asia/Kathmandu"),
            ("datestyle", "german"),
        ])
        .await;
    let store = database.builder().with_pool(pool).await.unwrap();
    conformance::check(async || store.clone()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_behind_a_pointer_keeps_the_contracts() {
    conformance::check(async || std::sync::Arc::new(MemoryStore::new())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_suite_finds_what_is_broken() {
    for (fault, complaint) in [
        (Fault::HidesRevoked, "KeyStore contract 1"),
        (Fault::FindsAnything, "KeyStore contract 3"),
        (Fault::ForgetsTheLatest, "KeyStore::find_latest"),
        (Fault::InsertsOverDuplicates, "KeyRepository contract 3"),
        (Fault::InsertsHalfOfABatch, "KeyRepository contract 6"),
        (Fault::StopsABatchAtADuplicate, "KeyRepository contract 6"),
        (Fault::TellsThatAllIsNew, "KeyRepository contract 6"),
        (Fault::IgnoresTheVersion, "KeyRepository contract 4"),
        (Fault::ForgetsTheFirstEvent, "KeyRepository contract 2"),
        (Fault::CutsTimesToSeconds, "KeyRepository contract 5"),
        (Fault::EndsTheNewCredential, "KeyChange::end_credentials_at"),
        (Fault::NeverEndsAListing, "KeyRepository::list"),
        (Fault::NeverEndsTheEvents, "EventPage::next"),
        (Fault::TellsEventsOldestFirst, "KeyRepository"),
        (Fault::KeepsRemoved, "KeyChange::remove_credentials"),
        (Fault::GivesBackAnywhere, "KeyRepository contract 8"),
        (Fault::GrantsTwice, "KeyRepository contract 8"),
        (Fault::ResetsTheBalance, "KeyRepository contract 7"),
        (Fault::CountsABatchAgain, "KeyRepository contract 9"),
    ] {
        let broken = async || Broken {
            fault,
            store: MemoryStore::new(),
        };
        let check = AssertUnwindSafe(conformance::check(broken)).catch_unwind();
        let panic = check.await.expect_err(&format!("{fault:?} was not found"));
        let message = panic.downcast_ref::<String>().cloned();
        let message = message.or(panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        let message = message.unwrap();
        assert!(
            message.contains(complaint),
            "{fault:?} was found as {message}"
        );
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    CountsABatchAgain,
    CutsTimesToSeconds,
    EndsTheNewCredential,
    FindsAnything,
    ForgetsTheFirstEvent,
    ForgetsTheLatest,
    GivesBackAnywhere,
    GrantsTwice,
    HidesRevoked,
    IgnoresTheVersion,
    InsertsHalfOfABatch,
    InsertsOverDuplicates,
    KeepsRemoved,
    NeverEndsAListing,
    NeverEndsTheEvents,
    ResetsTheBalance,
    StopsABatchAtADuplicate,
    TellsEventsOldestFirst,
    TellsThatAllIsNew,
}

/// A store that does everything right but one thing.
#[derive(Debug)]
struct Broken {
    fault: Fault,
    store: MemoryStore,
}

#[async_trait]
impl KeyStore for Broken {
    async fn find(&self, digest: &KeyDigest) -> Result<Option<StoredKey>, StoreError> {
        let found = self.store.find(digest).await?;
        match self.fault {
            Fault::HidesRevoked => Ok(found.filter(|found| found.record.revoked_at.is_none())),
            Fault::FindsAnything if found.is_none() => {
                let mut page = self.store.list(&KeyFilter::default()).await?;
                Ok(page.keys.pop().map(|mut key| StoredKey {
                    record: key.record,
                    credential: key.credentials.remove(0),
                }))
            }
            _ => Ok(found),
        }
    }

    async fn find_latest(&self, digest: &KeyDigest) -> Result<Option<StoredKey>, StoreError> {
        let found = self.find(digest).await?;
        Ok(
            found
                .filter(|found| self.fault != Fault::ForgetsTheLatest || found.record.version == 1),
        )
    }
}

#[async_trait]
impl KeyRepository for Broken {
    async fn insert(
        &self,
        record: &KeyRecord,
        credential: &Credential,
        event: &KeyEvent,
    ) -> Result<(), StoreError> {
        let mut record = record.clone();
        if self.fault == Fault::CutsTimesToSeconds {
            let second = record.created_at.as_second();
            record.created_at = Timestamp::from_second(second).unwrap();
        }
        let outcome = self.store.insert(&record, credential, event).await;
        match self.fault {
            Fault::InsertsOverDuplicates => Ok(()),
            _ => outcome,
        }
    }

    async fn insert_all(&self, batch: &[KeyInsertion]) -> Result<Vec<bool>, StoreError> {
        let mut batch = batch.to_vec();
        let wanted = batch.len();
        if self.fault == Fault::InsertsHalfOfABatch {
            batch.truncate(wanted / 2);
        }
        let mut written = self.store.insert_all(&batch).await?;
        match self.fault {
            Fault::InsertsHalfOfABatch => written.resize(wanted, true),
            Fault::TellsThatAllIsNew => written.fill(true),
            Fault::StopsABatchAtADuplicate if written.contains(&false) => {
                return Err(StoreError::duplicate(batch[0].record.id));
            }
            _ => {}
        }
        Ok(written)
    }

    async fn get(&self, id: KeyId) -> Result<Option<Key>, StoreError> {
        self.store.get(id).await
    }

    async fn list(&self, filter: &KeyFilter) -> Result<KeyPage, StoreError> {
        let mut page = self.store.list(filter).await?;
        if self.fault == Fault::NeverEndsAListing {
            page.next = page.keys.last().map(|key| key.record.id);
        }
        Ok(page)
    }

    async fn apply(&self, change: &KeyChange) -> Result<bool, StoreError> {
        let mut change = change.clone();
        if self.fault == Fault::IgnoresTheVersion
            && let Some(stored) = self.store.get(change.record.id).await?
        {
            change.record.version = stored.record.version + 1;
        }
        if self.fault == Fault::EndsTheNewCredential
            && let Some(credential) = &mut change.add_credential
        {
            credential.expires_at = change.end_credentials_at;
        }
        if self.fault == Fault::KeepsRemoved {
            change.remove_credentials.clear();
        }
        let applied = self.store.apply(&change).await?;
        if self.fault == Fault::ResetsTheBalance
            && let Some(plan) = change.record.credits
        {
            let id = change.record.id;
            let (_, balance) = self.store.credits(&[id]).await?[0];
            let back = CreditReturn {
                key: id,
                credits: plan.granted.saturating_sub(balance.remaining),
                period: balance.period,
            };
            self.store.give_back_credits(&[back]).await?;
        }
        Ok(applied)
    }

    async fn record_usage(&self, batch: &UsageBatch) -> Result<(), StoreError> {
        match self.fault {
            Fault::CountsABatchAgain => {
                let batch = UsageBatch::new(batch.deltas.clone());
                self.store.record_usage(&batch).await
            }
            _ => self.store.record_usage(batch).await,
        }
    }

    async fn usage(
        &self,
        id: KeyId,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<Vec<UsageBucket>, StoreError> {
        self.store.usage(id, from, to).await
    }

    async fn events(
        &self,
        id: KeyId,
        before: Option<EventCursor>,
        limit: usize,
    ) -> Result<EventPage, StoreError> {
        let mut page = self.store.events(id, before, limit).await?;
        match self.fault {
            Fault::ForgetsTheFirstEvent if page.next.is_none() => drop(page.events.pop()),
            Fault::NeverEndsTheEvents => page.next = page.next.or(before),
            Fault::TellsEventsOldestFirst => page.events.reverse(),
            _ => {}
        }
        Ok(page)
    }

    async fn take_credits(
        &self,
        id: KeyId,
        at_least: u64,
        at_most: u64,
        now: Timestamp,
    ) -> Result<Option<CreditGrant>, StoreError> {
        let grant = self.store.take_credits(id, at_least, at_most, now).await?;
        if let (Fault::GrantsTwice, Some(grant)) = (self.fault, grant) {
            let back = CreditReturn {
                key: id,
                credits: grant.granted,
                period: grant.left.period,
            };
            self.store.give_back_credits(&[back]).await?;
        }
        Ok(grant)
    }

    async fn give_back_credits(&self, returns: &[CreditReturn]) -> Result<(), StoreError> {
        let mut returns = returns.to_vec();
        if self.fault == Fault::GivesBackAnywhere {
            for back in &mut returns {
                let balance = self.store.credits(&[back.key]).await?;
                back.period = balance.first().map_or(back.period, |(_, own)| own.period);
            }
        }
        self.store.give_back_credits(&returns).await
    }

    async fn credits(&self, ids: &[KeyId]) -> Result<Vec<(KeyId, CreditBalance)>, StoreError> {
        self.store.credits(ids).await
    }
}
