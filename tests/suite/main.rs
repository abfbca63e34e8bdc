//! The crate's behaviour, through its public interface.

mod contract;
mod extractors;
mod layers;
mod limit_headers;
mod services;
mod sources;
mod sqlite;
mod stores;
mod support;
