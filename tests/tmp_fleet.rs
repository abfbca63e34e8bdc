//! Scratch.
#![allow(dead_code)]
#[path = "suite/core_support.rs"]
mod core_support;
#[path = "suite/fleet.rs"]
mod fleet;
#[path = "suite/keyserver.rs"]
mod keyserver;
#[path = "suite/postgres/mod.rs"]
mod postgres;
#[path = "suite/redis_server.rs"]
mod redis_server;
#[path = "suite/server.rs"]
mod server;
#[path = "suite/support.rs"]
mod support;
