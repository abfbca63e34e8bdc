//! How values are written on the command line.

use std::str::FromStr;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tower_api_key::{Credits, RateLimit, Refill};

/// A time: `2027-01-31T12:00:00Z`, `2027-01-31` in UTC, or as long from now as `90d`.
#[derive(Clone, Copy)]
pub(crate) enum When {
    At(Timestamp),
    Apart(Duration),
}

impl FromStr for When {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(duration) = duration(text) {
            return Ok(Self::Apart(duration));
        }
        if text.len() == "2027-01-31".len()
            && let Ok(midnight) = format!("{text}T00:00:00Z").parse()
        {
            return Ok(Self::At(midnight));
        }
        let invalid = "write a time as in 2027-01-31T12:00:00Z, a day as in 2027-01-31, or how far \
                       from now as in 90d";
        text.parse().map(Self::At).map_err(|_| invalid.to_owned())
    }
}

impl When {
    pub(crate) fn after(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(time) => time,
            Self::Apart(duration) => now
                .saturating_add(signed(duration))
                .unwrap_or(Timestamp::MAX),
        }
    }

    pub(crate) fn before(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(time) => time,
            Self::Apart(duration) => now
                .saturating_sub(signed(duration))
                .unwrap_or(Timestamp::MIN),
        }
    }
}

fn signed(duration: Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
}

/// Whole seconds, minutes, hours, days or weeks: `30s`, `15m`, `24h`, `7d`, `2w`, and `0`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let invalid = || "write a duration as in 30s, 15m, 24h, 7d or 2w".to_owned();
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let digits = text.trim_end_matches(|unit: char| unit.is_ascii_alphabetic());
    let count: u64 = digits.parse().map_err(|_| invalid())?;
    let seconds = match &text[digits.len()..] {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        "w" => 7 * 86_400,
        _ => return Err(invalid()),
    };
    let seconds = count.checked_mul(seconds).ok_or_else(invalid)?;
    Ok(Duration::from_secs(seconds))
}

/// A limit: its name, its quota and its window, as in `burst=100/60s`.
pub(crate) fn limit(text: &str) -> Result<RateLimit, String> {
    let invalid = || "write a limit as in burst=100/60s".to_owned();
    let (name, rate) = text.split_once('=').ok_or_else(invalid)?;
    let (quota, window) = rate.split_once('/').ok_or_else(invalid)?;
    let quota = quota.parse().map_err(|_| invalid())?;
    RateLimit::new(name, quota, duration(window)?).map_err(|error| error.to_string())
}

/// A refill: to how many credits, and how often, as in `1000/month`.
pub(crate) fn refill(text: &str) -> Result<Refill, String> {
    let invalid = || "write a refill as in 100/day or 1000/month".to_owned();
    let (amount, every) = text.split_once('/').ok_or_else(invalid)?;
    let amount = amount.parse().map_err(|_| invalid())?;
    match every {
        "day" => Ok(Refill::daily(amount)),
        "month" => Ok(Refill::monthly(amount)),
        _ => Err(invalid()),
    }
}

/// The budget of so many credits now, and of as many as a refill brings where that is not said.
pub(crate) fn budget(credits: Option<u64>, refill: Option<Refill>) -> Option<Credits> {
    let Some(refill) = refill else {
        return credits.map(Credits::new);
    };
    let refilled = Credits::refilled(refill);
    Some(match credits {
        Some(credits) => refilled.remaining(credits),
        None => refilled,
    })
}

/// `NAME=VALUE`.
pub(crate) fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// One of [`KeyFormat`](tower_api_key::KeyFormat)'s prefixes.
pub(crate) fn prefix(text: &str) -> Result<String, String> {
    if text.len() <= 32 && text.split('_').all(is_word) {
        Ok(text.to_owned())
    } else {
        Err("a prefix has 1 to 32 letters, digits and, between them, underscores".to_owned())
    }
}

/// One of [`KeyFormat`](tower_api_key::KeyFormat)'s environments.
pub(crate) fn environment(text: &str) -> Result<String, String> {
    if text.len() <= 32 && is_word(text) {
        Ok(text.to_owned())
    } else {
        Err("an environment has 1 to 32 letters and digits".to_owned())
    }
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_whole_or_not_at_all() {
        for (text, seconds) in [
            ("0", 0),
            ("30s", 30),
            ("15m", 900),
            ("24h", 86_400),
            ("2w", 1_209_600),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in [
            "",
            "s",
            "1",
            "-1s",
            "1.5h",
            "1h30m",
            "1y",
            "1 d",
            "99999999999999999w",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_are_absolute_or_from_now() {
        let now: Timestamp = "2026-11-23T10:00:00Z".parse().unwrap();
        for (text, after) in [
            ("90d", "2027-02-21T10:00:00Z"),
            ("2027-01-31", "2027-01-31T00:00:00Z"),
            ("2027-01-31T12:00:00+02:00", "2027-01-31T10:00:00Z"),
        ] {
            let when: When = text.parse().unwrap();
            assert_eq!(when.after(now), after.parse().unwrap(), "{text}");
        }
        assert_eq!(
            "1d".parse::<When>().unwrap().before(now),
            "2026-11-22T10:00:00Z".parse().unwrap()
        );
        for text in ["", "tomorrow", "2027-13-01", "2027-01-31T12:00:00"] {
            assert!(text.parse::<When>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_refill_names_amount_and_time() {
        assert_eq!(refill("100/day"), Ok(Refill::daily(100)));
        assert_eq!(refill("1000/month"), Ok(Refill::monthly(1_000)));
        for text in ["100", "/day", "x/day", "-1/day", "1/week", "1/day/2"] {
            assert!(refill(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_limit_names_quota_and_window() {
        let burst = limit("burst=100/60s").unwrap();
        assert_eq!(
            (burst.name(), burst.quota(), burst.window_seconds()),
            ("burst", 100, 60)
        );
        for text in [
            "100/60s",
            "burst=100",
            "burst=0/60s",
            "burst=1/0s",
            "b t=1/1s",
            "burst=x/60s",
        ] {
            assert!(limit(text).is_err(), "{text}");
        }
    }
}
