//! The query parameters of the listing, of the usage and of the events.

use axum::extract::FromRequestParts;
use http::request::Parts;
use jiff::{SignedDuration, Timestamp};

use super::rejection::Rejection;
use crate::record::{BucketSize, KeyStatus};
use crate::store::{EventCursor, KeyFilter};

/// The most keys on a page.
pub(super) const MAX_LIMIT: usize = 200;

/// The most events on a page, and how many there are unless `limit` says otherwise.
pub(super) const MAX_EVENTS: usize = 1_000;
pub(super) const DEFAULT_EVENTS: usize = 100;

/// Query parameters that were not looked at yet.
pub(super) struct Query(Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Query {
    type Rejection = Rejection;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Rejection> {
        axum::extract::Query::try_from_uri(&parts.uri)
            .map(|axum::extract::Query(parameters)| Self(parameters))
            .map_err(|_| Rejection::query("query", "it cannot be read"))
    }
}

impl Query {
    /// The page of keys that is asked for.
    pub(super) fn into_filter(mut self, now: Timestamp) -> Result<KeyFilter, Rejection> {
        let mut filter = KeyFilter {
            owner: self.take_text("owner")?,
            environment: self.take_text("environment")?,
            ..KeyFilter::default()
        };
        if let Some(status) = self.take("status")? {
            filter.status = Some((read_status(&status)?, now));
        }
        if let Some(limit) = self.take_limit(MAX_LIMIT)? {
            filter.limit = limit;
        }
        if let Some(cursor) = self.take("cursor")? {
            let invalid = |_| Rejection::query("cursor", "use the `next_cursor` of a page");
            filter.after = Some(cursor.parse().map_err(invalid)?);
        }
        self.finish()?;
        Ok(filter)
    }

    /// The period of use that is asked for.
    pub(super) fn into_period(mut self, now: Timestamp) -> Result<Period, Rejection> {
        let from = self.take_time("from")?;
        let to = self.take_time("to")?.unwrap_or(now);
        let bucket = match self.take("bucket")?.as_deref() {
            None | Some("hour") => BucketSize::Hour,
            Some("day") => BucketSize::Day,
            Some(_) => return Err(Rejection::query("bucket", "use `hour` or `day`")),
        };
        self.finish()?;
        let from = from.unwrap_or_else(|| {
            let day_before = to.checked_sub(SignedDuration::from_hours(24));
            BucketSize::Hour.start(day_before.unwrap_or(Timestamp::MIN))
        });
        if from > to {
            return Err(Rejection::query("from", "it is after `to`"));
        }
        if to.duration_since(from) > SignedDuration::from_hours(366 * 24) {
            let reason = "it is more than 366 days before `to`";
            return Err(Rejection::query("from", reason));
        }
        Ok(Period { from, to, bucket })
    }

    /// The page of events that is asked for.
    pub(super) fn into_trail(mut self) -> Result<Trail, Rejection> {
        let limit = self.take_limit(MAX_EVENTS)?.unwrap_or(DEFAULT_EVENTS);
        let invalid = |_| Rejection::query("before", "use the `next_cursor` of a page");
        let before = self.take("before")?;
        let before = before.map(|cursor| cursor.parse().map_err(invalid));
        let before = before.transpose()?;
        self.finish()?;
        Ok(Trail { before, limit })
    }

    fn take_limit(&mut self, most: usize) -> Result<Option<usize>, Rejection> {
        let Some(limit) = self.take("limit")? else {
            return Ok(None);
        };
        match limit.parse() {
            Ok(limit) if (1..=most).contains(&limit) => Ok(Some(limit)),
            _ => Err(Rejection::query("limit", &format!("use 1 to {most}"))),
        }
    }

    fn take(&mut self, name: &str) -> Result<Option<String>, Rejection> {
        let mut values = self.0.extract_if(.., |(known, _)| known == name);
        let value = values.next().map(|(_, value)| value);
        match values.next() {
            None => Ok(value),
            Some(_) => Err(Rejection::query(name, "it is there more than once")),
        }
    }

    /// Text for a store to compare with. No key's has a NUL, which PostgreSQL would not even read.
    fn take_text(&mut self, name: &str) -> Result<Option<String>, Rejection> {
        let text = self.take(name)?;
        if text.as_ref().is_some_and(|text| text.contains('\0')) {
            return Err(Rejection::query(name, "it has a NUL character"));
        }
        Ok(text)
    }

    fn take_time(&mut self, name: &str) -> Result<Option<Timestamp>, Rejection> {
        let invalid = |_| Rejection::query(name, "use a time as in `2026-11-23T10:00:00Z`");
        let text = self.take(name)?;
        text.map(|text| text.parse().map_err(invalid)).transpose()
    }

    /// Refuses what nobody took.
    fn finish(self) -> Result<(), Rejection> {
        match self.0.first() {
            None => Ok(()),
            Some((name, _)) => Err(Rejection::query(name, "there is no such parameter")),
        }
    }
}

fn read_status(text: &str) -> Result<KeyStatus, Rejection> {
    match text {
        "active" => Ok(KeyStatus::Active),
        "disabled" => Ok(KeyStatus::Disabled),
        "expired" => Ok(KeyStatus::Expired),
        "revoked" => Ok(KeyStatus::Revoked),
        _ => {
            let reason = "use `active`, `disabled`, `expired` or `revoked`";
            Err(Rejection::query("status", reason))
        }
    }
}

/// A period, and how to cut it.
pub(super) struct Period {
    pub(super) from: Timestamp,
    pub(super) to: Timestamp,
    pub(super) bucket: BucketSize,
}

/// A page of an audit trail.
pub(super) struct Trail {
    pub(super) before: Option<EventCursor>,
    pub(super) limit: usize,
}
