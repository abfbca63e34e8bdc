use std::fmt;
use std::future::Future;
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use crate::principal::KeyPrincipal;
use crate::record::KeyId;
use crate::registry::ApiKeys;
use crate::requirements::Requirements;
use crate::telemetry;
use crate::verify::Origin;

/// Disables keys that were seen in clear text, in the background: the time that the answer takes
/// must not show whether there is such a key.
#[derive(Clone)]
pub(super) struct Exposure {
    keys: ApiKeys,
    lookups: Arc<Semaphore>,
    changes: Arc<Semaphore>,
}

impl Exposure {
    /// The most secrets that are looked up at one time, and the most keys that are disabled at one
    /// time. A flood of made-up secrets must not keep the store busy, nor keep real ones from being
    /// disabled.
    const AT_ONCE: usize = 8;

    pub(super) fn new(keys: &ApiKeys) -> Self {
        Self {
            keys: keys.acting_as("clear_text"),
            lookups: Arc::new(Semaphore::new(Self::AT_ONCE)),
            changes: Arc::new(Semaphore::new(Self::AT_ONCE)),
        }
    }

    /// Disables the keys of these secrets, as far as they are of a secret kind that `needs` accept.
    pub(super) fn disable_secrets(
        &self,
        secrets: Vec<Zeroizing<Vec<u8>>>,
        origin: Origin,
        needs: &Requirements,
    ) {
        if secrets.is_empty() {
            return;
        }
        let (this, needs) = (self.clone(), needs.clone());
        in_background(async move {
            for secret in secrets {
                let verifier = this.keys.verifier();
                let found = verifier.find_exposed(&secret, origin, &needs, &this.lookups);
                match found.await {
                    Ok(Some(id)) => this.disable(id).await,
                    Ok(None) => {}
                    Err(outage) => verifier.log(|budgets, now| {
                        telemetry::exposed_key_unchanged(&outage, budgets, now);
                    }),
                }
            }
        });
    }

    /// Disables a key that was verified before it was seen how it came.
    pub(super) fn disable_key(&self, principal: &KeyPrincipal, needs: &Requirements) {
        let found = self
            .keys
            .verifier()
            .find_exposed_key(principal.key(), needs);
        if let Some(id) = found {
            let this = self.clone();
            in_background(async move { this.disable(id).await });
        }
    }

    /// Disables a key, unless many are being disabled: then it is disabled when it is seen again.
    async fn disable(&self, id: KeyId) {
        let Ok(_permit) = self.changes.try_acquire() else {
            return;
        };
        let disabled = self.keys.disable(id).await;
        self.keys.verifier().log(|budgets, now| match disabled {
            Ok(_) => telemetry::exposed_key_disabled(id, budgets, now),
            Err(error) => telemetry::exposed_key_unchanged(&error, budgets, now),
        });
    }
}

fn in_background(work: impl Future<Output = ()> + Send + 'static) {
    if let Ok(runtime) = Handle::try_current() {
        runtime.spawn(work);
    }
}

impl fmt::Debug for Exposure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exposure").finish_non_exhaustive()
    }
}
