//! The policy: what a key must be, and in which order it is asked.
//!
//! 1. The text has the format and a right checksum, or imported keys are accepted.
//! 2. The store knows its digest.
//! 3. The key is active at this moment, and so is the credential.
//! 4. Its kind (prefix) and its environment are accepted here, and it was not imported unless
//!    that is accepted.
//! 5. It may be used from the client's address.
//! 6. It has every scope that is required.
//! 7. It has credits left, if it needs any. They are set aside, and given back when anything that
//!    follows refuses the request.
//! 8. Its limits, and those of the route, have room: all are charged, or none.
//!
//! Whatever fails at 1 to 4 is one and the same answer to the client. Nothing is charged before
//! the last two steps, so a refused request costs nothing.

#[cfg(feature = "admin")]
mod acting;
mod attempt;
mod exposed;
mod held;
mod inner;
mod nested;
mod policy;

use std::fmt;
use std::sync::Arc;

use futures_util::future::BoxFuture;

#[cfg(feature = "admin")]
pub(crate) use acting::ActingKey;
pub(crate) use attempt::{Admission, Origin};
pub use attempt::{Attempt, Verified};
pub(crate) use inner::InnerLayers;

use crate::cache::{Cached, CachedKey, Fingerprint, KeyCache, Sought};
use crate::clock::{Clock, Moment};
use crate::credits::Accounts;
use crate::denial::{Denial, DenialReason};
use crate::failures::FailureLimiter;
use crate::invalidation::Publisher;
use crate::key::{Candidates, KeyFormat, KeyHasher, MAX_KEY_LEN};
use crate::limit::Limiter;
use crate::principal::{KeyPrincipal, Realm};
use crate::record::KeyId;
use crate::requirements::Requirements;
use crate::telemetry::{self, LogBudgets, Path};
use crate::usage::UsageRecorder;

/// Decides whether a key is good for a request. Knows no HTTP: a gRPC service, a WebSocket hub or
/// a job can ask it as the middleware does. Cloning costs a reference count.
#[derive(Clone)]
pub struct Verifier {
    pub(crate) parts: Arc<Parts>,
}

/// What a verifier is made of.
pub(crate) struct Parts {
    pub(crate) format: KeyFormat,
    pub(crate) hasher: KeyHasher,
    pub(crate) accept_imported: bool,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) cache: Arc<KeyCache>,
    pub(crate) publishers: Vec<Publisher>,
    pub(crate) limiter: Limiter,
    pub(crate) failures: Option<FailureLimiter>,
    pub(crate) usage: Option<UsageRecorder>,
    pub(crate) accounts: Option<Arc<Accounts>>,
    pub(crate) realm: Realm,
    pub(crate) log_budgets: LogBudgets,
    pub(crate) inner_layers: InnerLayers,
}

/// Finds where a request comes from: few requests are asked for it.
pub(crate) type FindOrigin<'a> = &'a dyn Fn() -> Origin;

/// How far verification came without waiting.
pub(crate) enum Step {
    /// To the key, at this moment: it has to be [judged](Verifier::judge).
    Found(Arc<CachedKey>, Moment),
    /// The store has to be asked.
    Lookup(Lookup),
    /// To the end.
    Refused(Denial),
}

/// What the store has to be asked for.
pub(crate) struct Lookup {
    fingerprint: Fingerprint,
    /// One of these.
    candidates: Candidates,
}

/// What comes of a key that was found.
pub(crate) enum Judgement {
    /// This.
    Made(Result<KeyPrincipal, Denial>),
    /// What the store says of credits, or the limiter, which has to be waited for.
    Pending(BoxFuture<'static, Result<KeyPrincipal, Denial>>),
}

impl Verifier {
    /// Decides on `attempt`, and charges the credits and the limits when the key is good.
    ///
    /// # Errors
    ///
    /// A [`Denial`] that says what to tell the client, and why.
    pub async fn verify(
        &self,
        attempt: Attempt<'_>,
        needs: &Requirements,
    ) -> Result<Verified, Denial> {
        let Attempt { text, address } = attempt;
        let origin = Origin::from(address);
        let outcome = match self.begin(text, &|| origin) {
            Step::Found(key, now) => self.judge(key, &|| origin, needs, now).made().await,
            Step::Lookup(lookup) => self.look_up(lookup, origin, needs).await,
            Step::Refused(denial) => Err(denial),
        };
        outcome
            .map(Verified::from)
            .inspect_err(|denial| self.tell_of(denial))
    }

    /// Tells logs and metrics of a request that was refused.
    pub(crate) fn tell_of(&self, denial: &Denial) {
        self.log(|budgets, now| telemetry::denied(denial, budgets, now));
    }

    /// Lets `write` log, within this verifier's budgets.
    pub(crate) fn log(&self, write: impl FnOnce(&LogBudgets, Moment)) {
        write(&self.parts.log_budgets, self.parts.clock.now());
    }

