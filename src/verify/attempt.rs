use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::bill::Bill;
use crate::cache::CachedKey;
use crate::limit::{Decision, LimitReport, Standing};
use crate::principal::{KeyPrincipal, Realm};

/// What a client presents.
#[derive(Clone, Copy)]
pub struct Attempt<'a> {
    pub(super) text: &'a [u8],
    pub(super) address: Option<IpAddr>,
}

/// Origin of a request, as far as it is known.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Origin {
    /// Address of the client, which a key may have to be allowed for.
    pub(crate) address: Option<IpAddr>,
    /// Address that failed attempts count for: the client's, or that of the nearest proxy to a
    /// client that nobody names. Otherwise a client that hides its address could try keys without
    /// end.
    pub(crate) accountable: Option<IpAddr>,
}

/// A request that was let through.
#[derive(Clone, Debug)]
pub struct Verified {
    principal: KeyPrincipal,
    limits: LimitReport,
}

/// What is known of a request that was let through: written once, and shared by all who ask.
///
/// It holds nothing that all requests share, or processors would contend for its reference count.
pub(crate) struct Admission {
    pub(crate) key: Arc<CachedKey>,
    pub(crate) realm: Realm,
    /// What was charged for this request.
    pub(crate) bill: Bill,
    /// How the limits stand that were charged.
    pub(crate) decision: Decision,
}

impl<'a> Attempt<'a> {
    /// The text of a key, from a client whose address is not known. A key with
    /// `allowed_addresses` is refused.
    pub fn new(text: &'a str) -> Self {
        Self::of_bytes(text.as_bytes())
    }

    /// As [`Attempt::new`], for bytes that may not even be a text.
    pub(crate) fn of_bytes(text: &'a [u8]) -> Self {
        Self {
            text,
            address: None,
        }
    }

    /// Sets the client's address.
    pub fn from_address(mut self, address: impl Into<Option<IpAddr>>) -> Self {
        self.address = address.into();
        self
    }
}

impl From<Option<IpAddr>> for Origin {
    fn from(address: Option<IpAddr>) -> Self {
        let accountable = address;
        Self {
            address,
            accountable,
        }
    }
}

impl fmt::Debug for Attempt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attempt")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Verified {
    /// The key behind the request.
    pub fn principal(&self) -> &KeyPrincipal {
        &self.principal
    }

    /// The limits that were charged, and what is left.
    pub fn limits(&self) -> &LimitReport {
        &self.limits
    }

    /// Takes the two apart.
    pub fn into_parts(self) -> (KeyPrincipal, LimitReport) {
        (self.principal, self.limits)
    }
}

impl From<KeyPrincipal> for Verified {
    fn from(principal: KeyPrincipal) -> Self {
        let limits = principal.admission.standing().to_report();
        Self { principal, limits }
    }
}

impl Admission {
    /// What is left of the limits that were charged.
    #[inline]
    pub(crate) fn standing(&self) -> Standing<'_> {
        self.bill.standing(&self.key, &self.decision)
    }
}
