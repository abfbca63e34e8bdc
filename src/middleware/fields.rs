//! The `RateLimit-Policy` and `RateLimit` fields (draft-ietf-httpapi-ratelimit-headers-11 §3, §4)
//! and their older kin.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::iter;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::limit::{LimitSpace, LimitStatus, RateLimit, RateLimits, Standing};

/// Appended, since the handler or a layer of other keys may speak of limits of its own.
const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const STATE: HeaderName = HeaderName::from_static("ratelimit");

/// Writes how it stands with the limits of one layer, and with those of nested ones.
pub(super) fn write_limits<'a>(
    headers: &mut HeaderMap,
    legacy: bool,
    own: Standing<'a>,
    mut nested: impl Iterator<Item = Standing<'a>>,
) {
    match nested.next() {
        None if own.has_distinct_names() => write_one(headers, legacy, own),
        first => {
            let all = iter::once(own).chain(first).chain(nested);
            write_named(headers, legacy, &named_limits(all), None);
        }
    }
}

/// Writes how it stands with the limits of a request that was refused and may come again after a
/// time.
pub(super) fn write_limits_of_refusal(
    headers: &mut HeaderMap,
    legacy: bool,
    limits: Standing<'_>,
    retry_after: Option<Duration>,
) {
    let limits = named_limits(iter::once(limits));
    write_named(headers, legacy, &limits, retry_after.map(retry_seconds));
}

fn write_one(headers: &mut HeaderMap, legacy: bool, standing: Standing<'_>) {
    // Written once for each key and each layer, so here they only cost a reference count.
    for limits in [standing.base, standing.route] {
        if let Some(Some(policy)) = limits.written(policy_of) {
            headers.append(POLICY, policy.clone());
        }
    }
    if !standing.decision.statuses().is_empty() {
        write_state(headers, standing.iter());
        if legacy {
            write_legacy(headers, standing.iter(), None);
        }
    }
}

/// Writes limits whose names have to differ, or whose `t` may not be above `ceiling`: a client that
/// waits for the last of them would wait longer than it has to.
fn write_named(
    headers: &mut HeaderMap,
    legacy: bool,
    limits: &[NamedLimit<'_>],
    ceiling: Option<u64>,
) {
    if limits.is_empty() {
        return;
    }
    let policy = limits
        .iter()
        .map(|NamedLimit { name, limit, .. }| limit.policy_item(name));
    let state = limits.iter().map(|NamedLimit { name, status, .. }| {
        let seconds = capped(status, ceiling);
        format!("\"{name}\";r={};t={seconds}", status.remaining())
    });
    // The names of limits are such that this cannot fail.
    if let Ok(policy) = HeaderValue::try_from(policy.collect::<Vec<_>>().join(", ")) {
        headers.append(POLICY, policy);
    }
    if let Ok(state) = HeaderValue::try_from(state.collect::<Vec<_>>().join(", ")) {
        headers.append(STATE, state);
    }
    if legacy {
        let limits = limits.iter().map(|named| (named.limit, named.status));
        write_legacy(headers, limits, ceiling);
    }
}

/// A limit with its name in an answer.
pub(super) struct NamedLimit<'a> {
    pub(super) name: Cow<'a, str>,
    pub(super) is_violated: bool,
    space: LimitSpace,
    limit: &'a RateLimit,
    status: &'a LimitStatus,
}

