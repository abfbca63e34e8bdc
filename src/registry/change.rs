//! How a key is changed: planned from what is stored, applied if that is still so, made known to
//! every instance.

use std::future::Future;

use futures_util::future::join_all;
use jiff::Timestamp;

use super::{ApiKeys, KeyError};
use crate::invalidation::{DigestTag, Invalidation};
use crate::key::ApiKey;
use crate::record::{Credential, EventAction, Key, KeyEvent, KeyId, KeyRecord};
use crate::store::KeyChange;

/// What is to become of a key.
pub(super) struct Plan<T> {
    pub(super) change: Option<(KeyRecord, EventAction)>,
    pub(super) end_credentials_at: Option<Timestamp>,
    pub(super) add_credential: Option<Credential>,
    pub(super) output: T,
}

impl<T> Plan<T> {
    pub(super) fn unchanged(output: T) -> Self {
        Self {
            change: None,
            end_credentials_at: None,
            add_credential: None,
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

    /// Computes a change from the stored key and applies it, as often as it takes.
    pub(super) async fn change<T, E, P>(&self, id: KeyId, plan: P) -> Result<(Key, T), E>
    where
        T: Send + 'static,
        E: From<KeyError> + Send + 'static,
        P: Fn(&Key, Timestamp) -> Result<Plan<T>, E> + Send + 'static,
    {
        let this = self.clone();
        to_the_end(async move {
            for _ in 0..Self::ATTEMPTS {
                let now = this.now();
                let mut key = this.get(id).await?;
                let planned = plan(&key, now);
                if !matches!(&planned, Ok(planned) if planned.change.is_some()) {
                    // Because of another change, which this process may not have seen yet.
                    let tag = |credential: &Credential| DigestTag::of(&credential.digest);
                    let tags: Vec<_> = key.credentials.iter().map(tag).collect();
                    this.verifier.parts.cache.invalidate(id, &tags);
                }
                let Plan {
                    change,
                    end_credentials_at,
                    add_credential,
                    output,
                } = planned?;
                let Some((mut record, action)) = change else {
                    return Ok((key, output));
                };
                record.version += 1;
                let event = this.event(id, action, now);
                let change = KeyChange {
                    record,
                    end_credentials_at,
                    add_credential,
                    event,
                };
                let applied = this.repository.apply(&change).await;
                if matches!(applied, Ok(true)) {
                    let cache = &this.verifier.parts.cache;
                    cache.note_version(id, change.record.version);
                }
                let credentials = key.credentials.iter().chain(&change.add_credential);
                let digests = credentials.map(|credential| DigestTag::of(&credential.digest));
                // Also after an error: it may have been written all the same.
                this.forget_everywhere(id, digests.collect()).await;
                if applied.map_err(KeyError::from)? {
                    apply_to(&mut key, change);
                    return Ok((key, output));
                }
                tokio::task::yield_now().await;
            }
            Err(KeyError::contended(id).into())
        })
        .await
    }

    pub(super) async fn insert(
        &self,
        record: KeyRecord,
        credential: Credential,
        action: EventAction,
        now: Timestamp,
    ) -> Result<Key, KeyError> {
        let this = self.clone();
        to_the_end(async move {
            let event = this.event(record.id, action, now);
            let inserted = this.repository.insert(&record, &credential, &event).await;
            // Also after an error: it may have been written all the same.
            let digests = vec![DigestTag::of(&credential.digest)];
            this.forget_everywhere(record.id, digests).await;
            inserted?;
            Ok(Key {
                record,
                credentials: vec![credential],
            })
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

    /// Makes this instance forget what it knows of a key, and then the others.
    pub(super) async fn forget_everywhere(&self, id: KeyId, digests: Vec<DigestTag>) {
        self.verifier.parts.cache.invalidate(id, &digests);
        self.publish(&Invalidation::Key { id, digests }).await;
    }

    /// Tells the other instances, on every bus.
    pub(super) async fn publish(&self, invalidation: &Invalidation) {
        let publishers = self.verifier.parts.publishers.iter();
        join_all(publishers.map(|publisher| publisher.publish(invalidation))).await;
    }
}

/// The key as it is after `change`, as the store has it now.
fn apply_to(key: &mut Key, change: KeyChange) {
    if let Some(end) = change.end_credentials_at {
        for credential in &mut key.credentials {
            credential.expires_at = Some(credential.expires_at.map_or(end, |own| own.min(end)));
        }
    }
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
