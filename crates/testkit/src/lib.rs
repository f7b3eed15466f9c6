//! What the tests and the demo stand on: real servers, and the few helpers that every test needs.
//!
//! Servers are real ones ([`control_plane`], [`postgres`]), each on a free port of the loopback in a temporary folder. They end with the
//! process that started them, whatever ends it ([`guard`]).
//!
//! A dev-dependency only: the product never links it. Nothing here skips: what is missing is an error that says what to
//! install.

pub mod control_plane;
mod eventually;
pub mod guard;
pub mod ports;
pub mod postgres;
pub mod server;
pub mod tools;

pub use eventually::eventually;
