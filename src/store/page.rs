//! Pages of keys and of events, and what stands in them for a row that cannot be read.

use std::fmt;
use std::str::FromStr;

use crate::record::{Key, KeyEvent, KeyId};

/// A page of a listing of keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyPage {
    /// The keys, newest first.
    pub keys: Vec<Key>,
    /// Keys that belong on the page but cannot be read, in their order. Reading one of them
    /// [alone](crate::KeyRepository::get) is an error that says more.
    pub unreadable: Vec<UnreadableKey>,
    /// The [`KeyFilter::after`](super::KeyFilter::after) of the next page; none on the last one.
    pub next: Option<KeyId>,
}

impl KeyPage {
    /// A page on which every key can be read.
    pub fn new(keys: Vec<Key>, next: Option<KeyId>) -> Self {
        Self {
            keys,
            unreadable: Vec::new(),
            next,
        }
    }
}

/// A stored key that cannot be read, on a [page](KeyPage) of others that can.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnreadableKey {
    /// The id as it is stored, which may be no [`KeyId`] itself.
    pub id: String,
    /// The part of the key that cannot be read, without its content: it may be anything.
    pub reason: String,
}

impl UnreadableKey {
    /// The key with the stored `id`, and why it cannot be read.
    pub fn new(id: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            reason: reason.into(),
        }
    }
}

/// A page of an audit trail.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EventPage {
    /// The events, newest first.
    pub events: Vec<KeyEvent>,
    /// The cursor of the next page, which has older events; none on the last one.
    pub next: Option<EventCursor>,
}

impl EventPage {
    /// A page with these events, newest first.
    pub fn new(events: Vec<KeyEvent>, next: Option<EventCursor>) -> Self {
        Self { events, next }
    }
}

/// A position in an audit trail. A page [before](crate::ApiKeys::events) it has older events only.
///
/// As text it is a decimal number; other than its order, the number means nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventCursor(u64);

impl EventCursor {
    /// The position that a store counts as `position`: an event has a higher one than every event
    /// of its key that was written before.
    pub const fn new(position: u64) -> Self {
        Self(position)
    }

    /// The number that the store gave it.
    pub const fn position(self) -> u64 {
        self.0
    }
}

impl fmt::Display for EventCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Reads what `Display` writes of positions that databases have: at most 19 digits.
impl FromStr for EventCursor {
    type Err = InvalidEventCursor;

    fn from_str(text: &str) -> Result<Self, InvalidEventCursor> {
        let is_number = text.len() <= 19 && text.bytes().all(|byte| byte.is_ascii_digit());
        let position = text.parse().ok().filter(|_| is_number);
        position.map(Self).ok_or(InvalidEventCursor)
    }
}

/// The text is not that of an [`EventCursor`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidEventCursor;

impl fmt::Display for InvalidEventCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not the cursor of a page of events")
    }
}

impl std::error::Error for InvalidEventCursor {}

/// The first `limit` of `rows`, which has one more where there are further rows, and the position
/// of the last of those kept if there are.
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub(super) fn cut_events(mut rows: Vec<(u64, KeyEvent)>, limit: usize) -> EventPage {
    let has_more = rows.len() > limit;
    rows.truncate(limit);
    let last = rows.last().map(|(position, _)| EventCursor(*position));
    EventPage {
        events: rows.into_iter().map(|(_, event)| event).collect(),
        next: last.filter(|_| has_more),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_as_it_is_written() {
        for position in [0, 1, i64::MAX as u64] {
            let cursor = EventCursor::new(position);
            assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }
        for text in ["", "-1", "+1", " 1", "1.0", "18446744073709551616", "key_1"] {
            assert_eq!(text.parse::<EventCursor>(), Err(InvalidEventCursor));
        }
    }
}
