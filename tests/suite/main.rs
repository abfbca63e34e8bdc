//! The crate's behaviour, through its public interface.

mod admin;
mod cache;
mod contract;
mod core_support;
mod extractors;
mod keyserver;
mod layers;
mod limit_headers;
mod postgres;
mod registry;
mod services;
mod sources;
mod sqlite;
mod stores;
mod support;
mod usage;
mod verification;
