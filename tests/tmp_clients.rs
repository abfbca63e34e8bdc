//! Scratch.
#![allow(dead_code)]
#[path = "suite/clients.rs"]
mod clients;
#[path = "suite/core_support.rs"]
mod core_support;
#[path = "suite/redis_server.rs"]
mod redis_server;
#[path = "suite/support.rs"]
mod support;
