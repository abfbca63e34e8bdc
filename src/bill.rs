//! What a request is charged, by one layer or by several nested ones, and how it is taken back.

use std::iter;
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use crate::cache::CachedKey;
use crate::clock::{Moment, saturating_nanos};
use crate::credits::{Reserve, Reserved, Shortage};
use crate::denial::Denial;
use crate::limit::{
    Acquire, Charge, Decision, LimitReport, LimitSpace, Limiter, RateLimit, RateLimits, Standing,
    Subject,
};
use crate::requirements::{Cost, LayerId, LimitBy, Requirements};
use crate::verify::Admission;

/// What one layer charges for a request.
pub(crate) struct Bill {
    base: Base,
    route: RateLimits,
    cost: Cost,
    by: LimitBy,
    /// Whether its cost is charged to the key's credits as well, and which they were.
    pays: bool,
    credits: Reserved,
    /// When it was charged.
    at: Moment,
    /// True if nothing is charged, and the bill only says what would be.
    is_planned: bool,
    /// The layer that charges it.
    layer: LayerId,
    /// What the layers around this one charged for the same request.
    earlier: Option<Arc<Admission>>,
}

/// The limits that hold wherever the key is used.
enum Base {
    /// Those of the key.
    Own,
    /// Those of the layer, which may be none, for a key that has none of its own.
    Defaults(RateLimits),
}

impl Bill {
    /// What a route that asks for `needs` charges for `key`.
    #[inline]
    pub(crate) fn new(key: &CachedKey, needs: &Requirements, now: Moment) -> Self {
        let base = if key.limits.is_empty() {
            Base::Defaults(needs.default_limits.clone())
        } else {
            Base::Own
        };
        Self {
            base,
            route: needs.route_limits.clone(),
            cost: needs.cost,
            by: needs.limit_by,
            pays: true,
            credits: Reserved::default(),
            at: now,
            is_planned: false,
            layer: needs.layer,
            earlier: None,
        }
    }

    /// A bill for nothing.
    #[cfg(feature = "testing")]
    pub(crate) fn nothing(now: Moment) -> Self {
        Self {
            base: Base::Defaults(RateLimits::default()),
            route: RateLimits::default(),
            cost: Cost::default(),
            by: LimitBy::default(),
            pays: false,
            credits: Reserved::default(),
            at: now,
            is_planned: false,
            layer: LayerId::default(),
            earlier: None,
        }
    }

    /// The same bill as a plan: nothing of it is charged.
    pub(crate) fn planned(mut self) -> Self {
        self.is_planned = true;
        self
    }

    /// What a further layer charges on top of what was charged for `admission`. Where it names a
    /// cost of its own, that is charged to all its limits, and to the credits; otherwise only those
    /// are charged that no layer around has.
    pub(crate) fn on_top(admission: &Arc<Admission>, needs: &Requirements, now: Moment) -> Self {
        let key = &*admission.key;
        let mut bill = Self::new(key, needs, now);
        bill.earlier = Some(Arc::clone(admission));
        let names_cost = bill.charged().all(|earlier| earlier.cost != bill.cost);
        if needs.cost.is_named() && names_cost {
            return bill;
        }
        // A limit that counts for somebody else is another one.
        let by = subject(key, bill.by).id();
        let of_same = |earlier: &&Self| subject(key, earlier.by).id() == by;
        let charges_base = |earlier: &Self| !earlier.base(key).is_empty();
        if bill.charged().filter(of_same).any(charges_base) {
            bill.base = Base::Defaults(RateLimits::default());
        }
        let paid = bill.charged().any(|earlier| earlier.pays);
        bill.pays = !paid;
        let is_new = |limit: &&RateLimit| {
            let before = bill.charged().filter(of_same);
            let mut charged = before.flat_map(|earlier| &earlier.route);
            charged.all(|charged| charged != *limit)
        };
        if !bill.route.iter().all(|limit| is_new(&limit)) {
            bill.route = RateLimits::of(bill.route.iter().filter(is_new).cloned().collect());
        }
        bill
    }

    /// Takes the credits of this bill, which have to be [accepted](Self::accept_credits) and are
    /// [given back](Self::give_back_credits) when the rest of it cannot be charged.
    #[inline]
    pub(crate) fn reserve_credits(&self, key: &CachedKey) -> Reserve {
        let cost = if self.pays { self.cost.units() } else { 0 };
        key.funds.reserve(cost, self.at)
    }

