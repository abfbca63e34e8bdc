//! Verification by a layer within another one of the same keys.

use std::sync::Arc;

use super::held::Held;
use super::policy::check_scopes;
use super::{Admission, Judgement, Origin, Parts, Verifier};
use crate::bill::Bill;
use crate::credits::{Refused, Reserve};
use crate::denial::Denial;
use crate::limit::{Acquire, Decision, LimiterOutage};
use crate::principal::KeyPrincipal;
use crate::requirements::Requirements;

impl Verifier {
    /// What a further layer of the same keys asks of a request that was verified already: its own
    /// scopes, kinds and environments, its own limits, and its own cost if it names one.
    ///
    /// When it refuses the request, the layers around it [withdraw](Self::withdraw) what they have
    /// charged, so the denial tells the limits as they are then.
    pub(crate) fn extend(&self, principal: &KeyPrincipal, needs: &Requirements) -> Judgement {
        let parts = &self.parts;
        let now = parts.clock.now();
        let key = principal.key();
        let mut bill = Bill::on_top(&principal.admission, needs, now);
        let denied = |denial: Denial| Judgement::Made(Err(denial.of_key(key)));
        if let Err(reason) = parts.check_kind(key, needs) {
            return denied(parts.fail(reason, Origin::default(), now));
        }
        if let Err(denial) = check_scopes(key, needs) {
            return denied(denial.with_limits(bill.foresee(key, &parts.limiter, false)));
        }
        match bill.reserve_credits(key) {
            Reserve::Done(Ok(reserved)) => {
                bill.accept_credits(reserved);
                parts.charge_on_top(principal, bill)
            }
            Reserve::Done(Err(refused)) => {
                Judgement::Made(Err(parts.without_credits_on_top(principal, &bill, refused)))
            }
            Reserve::Wait(reserved) => {
                let (parts, principal) = (Arc::clone(parts), principal.clone());
                Judgement::Pending(Box::pin(async move {
                    let reserved = reserved.await;
                    bill.postpone(parts.clock.now());
                    match reserved {
                        Ok(reserved) => bill.accept_credits(reserved),
                        Err(refused) => {
                            return Err(parts.without_credits_on_top(&principal, &bill, refused));
                        }
                    }
                    parts.charge_on_top(&principal, bill).made().await
                }))
            }
        }
    }

    /// Takes back what a layer has charged for a request that a nested one refused. The outermost
    /// layer also counts the request as refused, `after_all`.
    pub(crate) fn withdraw(&self, principal: &KeyPrincipal, after_all: bool) {
        let parts = &*self.parts;
        let (key, now) = (principal.key(), parts.clock.now());
        principal.admission.bill.take_back(key, &parts.limiter, now);
        if let (true, Some(usage)) = (after_all, &parts.usage) {
            usage.record_refusal_after_all(key, now);
        }
    }
}

impl Parts {
    /// Charges the limits, once the credits are there.
    fn charge_on_top(self: &Arc<Self>, principal: &KeyPrincipal, bill: Bill) -> Judgement {
        match bill.charge(principal.key(), &self.limiter) {
            Acquire::Done(decision) => {
                Judgement::Made(self.settle_on_top(principal, bill, decision))
            }
            Acquire::Wait(decision) => {
                let (parts, principal) = (Arc::clone(self), principal.clone());
                let held = Held::new(Arc::clone(principal.key()), bill);
                Judgement::Pending(Box::pin(async move {
                    let decision = decision.await;
                    let (_, bill) = held.release();
                    parts.settle_on_top(&principal, bill, decision)
                }))
            }
        }
    }

    fn without_credits_on_top(
        &self,
        principal: &KeyPrincipal,
        bill: &Bill,
        refused: Refused,
    ) -> Denial {
        let key = principal.key();
        let denial = self.not_paid(key, bill, refused);
        let denial = denial.with_limits(bill.foresee(key, &self.limiter, false));
        denial.of_key(key)
    }

    /// The last step: the limits decide.
    fn settle_on_top(
        &self,
        principal: &KeyPrincipal,
        bill: Bill,
        decision: Result<Decision, LimiterOutage>,
    ) -> Result<KeyPrincipal, Denial> {
        let key = principal.key();
        let denial = match decision {
            Ok(decision) if decision.is_admitted() => {
                return Ok(KeyPrincipal::new(Admission {
                    key: Arc::clone(key),
                    realm: self.realm,
                    bill,
                    decision,
                }));
            }
            Ok(decision) => {
                let whole = bill.foresee(key, &self.limiter, true);
                // Something was taken back meanwhile: then what was found at first is the reason.
                Denial::rate_limited(if whole.is_admitted() {
                    bill.standing(key, &decision).to_report()
                } else {
                    whole
                })
            }
            Err(outage) => {
                Denial::from(outage).with_limits(bill.foresee(key, &self.limiter, false))
            }
        };
        bill.give_back_credits(key);
        Err(denial.of_key(key))
    }
}
