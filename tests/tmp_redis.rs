//! Scratch.
#![allow(dead_code)]
#[path = "suite/core_support.rs"]
mod core_support;
#[path = "suite/redis_limits.rs"]
mod redis_limits;
#[path = "suite/redis_server.rs"]
mod redis_server;
#[path = "suite/support.rs"]
mod support;