/// The limits of one answer, each once, as it stands after all layers have charged it. A limit that
/// counts for the key in one layer and for its owner in another stands as with the one that has
/// less left. Each has a name that no other has:
///
/// - A limit of the key has its own. A layer's defaults stand in the place of a key's limits.
/// - A limit of a route has its own, and `:route` after it where a limit of the key has the same.
/// - Of several that would still have one name, the second one has `:2` after it, and so on.
///
/// No limit's own name has a colon. The list ends after 16 limits, since intermediaries refuse long
/// headers. The last ones are left out, and those that are violated only after all others.
pub(super) fn named_limits<'a>(all: impl Iterator<Item = Standing<'a>>) -> Vec<NamedLimit<'a>> {
    const MOST: usize = 2 * RateLimits::MAX_LEN;
    let mut limits: Vec<NamedLimit<'a>> = Vec::new();
    for (space, limit, status) in all.flat_map(Standing::iter_spaces) {
        let is_violated = !status.is_admitted();
        let known = |known: &&mut NamedLimit<'_>| (known.space, known.limit) == (space, limit);
        if let Some(known) = limits.iter_mut().find(known) {
            known.is_violated |= is_violated;
            if status.remaining() <= known.status.remaining() {
                known.status = status;
            }
        } else {
            let name = Cow::Borrowed(limit.name());
            limits.push(NamedLimit {
                name,
                is_violated,
                space,
                limit,
                status,
            });
        }
    }
    let of_key = limits.iter().filter(|limit| limit.space == LimitSpace::Key);
    let of_route = limits
        .iter()
        .filter(|limit| limit.space == LimitSpace::Route);
    let of_key: Vec<_> = of_key.map(|named| named.limit.name()).collect();
    let of_route: Vec<_> = of_route.map(|named| named.limit.name()).collect();
    let (mut keys, mut routes) = (0, 0);
    for named in &mut limits {
        let own = named.limit.name();
        let (before, suffix) = match named.space {
            LimitSpace::Key => {
                keys += 1;
                (&of_key[..keys - 1], "")
            }
            LimitSpace::Route => {
                routes += 1;
                let suffix = if of_key.contains(&own) { ":route" } else { "" };
                (&of_route[..routes - 1], suffix)
            }
        };
        match before.iter().filter(|name| **name == own).count() {
            0 if suffix.is_empty() => {}
            0 => named.name = format!("{own}{suffix}").into(),
            others => named.name = format!("{own}{suffix}:{}", others + 1).into(),
        }
    }
    let violated = limits.iter().filter(|limit| limit.is_violated).count();
    let (mut room, mut room_for_others) = (MOST, MOST.saturating_sub(violated));
    limits.retain(|limit| {
        let room_for_it = if limit.is_violated {
            &mut room
        } else {
            &mut room_for_others
        };
        let fits = *room_for_it > 0;
        *room_for_it = room_for_it.saturating_sub(1);
        fits
    });
    limits
}

fn write_state<'a>(
    headers: &mut HeaderMap,
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
    for (index, (limit, status)) in limits.enumerate() {
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
}

/// Writes the older headers, for the tightest limit.
fn write_legacy<'a>(
    headers: &mut HeaderMap,
    limits: impl Iterator<Item = (&'a RateLimit, &'a LimitStatus)>,
    ceiling: Option<u64>,
) {
    if let Some((limit, status)) = limits.min_by_key(|(_, status)| status.remaining()) {
        for (name, value) in [
            ("x-ratelimit-limit", limit.quota()),
            ("x-ratelimit-remaining", status.remaining()),
            ("x-ratelimit-reset", capped(status, ceiling)),
        ] {
            headers.insert(name, value.into());
        }
    }
}

fn capped(status: &LimitStatus, ceiling: Option<u64>) -> u64 {
    let seconds = whole_seconds(status.resets_in());
    ceiling.map_or(seconds, |ceiling| seconds.min(ceiling))
}

/// The most bytes of an item of the `RateLimit` field, and of what divides it from the one before:
/// a name, and two numbers of up to 20 digits.
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

/// The value of `Retry-After`: at least a second, for 0 would say "now".
pub(super) fn retry_seconds(time: Duration) -> u64 {
    whole_seconds(time).max(1)
}

/// Rounded up: after that many seconds it is true.
fn whole_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

/// The `RateLimit-Policy` field of some limits. Their names are such that there always is one.
fn policy_of(limits: &[RateLimit]) -> Option<HeaderValue> {
    let items = limits.iter().map(|limit| limit.policy_item(limit.name()));
    let items: Vec<_> = items.collect();
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
