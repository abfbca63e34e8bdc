//! The policy: what a key must be, and in which order it is asked.
//!
//! 1. The text has the format and a right checksum, or imported keys are accepted.
//! 2. The store knows its digest.
//! 3. The key is active at this moment, and so is the credential.
//! 4. Its kind (prefix) and its environment are accepted here, and it was not imported unless
//!    that is accepted.
//! 5. It may be used from the client's address.
//! 6. It has every scope that is required.
//! 7. Its limits, and those of the route, have room: all are charged, or none.
//!
//! Whatever fails at 1 to 4 is one and the same answer to the client. Nothing is charged before
//! the last step, so a refused request costs nothing.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::bill::Bill;
use crate::cache::{Cached, CachedKey, KeyCache};
use crate::clock::{Clock, Moment};
use crate::denial::{Denial, DenialReason};
use crate::failures::FailureLimiter;
use crate::invalidation::Publisher;
use crate::key::{Candidates, KeyDigest, KeyFormat, KeyHasher, MAX_KEY_LEN};
use crate::limit::{Decision, LimitReport, LocalLimiter, Standing};
use crate::principal::{KeyPrincipal, Realm};
use crate::record::{KeyId, KeyStatus};
use crate::requirements::Requirements;
use crate::usage::{Outcome, UsageRecorder};

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
    pub(crate) publisher: Option<Publisher>,
    pub(crate) limiter: LocalLimiter,
    pub(crate) failures: Option<FailureLimiter>,
    pub(crate) usage: Option<UsageRecorder>,
    pub(crate) realm: Realm,
}

/// What a client presents.
#[derive(Clone, Copy)]
pub struct Attempt<'a> {
    text: &'a [u8],
    address: Option<IpAddr>,
}

/// A request that was let through.
#[derive(Clone, Debug)]
pub struct Verified {
    principal: KeyPrincipal,
    limits: LimitReport,
}

/// As [`Verified`], but for the report, which is made when it is asked for.
pub(crate) struct Admission {
    pub(crate) principal: KeyPrincipal,
    /// How the limits stand that were charged: those of the principal's bill.
    pub(crate) decision: Decision,
}

/// How far verification came without waiting.
pub(crate) enum Step {
    /// To the key, at this moment: it has to be [judged](Verifier::judge).
    Found(Arc<CachedKey>, Moment),
    /// The store has to be asked for one of these.
    Lookup(Candidates),
    /// To the end.
    Refused(Denial),
}

impl Verifier {
    /// Decides on `attempt`, and charges the limits when the key is good.
    ///
    /// # Errors
    ///
    /// A [`Denial`] that says what to tell the client, and why.
    pub async fn verify(
        &self,
        attempt: Attempt<'_>,
        needs: &Requirements,
    ) -> Result<Verified, Denial> {
        let address = attempt.address;
        let outcome = match self.begin(attempt) {
            Step::Found(key, now) => self.judge(key, address, needs, now),
            Step::Lookup(candidates) => self.look_up(candidates, address, needs).await,
            Step::Refused(denial) => Err(denial),
        };
        outcome.map(Verified::from)
    }

    /// As far as it goes without waiting, and without moving more than a key in the cache takes.
    pub(crate) fn begin(&self, attempt: Attempt<'_>) -> Step {
        let parts = &*self.parts;
        let now = parts.clock.now();
        let refuse = |reason| Step::Refused(parts.fail(reason, attempt.address, now));
        let Some(candidates) = parts.recognize(attempt.text) else {
            return refuse(DenialReason::Malformed);
        };
        let mut absent = false;
        for digest in &candidates {
            match parts.cache.get(digest, now) {
                // Whatever is known of the others: a text is one key.
                Cached::Hit(key) => return Step::Found(key, now),
                Cached::Absent => absent = true,
                Cached::Unknown => {}
            }
        }
        if !absent {
            return refuse(DenialReason::Unknown);
        }
        match parts.blocked(attempt.address, now) {
            Some(denial) => Step::Refused(denial),
            None => Step::Lookup(candidates),
        }
    }

    /// The rest of the way, for a key that was found at `now`.
    pub(crate) fn judge(
        &self,
        key: Arc<CachedKey>,
        address: Option<IpAddr>,
        needs: &Requirements,
        now: Moment,
    ) -> Result<Admission, Denial> {
        self.parts.judge(key, address, needs, now)
    }

