//! The panel as its users meet it: by request and answer, over a real store.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "what a test's helpers meet is the test's failure"
)]

mod door;
mod export;
mod failing;
mod fixture;
mod page;
mod rest;
mod samples;
