//! The webhook as the API server sees it, with reviews that a real one sent (`fixtures/`, made by `examples/record.rs`)
//! and with what nobody should send.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail by panicking, as tests do"
)]

mod audit_events;
mod bad_input;
mod config_watch;
mod door;
mod hard;
mod losing;
mod recorded;
mod sync;
