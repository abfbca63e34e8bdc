//! The policy, in code: [`Parts::judge`] and the checks that it makes, in their order.

use std::net::IpAddr;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use smallvec::SmallVec;

use super::held::Held;
use super::{Admission, FindOrigin, Judgement, Origin, Parts};
use crate::bill::Bill;
use crate::cache::CachedKey;
use crate::clock::Moment;
use crate::credits::{CreditOutage, Refused, Reserve, Reserved};
use crate::denial::{Denial, DenialReason};
use crate::key::{Candidates, KeyDigest};
use crate::limit::{Acquire, Decision, LimiterOutage};
use crate::principal::KeyPrincipal;
use crate::record::KeyStatus;
use crate::requirements::Requirements;
use crate::telemetry::{self, Path};
use crate::usage::Outcome;

impl Parts {
    /// The digests to look for, if the text can be a key at all.
    pub(super) fn recognize(&self, text: &[u8]) -> Option<Candidates> {
        if self.format.matches(text) {
            // An imported key may have the format too, and is stored without a pepper.
            Some(self.hasher.candidates(text, self.accept_imported))
        } else if self.accept_imported && !text.is_empty() && text.iter().all(u8::is_ascii_graphic)
        {
            Some(SmallVec::from_buf([KeyDigest::sha256_of(text)]))
        } else {
            None
        }
    }

    /// Decides on a key that was found, and counts the request.
    #[inline]
    pub(super) fn judge(
        self: &Arc<Self>,
        key: Arc<CachedKey>,
        origin: FindOrigin<'_>,
        needs: &Requirements,
        now: Moment,
    ) -> Judgement {
        let valid = self.check_status(&key, now);
        if let Err(reason) = valid.and_then(|()| self.check_kind(&key, needs)) {
            return Judgement::Made(Err(self.not_valid(&key, reason, origin(), now)));
        }
        let mut bill = Bill::new(&key, needs, now);
        if let Err(denial) = check_address(&key, origin).and_then(|()| check_scopes(&key, needs)) {
            // The answer to a verified key tells its limits, also where nothing is charged.
            let denial = denial.with_limits(bill.ask(&key, &self.limiter));
            return Judgement::Made(Err(self.refused(&key, denial, now)));
        }
        match bill.reserve_credits(&key) {
            Reserve::Done(Ok(reserved)) => {
                bill.accept_credits(reserved);
                self.charge(key, bill, origin, now)
            }
            Reserve::Done(Err(refused)) => {
                Judgement::Made(Err(self.without_credits(&key, &bill, refused, now)))
            }
            Reserve::Wait(reserved) => {
                let (parts, origin) = (Arc::clone(self), origin());
                Judgement::Pending(Box::pin(async move {
                    parts.judge_late(key, bill, reserved, origin).await
                }))
            }
        }
    }

    /// Charges the limits, once the credits are there.
    #[inline]
    fn charge(
        self: &Arc<Self>,
        key: Arc<CachedKey>,
        bill: Bill,
        origin: FindOrigin<'_>,
        now: Moment,
    ) -> Judgement {
        match bill.charge(&key, &self.limiter) {
            Acquire::Done(decision) => Judgement::Made(self.settle(key, bill, decision, now)),
            Acquire::Wait(decision) => {
                let (parts, held, origin) = (Arc::clone(self), Held::new(key, bill), origin());
                Judgement::Pending(Box::pin(async move {
                    let decision = decision.await;
                    parts.measure(Path::Limiter, now);
                    let (key, bill) = held.release();
                    parts.settle_late(key, bill, decision, origin)
                }))
            }
        }
    }

    /// The rest of the way after credits had to be asked for: the key may have ended in that time.
    async fn judge_late(
        self: Arc<Self>,
        key: Arc<CachedKey>,
        mut bill: Bill,
        reserved: BoxFuture<'static, Result<Reserved, Refused>>,
        origin: Origin,
    ) -> Result<KeyPrincipal, Denial> {
        let began = bill.time();
        let reserved = reserved.await;
        let now = self.clock.now();
        self.measure(Path::Store, began);
        bill.postpone(now);
        if let Ok(reserved) = reserved {
            bill.accept_credits(reserved);
        }
        if let Err(reason) = self.check_status(&key, now) {
            bill.give_back_credits(&key);
            return Err(self.not_valid(&key, reason, origin, now));
        }
        if let Err(refused) = reserved {
            return Err(self.without_credits(&key, &bill, refused, now));
        }
        self.charge(key, bill, &|| origin, now).made().await
    }

    /// The answer to a good key that has too few credits, as far as is known.
    #[cold]
    fn without_credits(
        &self,
        key: &Arc<CachedKey>,
        bill: &Bill,
        refused: Refused,
        now: Moment,
    ) -> Denial {
        let denial = self.not_paid(key, bill, refused);
        let denial = denial.with_limits(bill.ask(key, &self.limiter));
        self.refused(key, denial, now)
    }