    pub(crate) fn accept_credits(&mut self, reserved: Reserved) {
        self.credits = reserved;
    }

    /// Gives back the credits of this bill, without those before it.
    pub(crate) fn give_back_credits(&self, key: &CachedKey) {
        key.funds.release(self.cost.units(), self.credits);
    }

    /// The answer when too few credits remain, after what the bills before this one have taken.
    pub(crate) fn credits_exhausted(&self, shortage: &Shortage) -> Denial {
        let paying = self.charged().filter(|earlier| earlier.pays);
        let costs = paying.map(|earlier| earlier.cost.units());
        let whole = costs.fold(self.cost.units(), u64::saturating_add);
        let Shortage { refill, refills_at } = shortage;
        let never = refill.is_some_and(|refill| whole > refill.amount);
        let waits = refills_at.filter(|_| !never).map(|time| {
            let nanos = saturating_nanos(time).saturating_sub(self.at.wall_nanos());
            Duration::from_nanos(u64::try_from(nanos).unwrap_or(0))
        });
        Denial::credits_exhausted(waits, never)
    }

    pub(crate) fn time(&self) -> Moment {
        self.at
    }

    /// As if it were made at `now`, when it has had to wait.
    pub(crate) fn postpone(&mut self, now: Moment) {
        self.at = now;
    }

    /// Charges this bill, without those before it: all of it, or nothing.
    #[inline]
    pub(crate) fn charge(&self, key: &CachedKey, limiter: &Limiter) -> Acquire {
        let (subject, cost) = (subject(key, self.by), self.cost.units());
        match (self.base(key).as_slice(), self.route.as_slice()) {
            ([], []) => Acquire::Done(Ok(Decision::default())),
            // What most keys have need not be gathered.
            ([limit], []) => {
                let space = LimitSpace::Key;
                limiter.acquire(subject, &[Charge { limit, space, cost }], self.at)
            }
            _ => limiter.acquire(subject, &self.charges(key, cost), self.at),
        }
    }

    /// How it stands with the limits of this bill, without those before it, as far as is known.
    pub(crate) fn ask(&self, key: &CachedKey, limiter: &Limiter) -> LimitReport {
        let charges = self.charges(key, 0);
        let decision = limiter.foresee(subject(key, self.by), &charges, &[], self.at);
        self.standing(key, &decision).to_report()
    }