    /// As far as it goes without waiting, and without moving more than a key in the cache takes.
    #[inline]
    pub(crate) fn begin(&self, text: &[u8], origin: FindOrigin<'_>) -> Step {
        let parts = &*self.parts;
        let now = parts.clock.now();
        if text.len() > MAX_KEY_LEN {
            return Step::Refused(parts.fail(DenialReason::Malformed, origin(), now));
        }
        let fingerprint = parts.cache.fingerprint(text);
        match parts.cache.recall(&fingerprint, now) {
            Some(key) => {
                telemetry::cache_hit();
                Step::Found(key, now)
            }
            None => parts.seek(fingerprint, text, origin, now),
        }
    }

    /// The rest of the way, for a key that was found at `now`.
    #[inline]
    pub(crate) fn judge(
        &self,
        key: Arc<CachedKey>,
        origin: FindOrigin<'_>,
        needs: &Requirements,
        now: Moment,
    ) -> Judgement {
        let judgement = self.parts.judge(key, origin, needs, now);
        // To read the clock again costs as much as much else on this way.
        if (now.monotonic_nanos() >> 8).is_multiple_of(64) {
            self.parts.measure(Path::Cache, now);
        }
        judgement
    }

    /// The rest of the way, for a key that the cache does not know.
    pub(crate) async fn look_up(
        &self,
        lookup: Lookup,
        origin: Origin,
        needs: &Requirements,
    ) -> Result<KeyPrincipal, Denial> {
        let parts = &self.parts;
        let began = parts.clock.now();
        for sought in lookup.all() {
            let loaded = parts.cache.load(&sought).await;
            // Time has passed while the store was asked, and the key may have ended in it.
            let now = parts.clock.now();
            parts.measure(Path::Store, began);
            let key = loaded.or_else(|outage| {
                let usable = |sought| parts.cache.usable(&sought, &outage, now);
                let before = lookup.all().find_map(usable);
                before.map(Some).ok_or(outage)
            })?;
            if let Some(key) = key {
                return parts.judge(key, &|| origin, needs, now).made().await;
            }
        }
        Err(parts.fail(DenialReason::Unknown, origin, parts.clock.now()))
    }

    /// Makes sure that no verification which starts from now on sees what was stored of this key
    /// before now. The write side does it by itself; call it after a change made elsewhere.
    pub fn invalidate(&self, id: KeyId) {
        self.parts.cache.invalidate(id, &[]);
    }

    /// Makes sure that no verification which starts from now on sees anything that was stored
    /// before now.
    pub fn invalidate_all(&self) {
        self.parts.cache.invalidate_all();
    }

    /// The answer to a text that is not even looked at.
    pub(crate) fn refuse_text(&self, reason: DenialReason, origin: Origin) -> Denial {
        self.parts.fail(reason, origin, self.parts.clock.now())
    }

    /// What the keys look like.
    pub fn format(&self) -> &KeyFormat {
        &self.parts.format
    }

    #[inline]
    pub(crate) fn realm(&self) -> Realm {
        self.parts.realm
    }
}

impl Parts {
    /// Tells how long a verification took that `began` then.
    #[inline]
    fn measure(&self, path: Path, began: Moment) {
        if cfg!(feature = "metrics") {
            let took = self
                .clock
                .now()
                .monotonic()
                .saturating_sub(began.monotonic());
            telemetry::verified_in(took, path);
        }
    }

    /// As [`Verifier::begin`], for a text that is not one of the hottest keys.
    #[inline(never)]
    fn seek(
        &self,
        fingerprint: Fingerprint,
        text: &[u8],
        origin: FindOrigin<'_>,
        now: Moment,
    ) -> Step {
        let refuse = |reason| Step::Refused(self.fail(reason, origin(), now));
        let Some(candidates) = self.recognize(text) else {
            return refuse(DenialReason::Malformed);
        };
        let lookup = Lookup {
            fingerprint,
            candidates,
        };
        let mut absent = false;
        for sought in lookup.all() {
            let cached = self.cache.get(&sought, now);
            telemetry::cache_looked_up(&cached);
            match cached {
                // Whatever is known of the others: a text is one key.
                Cached::Hit(key) => return Step::Found(key, now),
                Cached::Absent => absent = true,
                Cached::Unknown => {}
            }
        }
        if !absent {
            return refuse(DenialReason::Unknown);
        }
        match self.blocked(origin(), now) {
            Some(denial) => Step::Refused(denial),
            None => Step::Lookup(lookup),
        }
    }
}

impl Lookup {
    fn all(&self) -> impl Iterator<Item = Sought> {
        let fingerprint = self.fingerprint;
        self.candidates.iter().map(move |&digest| Sought {
            fingerprint,
            digest,
        })
    }
}

impl Judgement {
    pub(super) async fn made(self) -> Result<KeyPrincipal, Denial> {
        match self {
            Self::Made(outcome) => outcome,
            Self::Pending(outcome) => outcome.await,
        }
    }
}

impl AsRef<Verifier> for Verifier {
    fn as_ref(&self) -> &Verifier {
        self
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier")
            .field("format", &self.parts.format)
            .field("hasher", &self.parts.hasher)
            .field("cache", &self.parts.cache)
            .finish_non_exhaustive()
    }
}
