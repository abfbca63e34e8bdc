use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::limit::{RateLimit, RateLimits};
use crate::scope::Scope;

/// What a route asks of a key: scopes, kinds, environments, and what the request costs.
///
/// `ApiKeyLayer` has the same methods and carries one of these; other callers of
/// [`Verifier::verify`](crate::Verifier::verify) make it once and keep it.
///
/// ```
/// use tower_api_key::{RateLimit, Requirements};
///
/// let publish = Requirements::new()
///     .scopes(["messages:publish"])
///     .cost(5)
///     .route_limits([RateLimit::per_second(10)]);
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Requirements {
    pub(crate) scopes: Vec<Scope>,
    /// Prefixes beside the format's first.
    pub(crate) prefixes: Vec<Arc<str>>,
    /// Empty: every environment.
    pub(crate) environments: Vec<Arc<str>>,
    pub(crate) cost: Cost,
    pub(crate) default_limits: RateLimits,
    pub(crate) route_limits: RateLimits,
    pub(crate) limit_by: LimitBy,
    /// Stands for the scopes, prefixes and environments.
    pub(crate) demand: Demand,
    /// The layer that asks for this, if one does.
    pub(crate) layer: LayerId,
}

/// Identifier of a layer with one set of requirements. The default stands for no layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct LayerId(u64);

impl LayerId {
    /// Another one than all before.
    pub(crate) fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// Which scopes, prefixes and environments are asked for: those of one demand are always the same,
/// so a key that has met it once need not be held against them again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Demand(u64);

impl Demand {
    /// Another one than all before.
    fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// The demand that a key has met last. The default is none.
#[derive(Debug)]
pub(crate) struct DemandMet(AtomicU64);

impl DemandMet {
    const NONE: u64 = u64::MAX;

    #[inline]
    pub(crate) fn is(&self, demand: Demand) -> bool {
        self.0.load(Ordering::Relaxed) == demand.0
    }

    pub(crate) fn note(&self, demand: Demand) {
        self.0.store(demand.0, Ordering::Relaxed);
    }
}

impl Default for DemandMet {
    fn default() -> Self {
        Self(AtomicU64::new(Self::NONE))
    }
}

/// What a request takes of each limit, and where that was said: a layer that has its cost from
/// the one around it does not charge it once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cost {
    units: u64,
    /// 0 where nobody named one.
    named: u64,
}

impl Cost {
    fn named(units: u64) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self {
            units,
            named: NEXT.fetch_add(1, Ordering::Relaxed),
        }
    }

    pub(crate) fn is_named(self) -> bool {
        self.named > 0
    }

    pub(crate) fn units(self) -> u64 {
        self.units
    }
}

impl Default for Cost {
    fn default() -> Self {
        Self { units: 1, named: 0 }
    }
}

/// Whom limits count for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum LimitBy {
    /// Each key for itself.
    #[default]
    Key,
    /// All keys of one owner together; a key without an owner for itself.
    Owner,
}

impl Requirements {
    /// Any valid secret key of any environment, at cost 1, with no limits but its own.
    pub fn new() -> Self {
        Self::default()
    }

    /// Requires these scopes, all of them, beside those required already.
    ///
    /// # Panics
    ///
    /// When one is not a literal scope: a required scope has no wildcard.
    pub fn scopes<S: AsRef<str>>(mut self, scopes: impl IntoIterator<Item = S>) -> Self {
        self.demand = Demand::next();
        for text in scopes {
            let scope = Scope::new(text).unwrap_or_else(|error| panic!("{error}"));
            assert!(
                !scope.is_wildcard(),
                "invalid required scope {scope:?}: a wildcard can be granted, but not required"
            );
            if !self.scopes.contains(&scope) {
                self.scopes.push(scope);
            }
        }
        self
    }

    /// Accepts keys of these prefixes too. The format's first prefix, that of secret keys, is
    /// always accepted, and by default no other.
    pub fn accept_prefixes<S: AsRef<str>>(mut self, prefixes: impl IntoIterator<Item = S>) -> Self {
        self.demand = Demand::next();
        self.prefixes
            .extend(prefixes.into_iter().map(|prefix| prefix.as_ref().into()));
        self
    }

    /// Accepts keys of these environments only. Default: of all.
    pub fn environments<S: AsRef<str>>(mut self, names: impl IntoIterator<Item = S>) -> Self {
        self.demand = Demand::next();
        self.environments
            .extend(names.into_iter().map(|name| name.as_ref().into()));
        self
    }

    /// How many units of each limit, and of the key's [credits](crate::Credits), a request takes.
    /// Default: 1.
    pub fn cost(mut self, units: u64) -> Self {
        self.cost = Cost::named(units);
        self
    }

    /// The limits of keys that have none of their own. Default: none.
    ///
    /// # Panics
    ///
    /// When there are more than [`RateLimits::MAX_LEN`] or two have one name.
    pub fn default_limits(mut self, limits: impl IntoIterator<Item = RateLimit>) -> Self {
        self.default_limits = limits_in_code(limits);
        self
    }

    /// Limits of this route, charged beside the key's own. Routes whose limits have the same name
    /// and window share them. Default: none.
    ///
    /// # Panics
    ///
    /// As [`Requirements::default_limits`].
    pub fn route_limits(mut self, limits: impl IntoIterator<Item = RateLimit>) -> Self {
        self.route_limits = limits_in_code(limits);
        self
    }

    /// Whom the limits count for. Default: each key for itself.
    pub fn limit_by(mut self, whom: LimitBy) -> Self {
        self.limit_by = whom;
        self
    }

    /// The same without what is asked of a key before anything is charged.
    pub(crate) fn of_charges(&self) -> Self {
        Self {
            cost: self.cost,
            default_limits: self.default_limits.clone(),
            route_limits: self.route_limits.clone(),
            limit_by: self.limit_by,
            layer: self.layer,
            ..Self::default()
        }
    }
}

fn limits_in_code(limits: impl IntoIterator<Item = RateLimit>) -> RateLimits {
    RateLimits::new(limits).unwrap_or_else(|error| panic!("invalid rate limits: {error}"))
}

impl fmt::Display for LimitBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Key => "key",
            Self::Owner => "owner",
        })
    }
}
