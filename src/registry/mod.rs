//! The write side: issue, rotate, revoke and everything else that changes a key.
//!
//! Every change is computed from the key as it is stored and applied only if it is still at that
//! version; otherwise it is computed anew. So a concurrent change is never undone, and no rule
//! below is decided on an old state:
//!
//! 1. Nothing that has ended comes back: no change of a revoked key, no new end and no rotation
//!    for an expired one, and a rotation only ever shortens the life of the credentials before it.
//!    How many a key keeps is [bounded](ApiKeys::MAX_LIVE_CREDENTIALS).
//! 2. A change and its event in the audit trail are one transaction.
//! 3. Through a handle that is [limited](ApiKeys::within), nothing is granted that its holder
//!    lacks, and no key is changed that holds more.
//! 4. Before a method returns, this process has forgotten what it knew of the key. A method that
//!    was begun runs to its end even if whoever called it goes away.
//! 5. Before a method returns, other instances have been notified over the bus. Where that fails,
//!    the change is stored all the same, and the result [says so](Changed::is_propagated).

mod authority;
mod builder;
mod change;
mod changed;
mod checks;
mod error;
mod flush;
mod import;
mod input;
mod listing;
mod rotation;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

pub use builder::Builder;
pub use changed::{Changed, Issued};
#[cfg(all(feature = "admin", feature = "openapi"))]
pub(crate) use checks::{
    MAX_ADDRESSES, MAX_METADATA, MAX_METADATA_NAME, MAX_METADATA_VALUE, MAX_TEXT,
};
pub use error::{KeyError, KeyErrorKind, ShutdownError};
pub use import::KeyImport;
pub use input::{KeyUpdate, NewKey};

use crate::key::KeyDigest;
use crate::record::{CreditBalance, EventAction, Key, KeyId, KeyRecord, KeyStatus, UsageBucket};
use crate::store::{EventCursor, EventPage, KeyRepository};
use crate::verify::Verifier;
use authority::{Authority, Ceiling};
use change::Plan;
use flush::Flusher;

/// The keys of a service: makes, shows, changes and ends them. Cloning costs a reference count.
///
/// ```
/// use std::time::Duration;
/// use tower_api_key::{ApiKeys, KeyFormat, MemoryStore, NewKey, RateLimit};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let keys = ApiKeys::builder(MemoryStore::new()).format(KeyFormat::new("sk")).build();
///
/// let billing = NewKey::named("billing").scopes(["orders:read"]).limit(RateLimit::per_minute(100));
/// let issued = keys.issue(billing).await?;
/// println!("{}", issued.secret().expose()); // the only time it is visible
///
/// // The owner has a day to move to the new secret; then the old one ends.
/// let rotated = keys.rotate(issued.key().record.id, Duration::from_secs(86_400)).await?;
/// # assert_eq!(rotated.key().credentials.len(), 2);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct ApiKeys {
    repository: Arc<dyn KeyRepository>,
    verifier: Verifier,
    flusher: Arc<Flusher>,
    actor: Option<Arc<str>>,
    authority: Authority,
}

impl ApiKeys {
    /// Begins to set up the keys kept in `store`.
    pub fn builder<S: KeyRepository>(store: S) -> Builder<S> {
        Builder::new(store)
    }

    /// The same keys, with `actor` written into the audit trail as the one who makes the changes:
    /// the id of the acting key, or any other name.
    pub fn acting_as(&self, actor: impl fmt::Display) -> Self {
        Self {
            actor: Some(actor.to_string().into()),
            ..self.clone()
        }
    }

    /// Makes a key with its first credential and reveals the secret, once.
    ///
    /// # Errors
    ///
    /// [`KeyErrorKind::Invalid`] names the field that is wrong; [`KeyErrorKind::Store`].
    pub async fn issue(&self, new: NewKey) -> Result<Issued, KeyError> {
        let credential = |this: &Self, record: &KeyRecord| {
            let (secret, credential) = this.new_credential(record, record.created_at)?;
            Ok((credential, secret))
        };
        let (changed, secret) = self.insert(new, EventAction::Issued, credential).await?;
        Ok(Issued::new(secret, changed))
    }

    /// Takes over a key that was issued elsewhere, by the SHA-256 of its text, so that its owner
    /// can go on using it. `start` is what may be shown of it; it can be empty.
    ///
    /// Such a key may have any text. It verifies only where
    /// [`Builder::accept_imported`] says so.
    ///
    /// # Errors
    ///
    /// [`KeyErrorKind::Invalid`] names the field that is wrong; [`KeyErrorKind::Duplicate`] when
    /// the digest is stored already; [`KeyErrorKind::Store`].
    pub async fn import(
        &self,
        new: NewKey,
        digest: KeyDigest,
        start: &str,
    ) -> Result<Changed, KeyError> {
        let start = start.to_owned();
        let credential = move |_: &Self, record: &KeyRecord| {
            let credential = input::imported_credential(digest, &start, record.created_at)?;
            Ok((credential, ()))
        };
        let (changed, ()) = self.insert(new, EventAction::Imported, credential).await?;
        Ok(changed)
    }

