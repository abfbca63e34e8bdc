//! Spending credits, exactly and without a write for each request.
//!
//! How it is done:
//!
//! 1. The store has the balance. An instance *leases* credits from it in batches, which are taken
//!    off the balance at once, and spends them by itself. So no credit is spent twice, whatever
//!    other instances do, and a crash loses what was leased but never doubles it.
//! 2. A batch is what the key is expected to spend in one flush interval, going by what it spent
//!    since the batch before, but not over eight times that one; and beyond what the request
//!    needs never over an eighth of what remains, so that others find something.
//! 3. The store is asked when the lease does not cover a request, for what it lacks at least. Of
//!    any number of requests that wait for that, one call is made at a time, in a task of its own:
//!    whoever began it may go away.
//! 4. A lease ends with its period: at the refill, and when the balance was set anew.
//! 5. That too few credits remain is remembered until the refill, until the balance is set anew,
//!    or for [`Account::SHORT_FOR`], since another instance may give some back.
//! 6. What a key that spent nothing between two flushes has leased is given back with the second
//!    one; and all of it at shutdown. What a call that failed should have given back is lost: it
//!    may have been done. What a key has leased that leaves the cache is kept for it until then.

mod account;
mod outage;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures_util::future::BoxFuture;
use jiff::Timestamp;

pub(crate) use account::Account;
use account::Lease;
pub(crate) use outage::CreditOutage;

use crate::clock::Clock;
use crate::record::{CreditPeriod, CreditPlan, CreditReturn, KeyId, Refill};
use crate::store::{KeyRepository, StoreError};
use crate::telemetry;

/// The accounts of the keys that are in the cache: their number is bounded as that of the keys is.
pub(crate) struct Accounts {
    store: Arc<dyn KeyRepository>,
    clock: Arc<dyn Clock>,
    /// For how long a lease should last.
    interval: Duration,
    /// How long the store may take.
    deadline: Duration,
    open: Mutex<HashMap<KeyId, Weak<Account>>>,
    /// What accounts had leased that are gone: to be given back, unless they are opened again.
    left: Mutex<HashMap<KeyId, CreditReturn>>,
    /// Credits that were lost, because a call failed that may have given them back.
    lost: AtomicU64,
    /// Held while credits are given back, so that a shutdown waits for a return that is under way.
    returning: tokio::sync::Mutex<()>,
}

/// Which accounts give back what they did not spend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unspent {
    OfAll,
    OfIdle,
}

/// How far a reservation came without waiting.
pub(crate) enum Reserve {
    /// All the way.
    Done(Result<Reserved, Refused>),
    /// The store has to be asked. Dropped while it waits, it has reserved nothing.
    Wait(BoxFuture<'static, Result<Reserved, Refused>>),
}

/// The lease that credits were taken from, by its number. The default is none: nothing was taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reserved(u64);

/// Why nothing was reserved.
pub(crate) enum Refused {
    Outage(CreditOutage),
    Short(Shortage),
}

/// Too few credits remain.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shortage {
    pub(crate) refill: Option<Refill>,
    pub(crate) refills_at: Option<Timestamp>,
}

impl Accounts {
    /// How many returns are written in one call of the store.
    const BATCH: usize = 1_000;

    pub(crate) fn new(
        store: Arc<dyn KeyRepository>,
        clock: Arc<dyn Clock>,
        interval: Duration,
        deadline: Duration,
    ) -> Self {
        Self {
            store,
            clock,
            interval,
            deadline,
            open: Mutex::default(),
            left: Mutex::default(),
            lost: AtomicU64::new(0),
            returning: tokio::sync::Mutex::default(),
        }
    }

    /// The account of a key that the store has just told `plan` of.
    pub(crate) fn open(self: &Arc<Self>, key: KeyId, plan: &CreditPlan) -> Arc<Account> {
        let mut open = self.all_open();
        let known = open.get(&key).and_then(Weak::upgrade);
        let account = known.unwrap_or_else(|| {
            let lease = self.lease_left(key, plan);
            let account = Arc::new(Account::new(key, Arc::clone(self), lease));
            open.insert(key, Arc::downgrade(&account));
            account
        });
        drop(open);
        account.learn(plan);
        account
    }

