use std::fmt;
use std::net::IpAddr;

use crate::limit::{Decision, LimitReport, Standing};
use crate::principal::KeyPrincipal;

/// What a client presents.
#[derive(Clone, Copy)]
pub struct Attempt<'a> {
    pub(super) text: &'a [u8],
    pub(super) address: Option<IpAddr>,
}

/// A request that was let through.
#[derive(Clone, Debug)]
pub struct Verified {
    principal: KeyPrincipal,
    limits: LimitReport,
}

/// As [`Verified`], but for the report, which is made when it is asked for.
pub(crate) struct Admission {
    pub(crate) principal: KeyPrincipal,
    /// How the limits stand that were charged: those of the principal's bill.
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

impl From<Admission> for Verified {
    fn from(admission: Admission) -> Self {
        let limits = admission.standing().to_report();
        Self {
            principal: admission.principal,
            limits,
        }
    }
}

impl Admission {
    /// What is left of the limits that were charged.
    #[inline]
    pub(crate) fn standing(&self) -> Standing<'_> {
        let KeyPrincipal { key, bill, .. } = &self.principal;
        bill.standing(key, &self.decision)
    }
}