    /// The key with this id and all its credentials.
    ///
    /// # Errors
    ///
    /// [`KeyErrorKind::NotFound`], [`KeyErrorKind::Store`].
    pub async fn get(&self, id: KeyId) -> Result<Key, KeyError> {
        self.repository
            .get(id)
            .await?
            .ok_or_else(|| KeyError::not_found(id))
    }

    /// Changes what `update` names and leaves the rest.
    ///
    /// # Errors
    ///
    /// [`KeyErrorKind::Invalid`], [`KeyErrorKind::NotFound`], [`KeyErrorKind::Revoked`],
    /// [`KeyErrorKind::Expired`] when an expired key is given another end,
    /// [`KeyErrorKind::Contended`], [`KeyErrorKind::Store`].
    pub async fn update(&self, id: KeyId, update: KeyUpdate) -> Result<Changed, KeyError> {
        let plan = move |key: &Key, now, ceiling: &Ceiling| {
            if !update.only_disables() {
                let present = key.record.scopes.iter().cloned();
                ceiling.check(present.chain(update.granted()))?;
            }
            if key.record.revoked_at.is_some() {
                return Err(KeyError::revoked(id));
            }
            let record = update.applied_to(&key.record, now)?;
            if record == key.record {
                return Ok(Plan::unchanged(()));
            }
            let action = match (key.record.enabled, record.enabled) {
                (true, false) => EventAction::Disabled,
                (false, true) => EventAction::Enabled,
                _ => EventAction::Updated,
            };
            Ok(Plan::change(record, action, ()))
        };
        self.change(id, plan).await.map(|(changed, ())| changed)
    }

    /// Switches a key off. It can be switched on again.
    ///
    /// # Errors
    ///
    /// As [`ApiKeys::update`].
    pub async fn disable(&self, id: KeyId) -> Result<Changed, KeyError> {
        self.update(id, KeyUpdate::new().enabled(false)).await
    }

    /// Switches a key on again.
    ///
    /// # Errors
    ///
    /// As [`ApiKeys::update`].
    pub async fn enable(&self, id: KeyId) -> Result<Changed, KeyError> {
        self.update(id, KeyUpdate::new().enabled(true)).await
    }

    /// Gives a key a new secret. Every other one ends after `grace`, or at its own end if that
    /// comes first; a grace of zero ends them at once.
    ///
    /// At most [20](Self::MAX_LIVE_CREDENTIALS) are live at one time. A rotation also deletes
    /// credentials that ended [90 days](Self::ENDED_CREDENTIALS_KEPT_FOR) ago or
    /// [100](Self::MAX_ENDED_CREDENTIALS) others before the last.
    ///
    /// # Errors
    ///
    /// [`KeyErrorKind::NotFound`], [`KeyErrorKind::Revoked`], [`KeyErrorKind::Expired`],
    /// [`KeyErrorKind::TooManyCredentials`], [`KeyErrorKind::Contended`],
    /// [`KeyErrorKind::Store`].
    pub async fn rotate(&self, id: KeyId, grace: Duration) -> Result<Issued, KeyError> {
        let this = self.clone();
        let plan = move |key: &Key, now: Timestamp, ceiling: &Ceiling| {
            ceiling.check(key.record.scopes.iter().cloned())?;
            match key.record.status(now) {
                KeyStatus::Revoked => return Err(KeyError::revoked(id)),
                KeyStatus::Expired => return Err(KeyError::expired(id)),
                KeyStatus::Active | KeyStatus::Disabled => {}
            }
            let (secret, credential) = this.new_credential(&key.record, now)?;
            let mut plan = Plan::change(key.record.clone(), EventAction::Rotated, secret);
            let end = now.saturating_add(grace).unwrap_or(Timestamp::MAX);
            let end = input::to_microseconds(end);
            plan.remove_credentials = rotation::make_room(key, end, now)?;
            plan.end_credentials_at = Some(end);
            plan.add_credential = Some(credential);
            Ok(plan)
        };
        let (changed, secret) = self.change(id, plan).await?;
        Ok(Issued::new(secret, changed))
    }

    /// Ends a key for good. Its row stays, for the audit trail. To revoke a key again changes
    /// nothing.
    ///
    /// # Errors
    ///
    /// [`KeyErrorKind::NotFound`], [`KeyErrorKind::Contended`], [`KeyErrorKind::Store`].
    pub async fn revoke(&self, id: KeyId) -> Result<Changed, KeyError> {
        let plan = |key: &Key, now, _: &Ceiling| {
            if key.record.revoked_at.is_some() {
                return Ok(Plan::unchanged(()));
            }
            let record = KeyRecord {
                revoked_at: Some(now),
                ..key.record.clone()
            };
            Ok(Plan::change(record, EventAction::Revoked, ()))
        };
        self.change(id, plan).await.map(|(changed, ())| changed)
    }

