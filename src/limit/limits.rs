use std::any::Any;
use std::collections::HashSet;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use smallvec::SmallVec;

use super::{InvalidLimit, RateLimit};

/// The limits of a key or a route: at most [`RateLimits::MAX_LEN`], each name once. Cloning costs
/// a reference count, and nothing where there are none.
#[derive(Clone, Default)]
pub struct RateLimits(Option<Arc<Limits>>);

struct Limits {
    list: Box<[RateLimit]>,
    /// What answers say of them.
    written: OnceLock<Box<dyn Any + Send + Sync>>,
}

impl RateLimits {
    /// The most limits that can be charged together.
    pub const MAX_LEN: usize = 8;

    /// Checks and takes `limits`, in the order in which headers will name them.
    ///
    /// # Errors
    ///
    /// [`InvalidLimit`] when there are more than [`RateLimits::MAX_LEN`] or two have one name.
    pub fn new(limits: impl IntoIterator<Item = RateLimit>) -> Result<Self, InvalidLimit> {
        let limits: SmallVec<[RateLimit; 2]> = limits.into_iter().collect();
        if limits.len() > Self::MAX_LEN {
            return Err(InvalidLimit::TooMany);
        }
        for (index, limit) in limits.iter().enumerate() {
            if limits[..index]
                .iter()
                .any(|earlier| earlier.name() == limit.name())
            {
                return Err(InvalidLimit::DuplicateName);
            }
        }
        Ok(Self::of(limits))
    }

    /// The limits of several layers together, which may be more than one key can have.
    pub(crate) fn of(list: SmallVec<[RateLimit; 2]>) -> Self {
        Self((!list.is_empty()).then(|| {
            Arc::new(Limits {
                list: list.into_vec().into(),
                written: OnceLock::new(),
            })
        }))
    }

    /// The limits as answers tell them, which `write` does once for all clones. There is one kind of
    /// answer in a process. `None` where there are no limits.
    #[inline]
    pub(crate) fn written<T: Any + Send + Sync>(
        &self,
        write: impl FnOnce(&[RateLimit]) -> T,
    ) -> Option<&T> {
        let limits = self.0.as_ref()?;
        let written = limits.written.get_or_init(|| Box::new(write(&limits.list)));
        (**written).downcast_ref()
    }

    /// The limits, in order.
    pub fn iter(&self) -> std::slice::Iter<'_, RateLimit> {
        self.as_slice().iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.as_slice().len()
    }

    /// Whether there is no limit at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    #[inline]
    pub(crate) fn as_slice(&self) -> &[RateLimit] {
        self.0.as_ref().map_or(&[], |limits| &limits.list)
    }
}

/// Limits that some keys have. The keys of one plan have equal limits, and those that share them are
/// decided on with less memory to be read.
#[derive(Debug, Default)]
pub(crate) struct KnownLimits(Mutex<HashSet<RateLimits>>);

impl KnownLimits {
    /// Where there are more, each key has limits of its own, and all begin anew.
    const MOST: usize = 1_024;

    /// The same limits, with a list that is known, or is from now on.
    pub(crate) fn sharing(&self, limits: &RateLimits) -> RateLimits {
        if limits.is_empty() {
            return RateLimits::default();
        }
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(same) = known.get(limits) {
            return same.clone();
        }
        if known.len() >= Self::MOST {
            known.clear();
        }
        known.insert(limits.clone());
        limits.clone()
    }
}

impl PartialEq for RateLimits {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl Eq for RateLimits {}

impl Hash for RateLimits {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_slice().hash(state);
    }
}

impl<'a> IntoIterator for &'a RateLimits {
    type Item = &'a RateLimit;
    type IntoIter = std::slice::Iter<'a, RateLimit>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Debug for RateLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self).finish()
    }
}

impl Serialize for RateLimits {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self)
    }
}

impl<'de> Deserialize<'de> for RateLimits {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(Vec::<RateLimit>::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_of_limits_is_bounded_and_unambiguous() {
        let numbered = |n: usize| RateLimit::per_second(1).named(&n.to_string());
        assert!(RateLimits::new((0..8).map(numbered)).is_ok());
        assert_eq!(
            RateLimits::new((0..9).map(numbered)),
            Err(InvalidLimit::TooMany)
        );
        let twice = [
            RateLimit::per_day(1).named("x"),
            RateLimit::per_hour(1).named("x"),
        ];
        assert_eq!(RateLimits::new(twice), Err(InvalidLimit::DuplicateName));
    }

    #[test]
    fn equal_limits_are_shared() {
        let known = KnownLimits::default();
        let limits = |quota| {
            let limits = [RateLimit::per_second(quota), RateLimit::per_day(quota)];
            RateLimits::new(limits).unwrap()
        };
        let first = known.sharing(&limits(1));
        let second = known.sharing(&limits(1));
        assert_eq!((&first, &second), (&limits(1), &limits(1)));
        assert_eq!(first.as_slice().as_ptr(), second.as_slice().as_ptr());
        assert_eq!(known.sharing(&limits(2)), limits(2));
        assert!(known.sharing(&RateLimits::default()).is_empty());
    }

    #[test]
    fn the_known_limits_are_bounded() {
        let known = KnownLimits::default();
        for quota in 1..=2 * KnownLimits::MOST as u64 {
            let limits = RateLimits::new([RateLimit::per_second(quota)]).unwrap();
            assert_eq!(known.sharing(&limits), limits);
            assert!(known.0.lock().unwrap().len() <= KnownLimits::MOST);
        }
    }

    #[test]
    fn the_written_form_is_the_contracts() {
        let text = r#"[{"name":"burst","quota":100,"window_seconds":60}]"#;
        let limits: RateLimits = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&limits).unwrap(), text);
        for bad in [
            r#"[{"name":"burst","quota":0,"window_seconds":60}]"#,
            r#"[{"name":"burst","quota":1,"window_seconds":60,"x":1}]"#,
            r#"[{"name":"burst","quota":1}]"#,
        ] {
            assert!(serde_json::from_str::<RateLimits>(bad).is_err(), "{bad}");
        }
    }
}
