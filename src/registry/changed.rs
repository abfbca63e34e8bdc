use std::ops::Deref;

use crate::key::ApiKey;
use crate::record::Key;

/// A key as it is after a change, and whether other instances could be notified of the change.
///
/// It dereferences to the [`Key`], so a program of one instance can ignore the rest:
///
/// ```
/// # use tower_api_key::{ApiKeys, MemoryStore, NewKey};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_api_key::KeyError> {
/// # let keys = ApiKeys::builder(MemoryStore::new()).build();
/// # let id = keys.issue(NewKey::named("billing")).await?.key().record.id;
/// let revoked = keys.revoke(id).await?;
/// assert!(revoked.record.revoked_at.is_some());
/// if !revoked.is_propagated() {
///     eprintln!("other instances may accept {id} for up to the cache's TTL");
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    key: Key,
    propagated: bool,
}

impl Changed {
    pub(super) fn new(key: Key, propagated: bool) -> Self {
        Self { key, propagated }
    }

    /// The key as it is now.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Returns whether the [bus](crate::InvalidationBus) took the notification of the change;
    /// always true without a bus, and with the bus of a database.
    ///
    /// With false, the change is stored and holds in this process. Another instance whose own
    /// connection to the bus is healthy may go by the old state for up to the cache's
    /// [`ttl`](crate::CacheConfig::ttl) after it last read the key, and for
    /// [`stale_if_error`](crate::CacheConfig::stale_if_error) beyond that while the store fails.
    /// While this process lives, the notification is tried again every second. Repeating the call, here or on another instance,
    /// tries it again at once.
    pub fn is_propagated(&self) -> bool {
        self.propagated
    }

    /// The key alone.
    pub fn into_key(self) -> Key {
        self.key
    }
}

impl Deref for Changed {
    type Target = Key;

    fn deref(&self) -> &Key {
        &self.key
    }
}

/// A new secret and the key it belongs to.
#[derive(Clone, Debug)]
pub struct Issued {
    secret: ApiKey,
    changed: Changed,
}

impl Issued {
    pub(super) fn new(secret: ApiKey, changed: Changed) -> Self {
        Self { secret, changed }
    }

    /// The secret. This is the only time that it is there.
    pub fn secret(&self) -> &ApiKey {
        &self.secret
    }

    /// The key that the secret belongs to.
    pub fn key(&self) -> &Key {
        &self.changed
    }

    /// Returns whether other instances could be notified; see [`Changed::is_propagated`]. After a
    /// rotation with a grace of zero, false means that they may accept the older secrets for a
    /// while.
    pub fn is_propagated(&self) -> bool {
        self.changed.is_propagated()
    }

    /// Takes the two apart.
    pub fn into_parts(self) -> (ApiKey, Key) {
        (self.secret, self.changed.into_key())
    }
}