    pub(super) fn not_paid(&self, key: &CachedKey, bill: &Bill, refused: Refused) -> Denial {
        match refused {
            Refused::Short(shortage) => bill.credits_exhausted(&shortage),
            Refused::Outage(outage) => {
                // What is remembered of the key is old; the next request looks it up.
                if matches!(outage, CreditOutage::NoBudget) {
                    self.cache.invalidate(key.record.id, &[]);
                }
                outage.into()
            }
        }
    }

    /// The last step: the limits decide.
    #[inline]
    fn settle(
        &self,
        key: Arc<CachedKey>,
        bill: Bill,
        decision: Result<Decision, LimiterOutage>,
        now: Moment,
    ) -> Result<KeyPrincipal, Denial> {
        let denial = match decision {
            Ok(decision) if decision.is_admitted() => {
                self.count(&key, Outcome::Allowed, now);
                telemetry::allowed();
                return Ok(KeyPrincipal::new(Admission {
                    key,
                    realm: self.realm,
                    bill,
                    decision,
                }));
            }
            Ok(decision) => Denial::rate_limited(bill.standing(&key, &decision).to_report()),
            Err(outage) => Denial::from(outage).with_limits(bill.ask(&key, &self.limiter)),
        };
        bill.give_back_credits(&key);
        Err(self.refused(&key, denial, now))
    }

    /// The same after the limiter was waited for: the key may have ended in that time.
    fn settle_late(
        &self,
        key: Arc<CachedKey>,
        bill: Bill,
        decision: Result<Decision, LimiterOutage>,
        origin: Origin,
    ) -> Result<KeyPrincipal, Denial> {
        let now = self.clock.now();
        if let Err(reason) = self.check_status(&key, now) {
            if decision.is_ok_and(|decision| decision.is_admitted()) {
                bill.take_back(&key, &self.limiter, now);
            } else {
                bill.give_back_credits(&key);
            }
            return Err(self.not_valid(&key, reason, origin, now));
        }
        self.settle(key, bill, decision, now)
    }

    #[inline]
    pub(super) fn check_status(&self, key: &CachedKey, now: Moment) -> Result<(), DenialReason> {
        match key.status(now) {
            KeyStatus::Active if key.is_imported && !self.accept_imported => {
                Err(DenialReason::Imported)
            }
            KeyStatus::Active => Ok(()),
            KeyStatus::Disabled => Err(DenialReason::Disabled),
            KeyStatus::Expired => Err(DenialReason::Expired),
            KeyStatus::Revoked => Err(DenialReason::Revoked),
        }
    }

    #[inline]
    pub(super) fn check_kind(
        &self,
        key: &CachedKey,
        needs: &Requirements,
    ) -> Result<(), DenialReason> {
        if key.met.is(needs.demand) {
            return Ok(());
        }
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
    pub(super) fn fail(&self, reason: DenialReason, origin: Origin, now: Moment) -> Denial {
        let failures = self.failures.as_ref().zip(origin.accountable);
        failures
            .and_then(|(failures, address)| failures.record(address, now))
            .map_or_else(|| Denial::invalid_key(reason), Denial::too_many_failures)
    }

    /// The answer to an unknown key from an address with too many failures already.
    pub(super) fn blocked(&self, origin: Origin, now: Moment) -> Option<Denial> {
        let (failures, address) = self.failures.as_ref().zip(origin.accountable)?;
        failures
            .blocked_for(address, now)
            .map(Denial::too_many_failures)
    }

    /// The answer to a stored credential that has ended or is not accepted here.
    #[cold]
    fn not_valid(
        &self,
        key: &Arc<CachedKey>,
        reason: DenialReason,
        origin: Origin,
        now: Moment,
    ) -> Denial {
        self.count(key, Outcome::NotValid, now);
        self.fail(reason, origin, now).of_key(key)
    }

    /// The answer to a good key that may not do this.
    #[cold]
    fn refused(&self, key: &Arc<CachedKey>, denial: Denial, now: Moment) -> Denial {
        self.count(key, Outcome::Refused, now);
        denial.of_key(key)
    }

    #[inline]
    fn count(&self, key: &Arc<CachedKey>, outcome: Outcome, now: Moment) {
        if let Some(usage) = &self.usage {
            usage.record(key, outcome, now);
        }
    }
}

#[inline]
pub(super) fn check_address(key: &CachedKey, origin: FindOrigin<'_>) -> Result<(), Denial> {
    let allowed = &key.record.allowed_addresses;
    let fits = |address: IpAddr| {
        let address = address.to_canonical();
        allowed.iter().any(|network| network.contains(&address))
    };
    if key.is_usable_anywhere || origin().address.is_some_and(fits) {
        Ok(())
    } else {
        Err(Denial::address_not_allowed())
    }
}

/// For a key whose kind is [accepted](Parts::check_kind). Neither its kind nor its scopes change
/// while it is in the cache, so that both are good is remembered.
#[inline]
pub(super) fn check_scopes(key: &CachedKey, needs: &Requirements) -> Result<(), Denial> {
    if key.met.is(needs.demand) {
        return Ok(());
    }
    let granted = &key.record.scopes;
    if needs.scopes.iter().all(|scope| granted.covers(scope)) {
        key.met.note(needs.demand);
        Ok(())
    } else {
        Err(Denial::insufficient_scope(needs.scopes.iter().cloned()))
    }
}