    /// The rest of the way, for a key that the cache does not know.
    pub(crate) async fn look_up(
        &self,
        candidates: Candidates,
        address: Option<IpAddr>,
        needs: &Requirements,
    ) -> Result<Admission, Denial> {
        let parts = &*self.parts;
        for digest in &candidates {
            let loaded = parts.cache.load(digest).await;
            // Time has passed while the store was asked, and the key may have ended in it.
            let now = parts.clock.now();
            let key = loaded.or_else(|outage| {
                let mut before = candidates
                    .iter()
                    .filter_map(|digest| parts.cache.usable(digest, now));
                before.next().map(Some).ok_or(outage)
            })?;
            if let Some(key) = key {
                return parts.judge(key, address, needs, now);
            }
        }
        Err(parts.fail(DenialReason::Unknown, address, parts.clock.now()))
    }

    /// What a further layer of the same keys asks of a request that was verified already: its own
    /// scopes, kinds and environments, its own limits, and its own cost if it names one.
    ///
    /// When it refuses the request, the layers around it [withdraw](Self::withdraw) what they have
    /// charged, so the denial tells the limits as they are then.
    pub(crate) fn extend(
        &self,
        principal: &KeyPrincipal,
        needs: &Requirements,
    ) -> Result<Admission, Denial> {
        let parts = &*self.parts;
        let now = parts.clock.now();
        let key = &principal.key;
        let of_key = |denial: Denial| denial.of_key(key.record.id);
        let bill = principal.bill.on_top(key, needs, now);
        parts
            .check_kind(key, needs)
            .map_err(|reason| of_key(parts.fail(reason, None, now)))?;
        check_scopes(key, needs).map_err(|denial| {
            of_key(denial).with_limits(bill.foresee(key, &parts.limiter, false))
        })?;
        let decision = bill.charge(key, &parts.limiter);
        if !decision.is_admitted() {
            let whole = bill.foresee(key, &parts.limiter, true);
            // Something was taken back meanwhile: then what was found at first is the reason.
            let limits = if whole.is_admitted() {
                bill.standing(key, &decision).to_report()
            } else {
                whole
            };
            return Err(of_key(Denial::rate_limited(limits)));
        }
        let principal = principal.with_bill(bill);
        Ok(Admission {
            principal,
            decision,
        })
    }

    /// Takes back what a layer has charged for a request that a nested one refused. The outermost
    /// layer also counts the request as refused, `after_all`.
    pub(crate) fn withdraw(&self, principal: &KeyPrincipal, after_all: bool) {
        let parts = &*self.parts;
        let (key, now) = (&principal.key, parts.clock.now());
        principal.bill.take_back(key, &parts.limiter, now);
        if let (true, Some(usage)) = (after_all, &parts.usage) {
            usage.record_refusal_after_all(&key.usage, now);
        }
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
    pub(crate) fn refuse_text(&self, reason: DenialReason, address: Option<IpAddr>) -> Denial {
        self.parts.fail(reason, address, self.parts.clock.now())
    }

    /// What the keys look like.
    pub fn format(&self) -> &KeyFormat {
        &self.parts.format
    }

    pub(crate) fn realm(&self) -> Realm {
        self.parts.realm
    }
}

impl Parts {
    /// The digests to look for, if the text can be a key at all.
    fn recognize(&self, text: &[u8]) -> Option<Candidates> {
        if text.is_empty() || text.len() > MAX_KEY_LEN {
            return None;
        }
        if self.format.matches(text) {
            // An imported key may have the format too, and is stored without a pepper.
            Some(self.hasher.candidates(text, self.accept_imported))
        } else if self.accept_imported && text.iter().all(u8::is_ascii_graphic) {
            Some(SmallVec::from_buf([KeyDigest::sha256_of(text)]))
        } else {
            None
        }
    }

    /// Decides on a key that was found, and counts the request.
    fn judge(
        &self,
        key: Arc<CachedKey>,
        address: Option<IpAddr>,
        needs: &Requirements,
        now: Moment,
    ) -> Result<Admission, Denial> {
        if let Err(reason) = self
            .check_status(&key, now)
            .and_then(|()| self.check_kind(&key, needs))
        {
            self.count(&key, Outcome::NotValid, now);
            return Err(self.fail(reason, address, now).of_key(key.record.id));
        }
        let bill = Bill::new(&key, needs, now);
        let refuse = |denial: Denial| {
            self.count(&key, Outcome::Refused, now);
            Err(denial.of_key(key.record.id))
        };
        if let Err(denial) = check_address(&key, address).and_then(|()| check_scopes(&key, needs)) {
            // The answer to a verified key tells its limits, also where nothing is charged.
            return refuse(denial.with_limits(bill.ask(&key, &self.limiter)));
        }
        let decision = bill.charge(&key, &self.limiter);
        if !decision.is_admitted() {
            let limits = bill.standing(&key, &decision).to_report();
            return refuse(Denial::rate_limited(limits));
        }
        self.count(&key, Outcome::Allowed, now);
        let principal = KeyPrincipal::new(key, self.realm, bill);
        Ok(Admission {
            principal,
            decision,
        })
    }

