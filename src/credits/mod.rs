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
//! 3. The store is asked when the lease does not cover a request. Of any number of requests that
//!    wait for that, one call is made at a time, in a task of its own: whoever began it may go
//!    away.
//! 4. A lease ends with its period: at the refill, and when the balance was set anew.
//! 5. That too few credits remain is remembered until the refill, until the balance is set anew,
//!    or for [`Account::SHORT_FOR`], since another instance may give some back.
//! 6. What a key that spent nothing between two flushes has leased is given back with the second
//!    one; and all of it at shutdown. What a call that failed should have given back is lost: it may
//!    have been done.

mod account;
mod outage;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures_util::future::BoxFuture;
use jiff::Timestamp;

pub(crate) use account::Account;
pub(crate) use outage::CreditOutage;

use crate::clock::Clock;
use crate::record::{CreditPeriod, CreditPlan, CreditReturn, KeyId, Refill};
use crate::store::{KeyRepository, StoreError};

/// The accounts of the keys that are in the cache: their number is bounded as that of the keys is.
pub(crate) struct Accounts {
    store: Arc<dyn KeyRepository>,
    clock: Arc<dyn Clock>,
    /// For how long a lease should last.
    interval: Duration,
    /// How long the store may take.
    deadline: Duration,
    open: Mutex<HashMap<KeyId, Weak<Account>>>,
    /// What accounts had leased that are gone.
    left: Mutex<Vec<CreditReturn>>,
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
        }
    }

    /// The account of a key that the store has just told `plan` of.
    pub(crate) fn open(self: &Arc<Self>, key: KeyId, plan: &CreditPlan) -> Arc<Account> {
        let mut open = self.all_open();
        let known = open.get(&key).and_then(Weak::upgrade);
        let account = known.unwrap_or_else(|| {
            let account = Arc::new(Account::new(key, Arc::clone(self)));
            open.insert(key, Arc::downgrade(&account));
            account
        });
        drop(open);
        account.learn(plan);
        account
    }

    /// How many credits of `period` this instance has leased for a key and not spent.
    pub(crate) fn leased(&self, key: KeyId, period: CreditPeriod) -> u64 {
        let account = self.all_open().get(&key).and_then(Weak::upgrade);
        account.map_or(0, |account| account.leased(period))
    }

    /// Gives back what was not spent.
    pub(crate) async fn give_back(&self, whose: Unspent) -> Result<(), StoreError> {
        // All are let go of after the lock is: the last to hold an account takes it.
        let open: Vec<_> = self.all_open().values().filter_map(Weak::upgrade).collect();
        let mut returns = Vec::new();
        for account in open {
            if whose == Unspent::OfAll {
                account.answered().await;
            }
            returns.extend(account.unspent(whose));
        }
        returns.append(&mut self.left());
        while !returns.is_empty() {
            let batch = returns.split_off(returns.len().saturating_sub(Self::BATCH));
            if let Err(error) = self.store.give_back_credits(&batch).await {
                tracing::warn!(
                    keys = batch.len(),
                    "leased credits are lost: the key store did not take them back"
                );
                self.left().extend(returns);
                return Err(error);
            }
        }
        Ok(())
    }

    fn closed(&self, key: KeyId, unspent: Option<CreditReturn>) {
        self.left().extend(unspent);
        let mut open = self.all_open();
        // It may have been opened again already.
        if open
            .get(&key)
            .is_some_and(|known| known.strong_count() == 0)
        {
            open.remove(&key);
        }
    }

    fn all_open(&self) -> MutexGuard<'_, HashMap<KeyId, Weak<Account>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn left(&self) -> MutexGuard<'_, Vec<CreditReturn>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Accounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Accounts")
            .field("open", &self.all_open().len())
            .finish_non_exhaustive()
    }
}
