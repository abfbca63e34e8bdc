use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use super::counters::Counters;
use crate::record::KeyId;

/// Whom a limit counts for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SubjectId {
    /// A client's address. Whoever has a /64 of IPv6 has all its addresses, so such an address is
    /// masked to its first 64 bits before it comes here.
    Address(IpAddr),
    /// One key.
    Key(KeyId),
    /// All keys of an owner together.
    Owner(Arc<str>),
}

/// A subject that remembers where its counters are.
///
/// Kept beside a cached key, it saves the limiter from looking the subject up for each request.
#[derive(Clone)]
// Charging it takes only what comes first.
#[repr(C)]
pub struct Subject {
    counters: OnceLock<Arc<Counters>>,
    id: SubjectId,
}

impl Subject {
    /// The subject of that identity, which remembers nothing yet.
    pub fn new(id: SubjectId) -> Self {
        Self {
            counters: OnceLock::new(),
            id,
        }
    }

    /// Whom it is about.
    pub fn id(&self) -> &SubjectId {
        &self.id
    }

    /// The counters it has met first in the limiter `limiter`, if they are that limiter's. They
    /// may have been evicted since.
    #[inline]
    pub(super) fn remembered(&self, limiter: u64) -> Option<&Arc<Counters>> {
        self.counters
            .get()
            .filter(|counters| counters.limiter() == limiter)
    }

    /// Remembers `counters`, unless it remembers others.
    ///
    /// The first ones stay: when they were evicted, the limiter takes them up again with the
    /// subject's next charge. Only if another `Subject` of this identity came first are they of no
    /// more use, and this one is looked up each time.
    pub(super) fn remember(&self, counters: Arc<Counters>) {
        _ = self.counters.set(counters);
    }
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.id.fmt(f)
    }
}