    fn check_status(&self, key: &CachedKey, now: Moment) -> Result<(), DenialReason> {
        match key.status(now) {
            KeyStatus::Active if key.credential.imported && !self.accept_imported => {
                Err(DenialReason::Imported)
            }
            KeyStatus::Active => Ok(()),
            KeyStatus::Disabled => Err(DenialReason::Disabled),
            KeyStatus::Expired => Err(DenialReason::Expired),
            KeyStatus::Revoked => Err(DenialReason::Revoked),
        }
    }

    fn check_kind(&self, key: &CachedKey, needs: &Requirements) -> Result<(), DenialReason> {
        let (prefix, environment) = (&*key.record.prefix, &*key.record.environment);
        if prefix != self.format.default_prefix()
            && !needs.prefixes.iter().any(|accepted| **accepted == *prefix)
        {
            return Err(DenialReason::Prefix);
        }
        if !needs.environments.is_empty()
            && !needs
                .environments
                .iter()
                .any(|accepted| **accepted == *environment)
        {
            return Err(DenialReason::Environment);
        }
        Ok(())
    }

    /// The answer to a bad credential: one more failure of its address, and more of them than are
    /// allowed is another answer.
    fn fail(&self, reason: DenialReason, address: Option<IpAddr>, now: Moment) -> Denial {
        let failures = self.failures.as_ref().zip(address);
        failures
            .and_then(|(failures, address)| failures.record(address, now))
            .map_or_else(|| Denial::invalid_key(reason), Denial::too_many_failures)
    }

    /// The answer to an unknown key from an address with too many failures already.
    fn blocked(&self, address: Option<IpAddr>, now: Moment) -> Option<Denial> {
        let (failures, address) = self.failures.as_ref().zip(address)?;
        failures
            .blocked_for(address, now)
            .map(Denial::too_many_failures)
    }

    fn count(&self, key: &CachedKey, outcome: Outcome, now: Moment) {
        if let Some(usage) = &self.usage {
            usage.record(&key.usage, outcome, now);
        }
    }
}

fn check_address(key: &CachedKey, address: Option<IpAddr>) -> Result<(), Denial> {
    let allowed = &key.record.allowed_addresses;
    let fits = |address: IpAddr| allowed.iter().any(|network| network.contains(&address));
    if allowed.is_empty() || address.is_some_and(|address| fits(address.to_canonical())) {
        Ok(())
    } else {
        Err(Denial::address_not_allowed())
    }
}

fn check_scopes(key: &CachedKey, needs: &Requirements) -> Result<(), Denial> {
    if needs
        .scopes
        .iter()
        .all(|scope| key.record.scopes.covers(scope))
    {
        Ok(())
    } else {
        Err(Denial::insufficient_scope(needs.scopes.iter().cloned()))
    }
}

impl<'a> Attempt<'a> {
    /// The text of a key, from a client whose address is not known. A key with
    /// `allowed_addresses` is refused.
    pub fn new(text: &'a str) -> Self {
        Self::of_bytes(text.as_bytes())
    }

    /// As [`Attempt::new`], for bytes that may not even be a text.
    pub(crate) fn of_bytes(text: &'a [u8]) -> Self {
        Self {
            text,
            address: None,
        }
    }

    /// Sets the client's address.
    pub fn from_address(mut self, address: impl Into<Option<IpAddr>>) -> Self {
        self.address = address.into();
        self
    }
}

impl fmt::Debug for Attempt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attempt")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Verified {
    /// The key behind the request.
    pub fn principal(&self) -> &KeyPrincipal {
        &self.principal
    }

    /// The limits that were charged, and what is left.
    pub fn limits(&self) -> &LimitReport {
        &self.limits
    }

    /// Takes the two apart.
    pub fn into_parts(self) -> (KeyPrincipal, LimitReport) {
        (self.principal, self.limits)
    }
}

impl From<Admission> for Verified {
    fn from(admission: Admission) -> Self {
        let limits = admission.standing().to_report();
        Self {
            principal: admission.principal,
            limits,
        }
    }
}

impl Admission {
    /// What is left of the limits that were charged.
    #[inline]
    pub(crate) fn standing(&self) -> Standing<'_> {
        let KeyPrincipal { key, bill, .. } = &self.principal;
        bill.standing(key, &self.decision)
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
