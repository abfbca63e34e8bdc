use std::error::Error;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::{BusError, Invalidation, InvalidationBus, Subscription};
use crate::cache::KeyCache;
use crate::telemetry;

/// What a bus is to an instance that has several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Its word is heard, and its silence means nothing.
    Beside,
    /// Its silence means that nothing can be trusted.
    Trusted,
}

#[cfg(feature = "metrics")]
impl Role {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Beside => "beside",
            Self::Trusted => "trusted",
        }
    }
}

/// Listens to `bus` for as long as the cache is there.
pub(crate) async fn listen(bus: Arc<dyn InvalidationBus>, cache: Weak<KeyCache>, role: Role) {
    let mut pause = FIRST_PAUSE;
    let mut was_reached = true;
    while let Some(silence) = max_silence(&cache) {
        match timeout(silence, bus.subscribe()).await {
            Ok(Ok(subscription)) => {
                was_reached = true;
                telemetry::bus_up(role, true);
                let began = Instant::now();
                let Err(error) = follow(subscription, &cache, role, silence).await else {
                    return;
                };
                // Each subscription has all keys read again, so one that ends at once is no reason to hurry.
                if began.elapsed() >= LAST_PAUSE {
                    pause = FIRST_PAUSE;
                }
                telemetry::bus_up(role, false);
                tracing::warn!(
                    error = &error as &dyn Error,
                    "the invalidation bus is lost and will be subscribed to again"
                );
            }
            Ok(Err(error)) if was_reached => was_reached = tell_unreached(&error, role, silence),
            Err(_) if was_reached => was_reached = tell_unreached(&timed_out(), role, silence),
            Ok(Err(_)) | Err(_) => {}
        }
        sleep(pause).await;
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LAST_PAUSE: Duration = Duration::from_secs(1);
/// How many proofs are asked for in the time that the bus may be silent: so one that is late, or
/// a scheduler that is busy, does not cut an instance off.
const PROOFS: u32 = 4;

/// Ends without an error when the cache is gone.
async fn follow(
    mut subscription: Box<dyn Subscription>,
    cache: &Weak<KeyCache>,
    role: Role,
    silence: Duration,
) -> Result<(), BusError> {
    let Some(known) = cache.upgrade() else {
        return Ok(());
    };
    // After the subscription has begun: what changed before is read again, and what changes from
    // now on arrives. What a secondary bus has missed, the trusted one has delivered.
    if role == Role::Trusted {
        known.read_all_again();
        known.trust_since(known.now());
    }
    drop(known);
    tracing::info!("the invalidation bus is subscribed to");
    let mut until = Instant::now() + silence / PROOFS;
    while let Some(asked_at) = cache.upgrade().map(|cache| cache.now()) {
        let heard = timeout(silence, subscription.next(until)).await;
        let heard = heard.unwrap_or_else(|_| Err(timed_out()))?;
        let Some(cache) = cache.upgrade() else {
            break;
        };
        telemetry::bus_told(role, heard.is_none().then(|| until.elapsed()));
        match heard {
            Some(Invalidation::Everything) => cache.invalidate_all(),
            Some(Invalidation::Key { id, digests }) => cache.invalidate(id, &digests),
            None => {
                if role == Role::Trusted {
                    cache.trust_since(asked_at);
                }
                until = Instant::now() + silence / PROOFS;
            }
        }
    }
    Ok(())
}

fn max_silence(cache: &Weak<KeyCache>) -> Option<Duration> {
    cache.upgrade().map(|cache| cache.max_bus_silence())
}

/// Once for each time that it is lost. The new value of `was_reached`.
fn tell_unreached(error: &BusError, role: Role, silence: Duration) -> bool {
    telemetry::bus_up(role, false);
    let error = error as &dyn Error;
    match role {
        Role::Beside => tracing::warn!(
            error,
            "an invalidation bus cannot be reached: what other instances change is told by the \
             first one only"
        ),
        Role::Trusted => tracing::error!(
            error,
            "the invalidation bus cannot be reached: what other instances change is noticed within \
             {silence:?}, by asking the key store for every key that often"
        ),
    }
    false
}

fn timed_out() -> BusError {
    BusError::new("it does not answer")
}
