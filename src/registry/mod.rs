//! The write side: issue, rotate, revoke and everything else that changes a key.
//!
//! Every change is computed from the key as it is stored and applied only if it is still at that
//! version; otherwise it is computed anew. So a concurrent change is never undone, and no rule
//! below is decided on an old state:
//!
//! 1. Nothing that has ended comes back: no change of a revoked key, no new end and no rotation
//!    for an expired one, and a rotation only ever shortens the life of the credentials before it.
//! 2. A change and its event in the audit trail are one transaction.
//! 3. Before a method returns, this process has forgotten what it knew of the key. A method that
//!    was begun runs to its end even if whoever called it goes away.

mod builder;
mod change;
mod error;
mod flush;
mod import;
mod input;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

pub use builder::Builder;
pub use error::{KeyError, KeyErrorKind, ShutdownError};
pub use import::KeyImport;
pub use input::{KeyUpdate, NewKey};
#[cfg(all(feature = "admin", feature = "openapi"))]
pub(crate) use input::{
    MAX_ADDRESSES, MAX_METADATA, MAX_METADATA_NAME, MAX_METADATA_VALUE, MAX_TEXT,
};

use crate::key::{ApiKey, KeyDigest};
use crate::record::{
    CreditBalance, EventAction, Key, KeyEvent, KeyId, KeyRecord, KeyStatus, UsageBucket,
};
use crate::store::{KeyFilter, KeyPage, KeyRepository};
use crate::verify::Verifier;
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
}

