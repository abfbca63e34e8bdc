use std::any::Any;
use std::collections::HashSet;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use smallvec::SmallVec;

/// At most `quota` units in any trailing `window`.
///
/// The whole quota may be used in one burst; afterwards nothing is admitted until the burst has
/// left the window. `RateLimit::per_minute(100)` admits 100 requests at once and the 101st about
/// 60 seconds later, or 100 requests spread over each minute. To shape bursts, give two limits:
/// ten per second and 100 per minute.
///
/// ```
/// use std::time::Duration;
/// use tower_api_key::RateLimit;
///
/// let limit = RateLimit::per_minute(100);
/// assert_eq!((limit.name(), limit.quota(), limit.window()), ("minute", 100, Duration::from_secs(60)));
/// let burst = RateLimit::new("burst", 10, Duration::from_secs(5))?;
/// # Ok::<(), tower_api_key::InvalidLimit>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RateLimit {
    name: Arc<str>,
    quota: u64,
    window_seconds: u32,
}

impl RateLimit {
    /// The largest quota, in units: the largest integer of an HTTP structured field (RFC 9651
    /// §3.3.1).
    pub const MAX_QUOTA: u64 = 999_999_999_999_999;
    /// The longest window: 366 days.
    pub const MAX_WINDOW: Duration = Duration::from_hours(366 * 24);
    /// The longest name, in bytes.
    pub const MAX_NAME_LEN: usize = 64;

    /// A limit called `name` of `quota` units for each `window`.
    ///
    /// # Errors
    ///
    /// [`InvalidLimit`] when the quota is 0 or above [`RateLimit::MAX_QUOTA`], the window is not
    /// a whole number of seconds from 1 to [`RateLimit::MAX_WINDOW`], or the name is not 1 to
    /// [`RateLimit::MAX_NAME_LEN`] ASCII letters, digits, `-`, `_` or `.`.
    pub fn new(name: &str, quota: u64, window: Duration) -> Result<Self, InvalidLimit> {
        let named = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if name.is_empty() || name.len() > Self::MAX_NAME_LEN || !name.bytes().all(named) {
            return Err(InvalidLimit::Name);
        }
        if quota == 0 || quota > Self::MAX_QUOTA {
            return Err(InvalidLimit::Quota);
        }
        let whole = window.subsec_nanos() == 0 && !window.is_zero() && window <= Self::MAX_WINDOW;
        match u32::try_from(window.as_secs()) {
            Ok(window_seconds) if whole => Ok(Self {
                name: name.into(),
                quota,
                window_seconds,
            }),
            _ => Err(InvalidLimit::Window),
        }
    }

    /// `quota` units a second, called `second`.
    ///
    /// # Panics
    ///
    /// When `quota` is 0 or above [`RateLimit::MAX_QUOTA`].
    pub fn per_second(quota: u64) -> Self {
        Self::per("second", quota, 1)
    }

    /// `quota` units a minute, called `minute`.
    ///
    /// # Panics
    ///
    /// As [`RateLimit::per_second`].
    pub fn per_minute(quota: u64) -> Self {
        Self::per("minute", quota, 60)
    }

    /// `quota` units an hour, called `hour`.
    ///
    /// # Panics
    ///
    /// As [`RateLimit::per_second`].
    pub fn per_hour(quota: u64) -> Self {
        Self::per("hour", quota, 3_600)
    }

    /// `quota` units in 24 hours, called `day`.
    ///
    /// # Panics
    ///
    /// As [`RateLimit::per_second`].
    pub fn per_day(quota: u64) -> Self {
        Self::per("day", quota, 86_400)
    }

    /// The same limit under another name.
    ///
    /// # Panics
    ///
    /// When `name` is not valid, as for [`RateLimit::new`].
    pub fn named(self, name: &str) -> Self {
        Self::new(name, self.quota, self.window())
            .unwrap_or_else(|error| panic!("invalid rate limit {name:?}: {error}"))
    }

