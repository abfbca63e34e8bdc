//! The key in whose name something is changed, decided on again before each change.
//!
//! A request is verified by its head, and its body may follow much later. A thief who opens a request
//! and holds the body back could otherwise still act after the stolen key was revoked:
//!
//! ```text
//! thief     head: verified ──────────── … ──────────── body ── change
//! operator                   revoke ✓                           │
//!                                                               └ decided again: refused
//! ```

use super::policy::{check_address, check_scopes};
use super::{Origin, Parts, Verifier};
use crate::cache::CachedKey;
use crate::denial::{Denial, DenialReason};
#[cfg(feature = "testing")]
use crate::key::KeyDigest;
use crate::principal::KeyPrincipal;
use crate::requirements::Requirements;
use crate::scope::ScopeSet;
use crate::store::StoreError;

/// A verified key, with all that was asked of it when its request began.
pub(crate) struct ActingKey {
    verifier: Verifier,
    principal: KeyPrincipal,
    origin: Origin,
    needs: Requirements,
}

impl ActingKey {
    /// The key that `verifier` has let through for a client from `origin`.
    pub(crate) fn new(
        verifier: &Verifier,
        principal: KeyPrincipal,
        origin: Origin,
        needs: &Requirements,
    ) -> Self {
        Self {
            verifier: verifier.clone(),
            principal,
            origin,
            needs: needs.clone(),
        }
    }

    pub(crate) fn principal(&self) -> &KeyPrincipal {
        &self.principal
    }

    /// Decides on status, kind, address and scopes again, and returns the scopes that the key holds
    /// now.
    ///
    /// Reads the store instead of the cache, because the cache may not know yet of a revocation by
    /// another instance. The request was charged and counted when it began, so nothing is charged.
    ///
    /// # Errors
    ///
    /// [`StoreError`] where the store fails, and within it the [`Denial`] of a key that is no longer
    /// good.
    pub(crate) async fn scopes_now(&self) -> Result<Result<ScopeSet, Denial>, StoreError> {
        let known = self.principal.key();
        #[cfg(feature = "testing")]
        if known.credential.digest == KeyDigest::OF_TESTS {
            // No store has the key of a test's principal.
            return Ok(Ok(known.record.scopes.clone()));
        }
        let parts = &*self.verifier.parts;
        let stored = parts.cache.read_stored(&known.credential.digest).await?;
        let decided = self.decide(parts, stored);
        if decided.is_err() {
            // The cache took the key for good, so it has missed the change.
            parts.cache.invalidate(known.record.id, &[]);
        }
        Ok(decided.map_err(|denial| denial.of_key(known)))
    }

    fn decide(&self, parts: &Parts, stored: Option<CachedKey>) -> Result<ScopeSet, Denial> {
        let key = stored.ok_or_else(|| Denial::invalid_key(DenialReason::Unknown))?;
        parts
            .check_status(&key, parts.clock.now())
            .and_then(|()| parts.check_kind(&key, &self.needs))
            .map_err(Denial::invalid_key)?;
        check_address(&key, &|| self.origin)?;
        check_scopes(&key, &self.needs)?;
        Ok(key.record.scopes)
    }
}
