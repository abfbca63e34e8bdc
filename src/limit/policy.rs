use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

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

    /// The limit as an item of the `RateLimit-Policy` field, by the `name` that it has there.
    pub(crate) fn policy_item(&self, name: &str) -> String {
        let Self {
            quota,
            window_seconds,
            ..
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
}
