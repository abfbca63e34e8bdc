//! The crate's behaviour, through its public interface.

mod admin;
mod keyserver;
mod sqlite;
mod stores;
