//! The pipeline as its users see it, before a store that fails in every way that a store can. Time is paused: hours
//! take no time.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail by panicking, as tests do")]

mod batching;
mod fake;
mod joining;
mod losing;
mod model;
mod refusing;
mod stopping;
