//! Nobody counts.

use std::time::Duration;

use super::Path;
use crate::cache::{Cached, OutageKind};
use crate::credits::CreditOutage;
use crate::invalidation::Role;
use crate::record::{CreditGrant, CreditReturn};

#[inline]
pub(crate) fn allowed() {}

#[inline]
pub(super) fn denied(_: &'static str) {}

#[inline]
pub(crate) fn verified_in(_: Duration, _: Path) {}

#[inline]
pub(crate) fn cache_hit() {}

#[inline]
pub(crate) fn cache_looked_up(_: &Cached) {}

#[inline]
pub(crate) fn cache_entries(_: u64, _: u64) {}

#[inline]
pub(crate) fn store_looked_up(_: Result<bool, OutageKind>, _: Option<Duration>) {}

#[cfg(feature = "redis")]
#[inline]
pub(crate) fn limiter_called(_: &'static str, _: bool) {}

#[cfg(feature = "redis")]
#[inline]
pub(crate) fn limiter_up(_: &'static str, _: bool) {}

#[inline]
pub(crate) fn bus_up(_: Role, _: bool) {}

#[inline]
pub(crate) fn bus_told(_: Role, _: Option<Duration>) {}

#[inline]
pub(crate) fn credits_asked_for(_: &Result<CreditGrant, CreditOutage>) {}

#[inline]
pub(crate) fn credits_given_back(_: &[CreditReturn], _: bool) {}

#[inline]
pub(crate) fn flushed(_: bool) {}
