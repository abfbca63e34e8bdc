//! The text of a key: its format, the secret itself, and the digest that stands for it in a
//! store.
//!
//! ```text
//! sk_live_8fJ2…43 base62 characters…Qx0a1B2c
//! └┬┘└┬─┘ └────────── 256 bits ────┘└─┬──┘
//! prefix environment    OS randomness     CRC-32 of everything before it, base62, 6 characters
//! ```
//!
//! The checksum refuses typing errors and garbage before their digest is looked for. It is no
//! security: anybody can compute it.

mod digest;
mod find;
mod format;
mod secret;

pub(crate) use digest::Candidates;
pub use digest::{InvalidDigest, InvalidPepper, KeyDigest, KeyHasher, Pepper};
pub use find::FoundKey;
pub use format::{KeyFormat, KeyText, Malformed, UnknownKind};
pub use secret::ApiKey;

/// The longest text, in bytes, that is looked at as a key at all. Longer ones are refused before
/// they are hashed, so that nobody can make the server hash megabytes.
pub const MAX_KEY_LEN: usize = 256;
