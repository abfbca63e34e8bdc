//! The middleware: finds the key in a request, has it verified, and writes the answer when it is
//! refused.
//!
//! What it does with a request, in this order:
//!
//! 1. A true CORS preflight passes, where [`ApiKeyLayer::allow_preflight`] says so.
//! 2. A request that an outer layer of the same keys has verified is not verified again. What
//!    this layer requires, and what it charges, comes on top.
//! 3. The credential is looked for in every source ([`CredentialSources`]). None at all passes in
//!    optional mode and is refused otherwise; more than one is refused always.
//! 4. [`Verifier`](crate::Verifier) decides.
//! 5. The credential is taken out of the request, and the [`KeyPrincipal`](crate::KeyPrincipal)
//!    put into its extensions. Credentials that are not looked at, because of 1 to 3, are taken
//!    out as well.
//! 6. The answer of a verified key tells its limits, and that it depends on the header that the
//!    key came in.
//!
//! A key in the cache is decided on without waiting, and the future of the inner service follows
//! at once; otherwise the service that was made ready waits for the store.

mod body;
mod credential;
mod fields;
mod future;
mod layer;
mod response;
mod service;

pub use body::DenialBody;
pub use credential::{ClientAddress, CredentialSources};
pub use future::ResponseFuture;
pub use layer::ApiKeyLayer;
#[cfg(feature = "axum")]
pub(crate) use response::{DEFAULT_REALM, Problem, answer, problem};
#[cfg(feature = "axum")]
pub(crate) use service::Anonymous;
pub use service::ApiKeyService;
