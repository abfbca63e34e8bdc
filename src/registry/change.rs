//! How a key is changed: planned from what is stored, applied if that is still so, made known to
//! every instance.

use std::future::Future;

use futures_util::future::join_all;
use jiff::Timestamp;

use super::authority::Ceiling;
use super::{ApiKeys, Changed, KeyError, NewKey};
use crate::invalidation::{DigestTag, Invalidation};
use crate::key::{ApiKey, KeyDigest};
use crate::record::{Credential, EventAction, Key, KeyEvent, KeyId, KeyRecord};
use crate::store::KeyChange;

/// What is to become of a key.
pub(super) struct Plan<T> {
    pub(super) change: Option<(KeyRecord, EventAction)>,
    pub(super) end_credentials_at: Option<Timestamp>,
    pub(super) add_credential: Option<Credential>,
    pub(super) remove_credentials: Vec<KeyDigest>,
    pub(super) output: T,
}

impl<T> Plan<T> {
    pub(super) fn unchanged(output: T) -> Self {
        Self {
            change: None,
            end_credentials_at: None,
            add_credential: None,
            remove_credentials: Vec::new(),
            output,
        }
    }

    pub(super) fn change(record: KeyRecord, action: EventAction, output: T) -> Self {
        Self {
            change: Some((record, action)),
            ..Self::unchanged(output)
        }
    }
}

impl ApiKeys {
    /// How often a change is computed anew because another one came first.
    const ATTEMPTS: usize = 64;

    /// Computes a change from the stored key and applies it, as often as it takes. Each attempt
    /// decides again on what the authority behind it allows, after the key was read.
    pub(super) async fn change<T, P>(&self, id: KeyId, plan: P) -> Result<(Changed, T), KeyError>
    where
        T: Send + 'static,
        P: Fn(&Key, Timestamp, &Ceiling) -> Result<Plan<T>, KeyError> + Send + 'static,
    {
        let this = self.clone();
        to_the_end(async move {
            for _ in 0..Self::ATTEMPTS {
                let stored = this.repository.get(id).await?;
                let ceiling = this.authority.ceiling().await?;
                let mut key = stored.ok_or_else(|| KeyError::not_found(id))?;
                let now = this.now();
                let planned = plan(&key, now, &ceiling);
                let tag = |credential: &Credential| DigestTag::of(&credential.digest);
                let tags: Vec<_> = key.credentials.iter().map(tag).collect();
                if planned.is_err() {
                    // Because of another change, which this process may not have seen yet.
                    this.verifier.parts.cache.invalidate(id, &tags);
                }
                let Plan {
                    change,
                    end_credentials_at,
                    add_credential,
                    remove_credentials,
                    output,
                } = planned?;
                let Some((mut record, action)) = change else {
                    // The change that came first may not have reached the others. A caller who
                    // repeats a call after `is_propagated` was false wants them notified.
                    let propagated = this.forget_everywhere(id, tags).await;
                    return Ok((Changed::new(key, propagated), output));
                };
                record.version += 1;
                let event = this.event(id, action, now);
                let change = KeyChange {
                    end_credentials_at,
                    add_credential,
                    remove_credentials,
                    ..KeyChange::new(record, event)
                };
                let applied = this.repository.apply(&change).await;
                if matches!(applied, Ok(true)) {
                    let cache = &this.verifier.parts.cache;
                    cache.note_version(id, change.record.version);
                }
                let added = change.add_credential.iter().map(tag);
                let digests = tags.into_iter().chain(added).collect();
                // Also after an error: it may have been written all the same.
                let propagated = this.forget_everywhere(id, digests).await;
                if applied? {
                    apply_to(&mut key, change);
                    return Ok((Changed::new(key, propagated), output));
                }
                tokio::task::yield_now().await;
            }
            Err(KeyError::contended(id))
        })
        .await
    }

    /// Makes the key that `new` describes, if it may be made, with the credential that `credential`
    /// returns for it.
    pub(super) async fn insert<T, C>(
        &self,
        new: NewKey,
        action: EventAction,
        credential: C,
    ) -> Result<(Changed, T), KeyError>
    where
        T: Send + 'static,
        C: FnOnce(&Self, &KeyRecord) -> Result<(Credential, T), KeyError> + Send + 'static,
    {
        let this = self.clone();
        to_the_end(async move {
            // Nothing is waited for between this decision and the writing.
            this.authority.ceiling().await?.check(new.granted())?;
            let now = this.now();
            let record = new.into_record(this.verifier.format(), now)?;
            let (credential, output) = credential(&this, &record)?;
            let event = this.event(record.id, action, now);
            let inserted = this.repository.insert(&record, &credential, &event).await;
            // Also after an error: it may have been written all the same.
            let digests = vec![DigestTag::of(&credential.digest)];
            let propagated = this.forget_everywhere(record.id, digests).await;
            inserted?;
            let key = Key {
                record,
                credentials: vec![credential],
            };
            Ok((Changed::new(key, propagated), output))
        })
        .await
    }

    pub(super) fn new_credential(
        &self,
        record: &KeyRecord,
        now: Timestamp,
    ) -> Result<(ApiKey, Credential), KeyError> {
        let parts = &self.verifier.parts;
        let secret = parts
            .format
            .generate(&record.prefix, &record.environment)
            .map_err(|error| KeyError::invalid("environment", error.to_string()))?;
        let (digest, pepper) = parts.hasher.digest(secret.expose());
        let start = secret.start().to_owned();
        let credential = Credential {
            digest,
            pepper,
            start,
            imported: false,
            created_at: now,
            expires_at: None,
            last_used_at: None,
        };
        Ok((secret, credential))
    }

    pub(super) fn event(&self, key: KeyId, action: EventAction, at: Timestamp) -> KeyEvent {
        KeyEvent {
            key,
            at,
            action,
            actor: self.actor.as_deref().map(str::to_owned),
        }
    }

    /// Makes this instance forget what it knows of a key, and then the others. Returns whether the
    /// others could be notified.
    pub(super) async fn forget_everywhere(&self, id: KeyId, digests: Vec<DigestTag>) -> bool {
        self.verifier.parts.cache.invalidate(id, &digests);
        self.publish(&Invalidation::Key { id, digests }).await
    }

    /// Notifies the other instances on every bus. Returns whether the first bus took the message:
    /// the others trust what they remember as long as that one works.
    pub(super) async fn publish(&self, invalidation: &Invalidation) -> bool {
        let publishers = self.verifier.parts.publishers.iter();
        let published = publishers.map(|publisher| publisher.publish(invalidation));
        join_all(published).await.first().copied().unwrap_or(true)
    }
}

/// The key as it is after `change`, as the store has it now.
fn apply_to(key: &mut Key, change: KeyChange) {
    if let Some(end) = change.end_credentials_at {
        for credential in &mut key.credentials {
            credential.expires_at = Some(credential.expires_at.map_or(end, |own| own.min(end)));
        }
    }
    let removed = &change.remove_credentials;
    key.credentials
        .retain(|credential| !removed.contains(&credential.digest));
    key.credentials.extend(change.add_credential);
    key.record = change.record;
}

/// Runs `work` to its end, even if the caller goes away: a change that was stored but not yet
/// invalidated would be forgotten about.
pub(super) async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> T {
    match tokio::spawn(work).await {
        Ok(output) => output,
        Err(failed) => std::panic::resume_unwind(failed.into_panic()),
    }
}