    /// What `decision`, which was made on this bill, says of its limits.
    #[inline]
    pub(crate) fn standing<'a>(
        &'a self,
        key: &'a CachedKey,
        decision: &'a Decision,
    ) -> Standing<'a> {
        Standing {
            base: self.base(key),
            route: &self.route,
            decision,
        }
    }

    /// Takes back what was charged by this bill, without those before it.
    pub(crate) fn take_back(&self, key: &CachedKey, limiter: &Limiter, now: Moment) {
        let charges = self.charges(key, self.cost.units());
        limiter.refund(subject(key, self.by), &charges, self.at, now);
        self.give_back_credits(key);
    }

    /// How it stands with the limits of this bill, which was not charged, and of those before it,
    /// which will be taken back unless they are only planned; and, for a request that is `over` one
    /// of them, when all of it would be admitted. The report is one of admission if it would be
    /// now.
    pub(crate) fn foresee(&self, key: &CachedKey, limiter: &Limiter, over: bool) -> LimitReport {
        let sums = self.sums(key);
        let foresee = |sum: &Sum<'_>, over| {
            let refunds: Vec<_> = self
                .charged()
                .filter(|bill| !bill.is_planned && subject(key, bill.by).id() == sum.subject.id())
                .flat_map(|bill| {
                    let charges = bill.charges(key, bill.cost.units()).into_iter();
                    charges.map(|charge| (charge, bill.at))
                })
                .collect();
            limiter.foresee(sum.subject, &sum.charges(over), &refunds, self.at)
        };
        let decisions = sums.iter().map(|sum| {
            let decision = foresee(sum, over);
            if over && decision.is_admitted() {
                // It is not over the limits of this subject, and not charged to them either.
                foresee(sum, false)
            } else {
                decision
            }
        });
        report(&sums, &decisions.collect::<Vec<_>>())
    }

    /// What all bills ask of each subject, each limit once.
    fn sums<'k>(&self, key: &'k CachedKey) -> Vec<Sum<'k>> {
        let mut sums: Vec<Sum<'k>> = Vec::new();
        let mut bills: SmallVec<[&Bill; 4]> = self.charged().collect();
        // Limits are told in the order of the layers, the outermost first.
        bills.reverse();
        bills.push(self);
        for bill in bills {
            let subject = subject(key, bill.by);
            let place = sums
                .iter()
                .position(|sum| sum.subject.id() == subject.id())
                .unwrap_or_else(|| {
                    sums.push(Sum::of(subject));
                    sums.len() - 1
                });
            for charge in bill.charges(key, bill.cost.units()) {
                sums[place].add(charge);
            }
        }
        sums
    }

    /// The number of layers around the one that charges this, and the outermost of all.
    pub(crate) fn position(&self) -> (usize, LayerId) {
        let outermost = self.charged().last().unwrap_or(self);
        (self.charged().count(), outermost.layer)
    }

    /// The bills before this one, the last one first.
    fn charged(&self) -> impl Iterator<Item = &Self> {
        iter::successors(self.before(), |bill| bill.before())
    }

    fn before(&self) -> Option<&Self> {
        self.earlier.as_ref().map(|admission| &admission.bill)
    }

    #[inline]
    fn base<'a>(&'a self, key: &'a CachedKey) -> &'a RateLimits {
        match &self.base {
            Base::Own => &key.limits,
            Base::Defaults(limits) => limits,
        }
    }

    #[inline]
    fn charges<'a>(&'a self, key: &'a CachedKey, cost: u64) -> SmallVec<[Charge<'a>; 2]> {
        let mut charges = SmallVec::new();
        let mut charge = |limits: &'a RateLimits, space| {
            for limit in limits {
                charges.push(Charge { limit, space, cost });
            }
        };
        charge(self.base(key), LimitSpace::Key);
        charge(&self.route, LimitSpace::Route);
        charges
    }
}

#[inline]
fn subject(key: &CachedKey, by: LimitBy) -> &Subject {
    match (by, &key.owner_subject) {
        (LimitBy::Owner, Some(owner)) => owner,
        _ => &key.key_subject,
    }
}

/// What several bills ask of one subject, each limit once.
struct Sum<'k> {
    subject: &'k Subject,
    lines: Vec<Line>,
}

struct Line {
    space: LimitSpace,
    limit: RateLimit,
    cost: u64,
}

impl<'k> Sum<'k> {
    fn of(subject: &'k Subject) -> Self {
        Self {
            subject,
            lines: Vec::new(),
        }
    }

    fn add(&mut self, charge: Charge<'_>) {
        let Charge { limit, space, cost } = charge;
        let known = |line: &&mut Line| line.space == space && line.limit == *limit;
        match self.lines.iter_mut().find(known) {
            Some(line) => line.cost = line.cost.saturating_add(cost),
            None => self.lines.push(Line {
                space,
                limit: limit.clone(),
                cost,
            }),
        }
    }

    /// The charges, or questions in their place.
    fn charges(&self, costs: bool) -> Vec<Charge<'_>> {
        self.lines
            .iter()
            .map(|line| Charge {
                limit: &line.limit,
                space: line.space,
                cost: if costs { line.cost } else { 0 },
            })
            .collect()
    }
}

fn report(sums: &[Sum<'_>], decisions: &[Decision]) -> LimitReport {
    let statuses = decisions.iter().flat_map(Decision::statuses);
    let lines = || sums.iter().flat_map(|sum| &sum.lines);
    let of = |space| lines().filter(move |line| line.space == space);
    let limits = |space| RateLimits::of(of(space).map(|line| line.limit.clone()).collect());
    // A report names the key's limits before the routes'.
    let told: Vec<_> = lines().zip(statuses).collect();
    let (of_key, of_route): (Vec<_>, Vec<_>) = told
        .into_iter()
        .partition(|(line, _)| line.space == LimitSpace::Key);
    let statuses = of_key
        .into_iter()
        .chain(of_route)
        .map(|(_, status)| *status);
    LimitReport::new(
        limits(LimitSpace::Key),
        limits(LimitSpace::Route),
        Decision::new(statuses.collect()),
    )
}
