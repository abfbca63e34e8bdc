//! The crate's behaviour, through its public interface.

mod sqlite;
mod stores;
