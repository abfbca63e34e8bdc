//! Scratch.
#![allow(dead_code)]
#[path = "suite/core_support.rs"]
mod core_support;
#[path = "suite/log.rs"]
mod log;
#[path = "suite/server.rs"]
mod server;
#[path = "suite/support.rs"]
mod support;
#[path = "suite/telemetry.rs"]
mod telemetry;
