//! The crate's behaviour, through its public interface.

mod admin;
mod contract;
mod extractors;
mod keyserver;
mod layers;
mod limit_headers;
mod services;
mod sources;
mod sqlite;
mod stores;
mod support;
