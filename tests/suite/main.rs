//! The crate's behaviour, through its public interface.

mod cache;
mod core_support;
mod registry;
mod sqlite;
mod stores;
mod usage;
mod verification;
