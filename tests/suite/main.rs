//! The crate's behaviour, through its public interface.

mod admin;
mod allocations;
mod cache;
mod cli;
mod contract;
mod core_support;
mod extractors;
mod importing;
mod invalidation;
mod keyserver;
mod layers;
mod limit_headers;
mod postgres;
mod redis_bus;
mod redis_server;
mod registry;
mod services;
mod sources;
mod sqlite;
mod stores;
mod support;
mod usage;
mod verification;
