use std::error::Error;
use std::fmt;
use std::future::Future;
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use crate::record::KeyId;
use crate::registry::ApiKeys;

/// Disables keys that were seen in clear text.
#[derive(Clone)]
pub(super) struct Exposure {
    keys: ApiKeys,
    at_once: Arc<Semaphore>,
}

impl Exposure {
    /// The most secrets that are looked up at one time. Bad ones are looked up too, and whoever
    /// sends many of them must not keep the store busy.
    const AT_ONCE: usize = 8;

    pub(super) fn new(keys: &ApiKeys) -> Self {
        Self {
            keys: keys.acting_as("clear_text"),
            at_once: Arc::new(Semaphore::new(Self::AT_ONCE)),
        }
    }

    /// Disables the key whose secret this is, in the background: how long it takes would tell
    /// whether there is one.
    pub(super) fn disable_secret(&self, secret: &[u8]) {
        let (keys, secret) = (self.keys.clone(), Zeroizing::new(secret.to_vec()));
        self.in_background(async move {
            let id = keys.verifier().identify(&secret).await?;
            if let Some(id) = id {
                keys.disable(id).await?;
            }
            Ok(id)
        });
    }

    /// Disables a key that was verified before it was seen how it came.
    pub(super) fn disable_key(&self, id: KeyId) {
        let keys = self.keys.clone();
        self.in_background(async move {
            keys.disable(id).await?;
            Ok(Some(id))
        });
    }

    /// Where there are too many, the key is disabled when it is seen again: it goes on being refused.
    fn in_background(
        &self,
        disabling: impl Future<Output = Result<Option<KeyId>, Failure>> + Send + 'static,
    ) {
        let permit = Arc::clone(&self.at_once).try_acquire_owned();
        let (Ok(permit), Ok(runtime)) = (permit, Handle::try_current()) else {
            return;
        };
        runtime.spawn(async move {
            match disabling.await {
                Ok(Some(id)) => {
                    tracing::warn!(key.id = %id, "a key was sent in clear text and is disabled");
                }
                Ok(None) => {}
                Err(error) => tracing::error!(
                    error = &*error as &dyn Error,
                    "a key that was sent in clear text could not be disabled"
                ),
            }
            drop(permit);
        });
    }
}

type Failure = Box<dyn Error + Send + Sync>;

impl fmt::Debug for Exposure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exposure").finish_non_exhaustive()
    }
}