    /// How much a key was used, by the hour, from `from` up to, but without, `to`. Hours without
    /// use are left out; what was gathered since the last flush is not in it yet.
    ///
    /// # Errors
    ///
    /// [`KeyErrorKind::NotFound`], [`KeyErrorKind::Store`].
    pub async fn usage(
        &self,
        id: KeyId,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<Vec<UsageBucket>, KeyError> {
        self.get(id).await?;
        Ok(self.repository.usage(id, from, to).await?)
    }

    /// A page of at most `limit` entries of a key's audit trail, newest first. The
    /// [`next`](EventPage::next) of a page is the `before` of the page with older entries.
    ///
    /// ```
    /// # use tower_api_key::{ApiKeys, KeyUpdate, MemoryStore, NewKey};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_api_key::KeyError> {
    /// # let keys = ApiKeys::builder(MemoryStore::new()).build();
    /// # let id = keys.issue(NewKey::named("billing")).await?.key().record.id;
    /// # keys.disable(id).await?;
    /// let newest = keys.events(id, None, 1).await?;
    /// assert_eq!(newest.events[0].action.as_str(), "disabled");
    /// let older = keys.events(id, newest.next, 1).await?;
    /// assert_eq!(older.events[0].action.as_str(), "issued");
    /// assert!(older.next.is_none());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`KeyErrorKind::NotFound`], [`KeyErrorKind::Store`].
    pub async fn events(
        &self,
        id: KeyId,
        before: Option<EventCursor>,
        limit: usize,
    ) -> Result<EventPage, KeyError> {
        self.get(id).await?;
        Ok(self.repository.events(id, before, limit).await?)
    }

    /// What is left of a key's credits; none for a key that has no budget. What this instance has
    /// leased and not spent counts as left; what others have leased, as spent.
    ///
    /// # Errors
    ///
    /// [`KeyErrorKind::NotFound`], [`KeyErrorKind::Store`].
    pub async fn credits(&self, id: KeyId) -> Result<Option<CreditBalance>, KeyError> {
        let key = self.get(id).await?;
        let mut balances = self.balances([&key]).await?;
        Ok(balances.pop().map(|(_, balance)| balance))
    }

    /// The same of those of `keys` that have a budget.
    pub(crate) async fn balances(
        &self,
        keys: impl IntoIterator<Item = &Key>,
    ) -> Result<Vec<(KeyId, CreditBalance)>, KeyError> {
        let keys = keys.into_iter().map(|key| &key.record);
        let with_budget = keys.filter(|record| record.credits.is_some());
        let ids: Vec<_> = with_budget.map(|record| record.id).collect();
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut balances = self.repository.credits(&ids).await?;
        let now = self.now();
        for (id, balance) in &mut balances {
            *balance = balance.at(now);
            if let Some(accounts) = &self.verifier.parts.accounts {
                let leased = accounts.leased(*id, balance.period);
                balance.remaining = balance.remaining.saturating_add(leased);
            }
        }
        Ok(balances)
    }

    /// Writes the use gathered so far, and gives back the credits leased for keys that spent none
    /// since the last time.
    ///
    /// # Errors
    ///
    /// [`KeyErrorKind::Store`]; use that was not written is kept for the next time, credits that
    /// were not given back are lost.
    pub async fn flush(&self) -> Result<(), KeyError> {
        Ok(self.flusher.flush(&self.verifier, &self.repository).await?)
    }

    /// Ends the background task, writes the use gathered so far and gives back all credits that
    /// were leased and not spent. Call it when the server has answered its last request.
    ///
    /// Returns within `deadline`, and as soon as all is written. A store that fails is tried again
    /// until then. One that does not answer, also to a flush that is under way, is given up after a
    /// third of it and tried again. Ten seconds leave room for that within the thirty that
    /// orchestrators usually grant.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tower_api_key::{ApiKeys, MemoryStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// # let keys = ApiKeys::builder(MemoryStore::new()).build();
    /// if let Err(lost) = keys.shutdown(Duration::from_secs(10)).await {
    ///     eprintln!("{lost}: {} requests are not counted", lost.uses());
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ShutdownError`] says how much could not be written.
    pub async fn shutdown(&self, deadline: Duration) -> Result<(), ShutdownError> {
        let Self {
            verifier,
            repository,
            ..
        } = self;
        self.flusher.shutdown(verifier, repository, deadline).await
    }

    /// What decides on requests.
    pub fn verifier(&self) -> &Verifier {
        &self.verifier
    }

    /// The present time by the clock of these keys, to the microsecond, as stores keep it.
    pub fn now(&self) -> Timestamp {
        input::to_microseconds(self.verifier.parts.clock.now().timestamp())
    }
}

impl AsRef<Verifier> for ApiKeys {
    fn as_ref(&self) -> &Verifier {
        &self.verifier
    }
}

impl fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKeys")
            .field("verifier", &self.verifier)
            .field("actor", &self.actor)
            .finish_non_exhaustive()
    }
}
