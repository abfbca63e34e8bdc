//! The `RateLimit-Policy` and `RateLimit` fields (draft-ietf-httpapi-ratelimit-headers-11 §3, §4)
//! and their older kin.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::limit::{LimitSpace, LimitStatus, RateLimit, Standing};

/// Appended, since the handler or a layer of other keys may speak of limits of its own.
const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const STATE: HeaderName = HeaderName::from_static("ratelimit");

/// Writes how it stands with the limits of one layer, and with those of nested ones.
pub(super) fn write_limits<'a>(
    headers: &mut HeaderMap,
    legacy: bool,
    own: Option<Standing<'a>>,
    mut nested: impl Iterator<Item = Standing<'a>> + Clone,
) {
    match (own, nested.clone().next()) {
        (Some(limits), None) | (None, Some(limits)) if nested.nth(1).is_none() => {
            write_one(headers, legacy, limits);
        }
        _ => write_merged(headers, legacy, own.into_iter().chain(nested)),
    }
}

fn write_one(headers: &mut HeaderMap, legacy: bool, standing: Standing<'_>) {
    // Written once for each key and each layer, so here they only cost a reference count.
    for limits in [standing.base, standing.route] {
        if let Some(Some(policy)) = limits.written(policy_of) {
            headers.append(POLICY, policy.clone());
        }
    }
    if !standing.decision.statuses().is_empty() {
        write_state(headers, legacy, standing.iter());
    }
}

/// Writes each limit once, as it stands after all layers have charged it; where it counts for the key
/// in one layer and for its owner in another, as it stands with whoever has less left.
fn write_merged<'a>(
    headers: &mut HeaderMap,
    legacy: bool,
    all: impl Iterator<Item = Standing<'a>>,
) {
    let mut merged: Vec<(LimitSpace, &RateLimit, &LimitStatus)> = Vec::new();
    for (space, limit, status) in all.flat_map(Standing::iter_spaces) {
        match merged
            .iter_mut()
            .find(|(of, known, _)| (*of, *known) == (space, limit))
        {
            Some((.., known)) if status.remaining() <= known.remaining() => *known = status,
            Some(_) => {}
            None => merged.push((space, limit, status)),
        }
    }
    let merged: Vec<_> = merged
        .into_iter()
        .map(|(_, limit, status)| (limit, status))
        .collect();
    let policies = merged.iter().map(|(limit, _)| limit.policy_item());
    if let Ok(policy) = HeaderValue::try_from(policies.collect::<Vec<_>>().join(", ")) {
        headers.append(POLICY, policy);
    }
    write_state(headers, legacy, merged.into_iter());
}

fn write_state<'a>(
    headers: &mut HeaderMap,
    legacy: bool,
    limits: impl Iterator<Item = (&'a RateLimit, &'a LimitStatus)> + Clone,
) {
    // That of one limit, as most keys have, needs no memory of its own until it is a header.
    let (mut one, mut several) = ([0; MAX_ITEM_LEN], Vec::new());
    let mut state = Line::in_room(match limits.clone().count() {
        0 | 1 => &mut one,
        count => {
            several.resize(count * MAX_ITEM_LEN, 0);
            &mut several
        }
    });
    let mut number = itoa::Buffer::new();
    for (index, (limit, status)) in limits.clone().enumerate() {
        state.put(if index == 0 { b"\"" } else { b", \"" });
        state.put(limit.name().as_bytes());
        state.put(b"\";r=");
        state.put(number.format(status.remaining()).as_bytes());
        state.put(b";t=");
        let seconds = whole_seconds(status.resets_in());
        state.put(number.format(seconds).as_bytes());
    }
    // The names of limits are such that this cannot fail.
    if let Ok(state) = HeaderValue::from_bytes(state.as_bytes()) {
        headers.append(STATE, state);
    }
    if legacy && let Some((limit, status)) = limits.min_by_key(|(_, status)| status.remaining()) {
        for (name, value) in [
            ("x-ratelimit-limit", limit.quota()),
            ("x-ratelimit-remaining", status.remaining()),
            ("x-ratelimit-reset", whole_seconds(status.resets_in())),
        ] {
            headers.insert(name, value.into());
        }
    }
}

/// The most bytes of an item of the `RateLimit` field, and of what divides it from the one before: a
/// name, and two numbers of up to 20 digits.
const MAX_ITEM_LEN: usize = RateLimit::MAX_NAME_LEN + 2 * 20 + b", \"\";r=;t=".len();

/// A line that is being written.
struct Line<'a> {
    room: &'a mut [u8],
    length: usize,
}

impl<'a> Line<'a> {
    /// An empty line, which may become as long as `room`.
    fn in_room(room: &'a mut [u8]) -> Self {
        Self { room, length: 0 }
    }

    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        let end = self.length + bytes.len();
        self.room[self.length..end].copy_from_slice(bytes);
        self.length = end;
    }

    fn as_bytes(&self) -> &[u8] {
        &self.room[..self.length]
    }
}

/// Rounded up: after that many seconds it is true.
pub(super) fn whole_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

/// The `RateLimit-Policy` field of some limits. Their names are such that there always is one.
fn policy_of(limits: &[RateLimit]) -> Option<HeaderValue> {
    let items: Vec<_> = limits.iter().map(RateLimit::policy_item).collect();
    let text = items.join(", ");
    match kept(&text) {
        Some(text) => Some(HeaderValue::from_static(text)),
        None => HeaderValue::try_from(text).ok(),
    }
}

/// The same text, for the life of this process: most answers have one, and processors would contend
/// for the count of its references. `None`, where very many are known already.
fn kept(text: &str) -> Option<&'static str> {
    const MOST: usize = 1_024;
    static KNOWN: Mutex<BTreeSet<&str>> = Mutex::new(BTreeSet::new());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(text) = known.get(text) {
        return Some(text);
    }
    if known.len() >= MOST {
        return None;
    }
    let text = String::leak(text.to_owned());
    known.insert(text);
    Some(text)
}