/// A new secret and the key it belongs to.
#[derive(Clone, Debug)]
pub struct Issued {
    secret: ApiKey,
    key: Key,
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
        let now = self.now();
        let record = new.into_record(self.verifier.format(), now)?;
        let (secret, credential) = self.new_credential(&record, now)?;
        let key = self
            .insert(record, credential, EventAction::Issued, now)
            .await?;
        Ok(Issued { secret, key })
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
    ) -> Result<Key, KeyError> {
        let now = self.now();
        let record = new.into_record(self.verifier.format(), now)?;
        let credential = input::imported_credential(digest, start, now)?;
        self.insert(record, credential, EventAction::Imported, now)
            .await
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

    /// The keys that fit `filter`, newest first, a page at a time.
    ///
    /// # Errors
    ///
    /// [`KeyErrorKind::Store`].
    pub async fn list(&self, filter: &KeyFilter) -> Result<KeyPage, KeyError> {
        Ok(self.repository.list(filter).await?)
    }

    /// Changes what `update` names and leaves the rest.
    ///
    /// # Errors
    ///
    /// [`KeyErrorKind::Invalid`], [`KeyErrorKind::NotFound`], [`KeyErrorKind::Revoked`],
    /// [`KeyErrorKind::Expired`] when an expired key is given another end,
    /// [`KeyErrorKind::Contended`], [`KeyErrorKind::Store`].
    pub async fn update(&self, id: KeyId, update: KeyUpdate) -> Result<Key, KeyError> {
        self.update_if(id, update, |_| Ok(())).await
    }

    /// As [`ApiKeys::update`], if `allow` has nothing against it: it is asked about the very
    /// version of the key that the change applies to.
    pub(crate) async fn update_if<E>(
        &self,
        id: KeyId,
        update: KeyUpdate,
        allow: impl Fn(&KeyRecord) -> Result<(), E> + Send + 'static,
    ) -> Result<Key, E>
    where
        E: From<KeyError> + Send + 'static,
    {
        let plan = move |key: &Key, now| -> Result<_, E> {
            allow(&key.record)?;
            if key.record.revoked_at.is_some() {
                return Err(KeyError::revoked(id).into());
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
        self.change(id, plan).await.map(|(key, ())| key)
    }

    /// Switches a key off. It can be switched on again.
    ///
    /// # Errors
    ///
    /// As [`ApiKeys::update`].
    pub async fn disable(&self, id: KeyId) -> Result<Key, KeyError> {
        self.update(id, KeyUpdate::new().enabled(false)).await
    }

    /// Switches a key on again.
    ///
    /// # Errors
    ///
    /// As [`ApiKeys::update`].
    pub async fn enable(&self, id: KeyId) -> Result<Key, KeyError> {
        self.update(id, KeyUpdate::new().enabled(true)).await
    }

    /// Gives a key a new secret. Every other one ends after `grace`, or at its own end if that
    /// comes first; a grace of zero ends them at once.
    ///
    /// # Errors
    ///
    /// [`KeyErrorKind::NotFound`], [`KeyErrorKind::Revoked`], [`KeyErrorKind::Expired`],
    /// [`KeyErrorKind::Contended`], [`KeyErrorKind::Store`].
    pub async fn rotate(&self, id: KeyId, grace: Duration) -> Result<Issued, KeyError> {
        self.rotate_if(id, grace, |_| Ok(())).await
    }

    /// As [`ApiKeys::rotate`], if `allow` has nothing against it: it is asked about the very
    /// version of the key that the new secret is for.
    pub(crate) async fn rotate_if<E>(
        &self,
        id: KeyId,
        grace: Duration,
        allow: impl Fn(&KeyRecord) -> Result<(), E> + Send + 'static,
    ) -> Result<Issued, E>
    where
        E: From<KeyError> + Send + 'static,
    {
        let this = self.clone();
        let plan = move |key: &Key, now: Timestamp| -> Result<_, E> {
            allow(&key.record)?;
            match key.record.status(now) {
                KeyStatus::Revoked => return Err(KeyError::revoked(id).into()),
                KeyStatus::Expired => return Err(KeyError::expired(id).into()),
                KeyStatus::Active | KeyStatus::Disabled => {}
            }
            let (secret, credential) = this.new_credential(&key.record, now)?;
            let mut plan = Plan::change(key.record.clone(), EventAction::Rotated, secret);
            let end = now.saturating_add(grace).unwrap_or(Timestamp::MAX);
            plan.end_credentials_at = Some(input::to_microseconds(end));
            plan.add_credential = Some(credential);
            Ok(plan)
        };
        let (key, secret) = self.change(id, plan).await?;
        Ok(Issued { secret, key })
    }

    /// Ends a key for good. Its row stays, for the audit trail. To revoke a key again changes
    /// nothing.
    ///
    /// # Errors
    ///
    /// [`KeyErrorKind::NotFound`], [`KeyErrorKind::Contended`], [`KeyErrorKind::Store`].
    pub async fn revoke(&self, id: KeyId) -> Result<Key, KeyError> {
        let plan = |key: &Key, now| {
            if key.record.revoked_at.is_some() {
                return Ok(Plan::unchanged(()));
            }
            let record = KeyRecord {
                revoked_at: Some(now),
                ..key.record.clone()
            };
            Ok(Plan::change(record, EventAction::Revoked, ()))
        };
        self.change(id, plan).await.map(|(key, ())| key)
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

    /// The last `limit` entries of a key's audit trail, oldest first.
    ///
    /// # Errors
    ///
    /// [`KeyErrorKind::NotFound`], [`KeyErrorKind::Store`].
    pub async fn events(&self, id: KeyId, limit: usize) -> Result<Vec<KeyEvent>, KeyError> {
        self.get(id).await?;
        Ok(self.repository.events(id, limit).await?)
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
    /// Returns within `deadline`, and as soon as all is written. A store that fails is tried again until
    /// then. One that does not answer, also to a flush that is under way, is given up after a third of it
    /// and tried again. Ten seconds leave room for that within the thirty that orchestrators usually grant.
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

impl Issued {
    /// The secret. This is the only time that it is there.
    pub fn secret(&self) -> &ApiKey {
        &self.secret
    }

    /// The key that the secret belongs to.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Takes the two apart.
    pub fn into_parts(self) -> (ApiKey, Key) {
        (self.secret, self.key)
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
