//! The `RateLimit-Policy` and `RateLimit` fields (draft-ietf-httpapi-ratelimit-headers-11 §3, §4)
//! and their older kin.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::limit::{LimitSpace, LimitStatus, RateLimit, Standing};

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
        if !limits.is_empty() {
            append_policy(headers, limits.policy_field());
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
    append_policy(headers, policies.collect::<Vec<_>>().join(", ").into());
    write_state(headers, legacy, merged.into_iter());
}

fn write_state<'a>(
    headers: &mut HeaderMap,
    legacy: bool,
    limits: impl Iterator<Item = (&'a RateLimit, &'a LimitStatus)> + Clone,
) {
    // Exactly as long as it gets, so that the header takes it as it is.
    let lengths = limits.clone().map(|(limit, status)| {
        let (remaining, seconds) = (status.remaining(), whole_seconds(status.resets_in()));
        ITEM_LEN + limit.name().len() + digits(remaining) + digits(seconds)
    });
    let mut state = Vec::with_capacity(lengths.sum::<usize>() - SEPARATOR.len());
    let mut number = itoa::Buffer::new();
    for (limit, status) in limits.clone() {
        if !state.is_empty() {
            state.extend_from_slice(SEPARATOR);
        }
        state.push(b'"');
        state.extend_from_slice(limit.name().as_bytes());
        state.extend_from_slice(b"\";r=");
        state.extend_from_slice(number.format(status.remaining()).as_bytes());
        state.extend_from_slice(b";t=");
        state.extend_from_slice(number.format(whole_seconds(status.resets_in())).as_bytes());
    }
    // The names of limits are such that this cannot fail.
    if let Ok(state) = HeaderValue::from_maybe_shared(Bytes::from(state)) {
        // The handler or a layer of other keys may speak of limits of its own.
        headers.append(const { HeaderName::from_static("ratelimit") }, state);
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

const SEPARATOR: &[u8] = b", ";
/// An item of the `RateLimit` field without its name and numbers, with a separator.
const ITEM_LEN: usize = b"\"\";r=;t=, ".len();

/// How many decimal digits a number has.
fn digits(number: u64) -> usize {
    number.checked_ilog10().map_or(1, |log| log as usize + 1)
}

/// Rounded up: after that many seconds it is true.
pub(super) fn whole_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

/// Appends, since the handler or a layer of other keys may speak of limits of its own.
fn append_policy(headers: &mut HeaderMap, text: Bytes) {
    // The names of limits are such that this cannot fail.
    if let Ok(value) = HeaderValue::from_maybe_shared(text) {
        headers.append(const { HeaderName::from_static("ratelimit-policy") }, value);
    }
}