    /// How many credits of `period` this instance has leased for a key and not spent.
    pub(crate) fn leased(&self, key: KeyId, period: CreditPeriod) -> u64 {
        // Under one lock: an account that is opened meanwhile takes what is left with it.
        let open = self.all_open();
        let account = open.get(&key).and_then(Weak::upgrade);
        let leased = account.as_ref().map_or(0, |known| known.leased(period));
        let left = self.left().get(&key).copied();
        drop(open);
        // Only now may it go: it leaves what it has, and that was counted.
        drop(account);
        let left = left.filter(|left| left.period == period);
        leased.saturating_add(left.map_or(0, |left| left.credits))
    }

    /// Gives back what was not spent, after any return that is under way.
    pub(crate) async fn give_back(&self, whose: Unspent) -> Result<(), StoreError> {
        let _returning = self.returning.lock().await;
        let mut unreturned = Unreturned {
            accounts: self,
            waiting: Vec::new(),
            sent: Vec::new(),
        };
        for account in self.accounts(whose).await {
            if whose == Unspent::OfAll {
                account.answered().await;
            }
            unreturned.waiting.extend(account.unspent(whose));
        }
        let left = std::mem::take(&mut *self.left());
        unreturned.waiting.extend(left.into_values());
        while !unreturned.waiting.is_empty() {
            let rest = unreturned.waiting.len().saturating_sub(Self::BATCH);
            unreturned.sent = unreturned.waiting.split_off(rest);
            self.store.give_back_credits(&unreturned.sent).await?;
            telemetry::credits_given_back(&unreturned.sent, true);
            unreturned.sent.clear();
        }
        Ok(())
    }

    /// Returns how many credits of this instance are leased and not spent.
    pub(crate) fn held(&self) -> u64 {
        let open: Vec<_> = self.all_open().values().filter_map(Weak::upgrade).collect();
        let leased = open.iter().map(|account| account.held());
        let left: u64 = self.left().values().map(|left| left.credits).sum();
        left.saturating_add(leased.sum())
    }

    /// Returns how many credits this instance has lost since it began.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// The open accounts. Where all have to give back, no account is being closed meanwhile: what
    /// it had leased would be found neither in it nor in `left`.
    async fn accounts(&self, whose: Unspent) -> Vec<Arc<Account>> {
        loop {
            // The accounts are dropped after the lock is: dropping the last reference takes the
            // lock.
            let open: Vec<_> = self.all_open().values().map(Weak::upgrade).collect();
            if whose == Unspent::OfIdle || open.iter().all(Option::is_some) {
                return open.into_iter().flatten().collect();
            }
            drop(open);
            tokio::task::yield_now().await;
        }
    }

    fn closed(&self, key: KeyId, unspent: Option<CreditReturn>) {
        if let Some(unspent) = unspent {
            self.keep(unspent);
        }
        let mut open = self.all_open();
        // It may have been opened again already.
        if open
            .get(&key)
            .is_some_and(|known| known.strong_count() == 0)
        {
            open.remove(&key);
        }
    }

    fn keep(&self, unspent: CreditReturn) {
        let age = |of: &CreditReturn| (of.period.since_version, of.period.begun_at);
        let mut left = self.left();
        match left.get_mut(&unspent.key) {
            Some(known) if known.period == unspent.period => {
                known.credits = known.credits.saturating_add(unspent.credits);
            }
            // Those of a period before are worth nothing.
            Some(known) if age(known) > age(&unspent) => {}
            _ => drop(left.insert(unspent.key, unspent)),
        }
    }

    /// What is left of what a key of `plan` had leased.
    fn lease_left(&self, key: KeyId, plan: &CreditPlan) -> Lease {
        let mut left = self.left();
        let of_plan = left
            .get(&key)
            .filter(|left| left.period.since_version == plan.since_version);
        match of_plan.map(|left| Lease::left(left, plan)) {
            Some(lease) => {
                left.remove(&key);
                lease
            }
            None => Lease::default(),
        }
    }

    fn all_open(&self) -> MutexGuard<'_, HashMap<KeyId, Weak<Account>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn left(&self) -> MutexGuard<'_, HashMap<KeyId, CreditReturn>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Credits on their way back. None is forgotten, however that ends: an interrupt drops this value
/// too.
struct Unreturned<'a> {
    accounts: &'a Accounts,
    waiting: Vec<CreditReturn>,
    /// The batch that the store was asked to take. It may have taken it.
    sent: Vec<CreditReturn>,
}

