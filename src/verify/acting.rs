//! The key in whose name something is changed, decided on again before each change.
//!
//! A request is verified by its head, and its body may follow much later. A thief who opens a
//! request and holds the body back could otherwise still act after the stolen key was revoked:
//!
//! ```text
//! thief     head: verified ──────────── … ──────────── body ── change
//! operator                   revoke ✓                           │
//!                                                               └ decided again: refused
//! ```

use super::policy::{check_address, check_scopes};
use super::{Origin, Parts, Verifier};
use crate::bill::Bill;
use crate::cache::CachedKey;
use crate::denial::{Denial, DenialReason};
#[cfg(feature = "testing")]
use crate::key::KeyDigest;
use crate::principal::KeyPrincipal;
use crate::requirements::Requirements;
use crate::scope::{Scope, ScopeSet};
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

    /// The denial of a request that all layers have let through. Its limits are as they are once every
    /// layer has taken back what it charged.
    pub(crate) fn denied(&self, denial: Denial) -> Denial {
        let parts = &*self.verifier.parts;
        let (key, now) = (self.principal.key(), parts.clock.now());
        let bill = Bill::on_top(&self.principal.admission, &Requirements::new(), now);
        denial
            .with_limits(bill.foresee(key, &parts.limiter, false))
            .of_key(key)
    }

    /// Decides on status, kind, address and scopes again, and returns the scopes that the key holds
    /// now.
    ///
    /// Reads the store instead of the cache, because the cache may not know yet of a revocation by
    /// another instance. The request was charged and counted when it began, so nothing is charged.
    ///
    /// # Errors
    ///
    /// [`StoreError`] where the store fails, and within it the [`Denial`] of a key that is no
    /// longer good.
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
        self.check_permissions(&key)
            .map_err(|denial| self.denied(denial))?;
        Ok(key.record.scopes)
    }

    /// Checks the address and the scopes, also on behalf of the layers around this one. Their
    /// requirements are not known here, and neither are the proxies that they trust.
    fn check_permissions(&self, key: &CachedKey) -> Result<(), Denial> {
        let known = &self.principal.key().record;
        // The list that let this client in still does.
        if key.record.allowed_addresses != known.allowed_addresses {
            check_address(key, &|| self.origin)?;
        }
        check_scopes(key, &self.needs)?;
        let (layers_around, _) = self.principal.admission.bill.position();
        if layers_around == 0 {
            return Ok(());
        }
        // Any scope may be one that a layer around this one requires.
        let is_lost = |scope: &&Scope| !key.record.scopes.covers(scope);
        let lost: Vec<_> = known.scopes.iter().filter(is_lost).cloned().collect();
        if lost.is_empty() {
            Ok(())
        } else {
            Err(Denial::insufficient_scope(lost))
        }
    }
}
