//! What the tests and the demo stand on: real servers, the program itself, and the few helpers that every test needs.
//!
//! Servers are real ones ([`control_plane`], [`postgres`]), each on a free port of the loopback in a temporary folder;
//! [`program`] runs beside them as its users run it. They end with the process that started them, whatever ends it
//! ([`guard`]). Between them lies a network that misbehaves on demand ([`chaos`]), in front of several replicas what a
//! Service is ([`balancer`]); [`canary`] looks for what must be in no file that they left, [`documented`]
//! for what pages tell a reader to type.
//!
//! A dev-dependency only: the product never links it. Nothing here skips: what is missing is an error that says what to
//! install.

mod background;
pub mod balancer;
pub mod canary;
pub mod chaos;
pub mod control_plane;
pub mod documented;
mod eventually;
mod golden;
pub mod guard;
pub mod helm;
pub mod http;
pub mod ports;
pub mod postgres;
pub mod program;
pub mod server;
pub mod tools;

pub use eventually::eventually;
pub use golden::golden;
pub use program::Program;