    fn per(name: &str, quota: u64, seconds: u64) -> Self {
        Self::new(name, quota, Duration::from_secs(seconds))
            .unwrap_or_else(|error| panic!("invalid rate limit of {quota} per {name}: {error}"))
    }

    /// The limit as an item of the `RateLimit-Policy` field.
    pub(crate) fn policy_item(&self) -> String {
        let Self {
            name,
            quota,
            window_seconds,
        } = self;
        format!("\"{name}\";q={quota};w={window_seconds}")
    }

    /// What the limit is called, in headers and answers.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn shared_name(&self) -> &Arc<str> {
        &self.name
    }

    /// How many units any trailing window may hold.
    pub fn quota(&self) -> u64 {
        self.quota
    }

    /// How long the window is.
    pub fn window(&self) -> Duration {
        Duration::from_secs(self.window_seconds.into())
    }

    /// How long the window is, in seconds.
    pub fn window_seconds(&self) -> u32 {
        self.window_seconds
    }
}

impl fmt::Debug for RateLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}/{}s", self.name, self.quota, self.window_seconds)
    }
}

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
                .any(|earlier| earlier.name == limit.name)
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

/// Why something is no rate limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InvalidLimit {
    /// Two limits have the same name.
    DuplicateName,
    /// The name is empty, too long or has a character that no name may have.
    Name,
    /// The quota is 0 or too large.
    Quota,
    /// There are more limits than can be charged together.
    TooMany,
    /// The window is not a whole number of seconds, is 0 or too long.
    Window,
}

impl fmt::Display for InvalidLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DuplicateName => "two limits have the same name",
            Self::Name => "name must be 1 to 64 letters, digits, `-`, `_` or `.`",
            Self::Quota => "quota must be 1 to 999999999999999",
            Self::TooMany => "there can be at most 8 limits",
            Self::Window => "window_seconds must be 1 to 31622400",
        })
    }
}

impl std::error::Error for InvalidLimit {}

/// How a limit is written: `{"name": "burst", "quota": 100, "window_seconds": 60}`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename = "RateLimit")]
struct Written<'a> {
    #[serde(borrow)]
    name: std::borrow::Cow<'a, str>,
    quota: u64,
    window_seconds: u32,
}

impl Serialize for RateLimit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (quota, window_seconds) = (self.quota, self.window_seconds);
        Written {
            name: (&*self.name).into(),
            quota,
            window_seconds,
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for RateLimit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Written {
            name,
            quota,
            window_seconds,
        } = Written::deserialize(deserializer)?;
        Self::new(&name, quota, Duration::from_secs(window_seconds.into()))
            .map_err(de::Error::custom)
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
    fn a_limit_is_valid_once_it_exists() {
        let limit = |name: &str, quota, window| RateLimit::new(name, quota, window);
        let second = Duration::from_secs(1);
        assert_eq!(limit("", 1, second), Err(InvalidLimit::Name));
        assert_eq!(limit("a b", 1, second), Err(InvalidLimit::Name));
        assert_eq!(limit("a\"", 1, second), Err(InvalidLimit::Name));
        assert_eq!(limit("a", 0, second), Err(InvalidLimit::Quota));
        assert_eq!(
            limit("a", RateLimit::MAX_QUOTA + 1, second),
            Err(InvalidLimit::Quota)
        );
        assert_eq!(limit("a", 1, Duration::ZERO), Err(InvalidLimit::Window));
        assert_eq!(
            limit("a", 1, Duration::from_millis(1_500)),
            Err(InvalidLimit::Window)
        );
        assert_eq!(
            limit("a", 1, RateLimit::MAX_WINDOW + second),
            Err(InvalidLimit::Window)
        );
        assert!(limit("a", RateLimit::MAX_QUOTA, RateLimit::MAX_WINDOW).is_ok());
    }

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
