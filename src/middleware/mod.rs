//! The middleware: finds the key in a request, has it verified, and writes the answer when it is
//! refused.
//!
//! What it does with a request, and in which order, is told at [`ApiKeyLayer`].

mod body;
mod client;
mod credential;
mod exposure;
mod fields;
mod forwarded;
mod future;
mod layer;
#[cfg(feature = "openapi")]
mod openapi;
mod owed;
mod response;
mod route;
mod service;

pub use body::DenialBody;
pub use client::{ClientAddress, SecureTransport, TrustedProxies};
pub use credential::CredentialSources;
pub use future::ResponseFuture;
pub use layer::ApiKeyLayer;
#[cfg(feature = "axum")]
pub(crate) use response::{DEFAULT_REALM, Problem, answer, problem};
#[cfg(feature = "axum")]
pub(crate) use service::Anonymous;
pub use service::ApiKeyService;