impl Drop for Unreturned<'_> {
    fn drop(&mut self) {
        if !self.sent.is_empty() {
            telemetry::credits_given_back(&self.sent, false);
            tracing::warn!(
                keys = self.sent.len(),
                "leased credits are lost: the key store did not take them back"
            );
            let lost = self.sent.iter().map(|back| back.credits).sum();
            self.accounts.lost.fetch_add(lost, Ordering::Relaxed);
        }
        for unspent in self.waiting.drain(..) {
            self.accounts.keep(unspent);
        }
    }
}

impl fmt::Debug for Accounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Accounts")
            .field("open", &self.all_open().len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;
    use crate::record::Credits;
    use crate::{ApiKeys, MemoryStore, NewKey};

    /// A key's account leaves with it when the cache is full, which is hard to bring about there.
    #[tokio::test]
    async fn what_an_account_had_leased_outlives_it() {
        let store = MemoryStore::new();
        let keys = ApiKeys::builder(store.clone()).build();
        let new = NewKey::named("x").credits(Credits::new(1_000));
        let record = keys.issue(new).await.unwrap().key().record.clone();
        let (id, plan) = (record.id, record.credits.unwrap());
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let interval = Duration::from_secs(10);
        let accounts = Accounts::new(Arc::new(store), Arc::clone(&clock), interval, interval);
        let accounts = Arc::new(accounts);
        let account = accounts.open(id, &plan);
        for _ in 0..2 {
            let reserved = match account.reserve(1, clock.now()) {
                Reserve::Done(reserved) => reserved,
                Reserve::Wait(reserved) => reserved.await,
            };
            assert!(reserved.is_ok());
        }
        let stored = async || keys.credits(id).await.unwrap().unwrap();
        let period = stored().await.period;
        assert_eq!(
            (stored().await.remaining, accounts.leased(id, period)),
            (990, 8)
        );

        drop(account);
        assert_eq!(accounts.leased(id, period), 8);
        let again = accounts.open(id, &plan);
        assert_eq!(accounts.leased(id, period), 8);
        let reserved = again.reserve(3, clock.now());
        assert!(
            matches!(reserved, Reserve::Done(Ok(_))),
            "none is asked for"
        );

        // A second account that goes adds to what the first one left.
        drop(again);
        accounts.closed(
            id,
            Some(CreditReturn {
                key: id,
                credits: 2,
                period,
            }),
        );
        accounts.give_back(Unspent::OfIdle).await.unwrap();
        assert_eq!(stored().await.remaining, 990 + 5 + 2);
        assert_eq!(accounts.leased(id, period), 0);

        // What was leased of an older budget is no part of a newer one.
        let stale = CreditReturn {
            key: id,
            credits: 9,
            period,
        };
        accounts.closed(id, Some(stale));
        let since_version = plan.since_version + 1;
        drop(accounts.open(
            id,
            &CreditPlan {
                since_version,
                ..plan
            },
        ));
        let newer = CreditPeriod {
            since_version,
            ..period
        };
        assert_eq!(accounts.leased(id, newer), 0);
        assert!(accounts.all_open().is_empty());
    }

    /// The last reference to an account is dropped on another thread while the process shuts down.
    #[tokio::test]
    async fn shutdown_waits_for_an_account_that_is_being_closed() {
        let store = MemoryStore::new();
        let keys = ApiKeys::builder(store.clone()).build();
        let new = NewKey::named("x").credits(Credits::new(1_000));
        let id = keys.issue(new).await.unwrap().key().record.id;
        let grant = store.take_credits(id, 9, 9, keys.now()).await.unwrap();
        let period = grant.unwrap().left.period;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let interval = Duration::from_secs(10);
        let accounts = Arc::new(Accounts::new(Arc::new(store), clock, interval, interval));
        // The entry as it is between the drop of the last reference and that of the account.
        accounts.all_open().insert(id, Weak::new());
        let returning = {
            let accounts = Arc::clone(&accounts);
            tokio::spawn(async move { accounts.give_back(Unspent::OfAll).await })
        };
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(!returning.is_finished());
        let unspent = CreditReturn {
            key: id,
            credits: 9,
            period,
        };
        accounts.closed(id, Some(unspent));
        returning.await.unwrap().unwrap();
        assert_eq!(keys.credits(id).await.unwrap().unwrap().remaining, 1_000);
    }
}
