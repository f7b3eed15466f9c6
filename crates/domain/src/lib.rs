//! What an audit entry *is*: decided here, once, and by nothing but its arguments.
//!
//! An [`Attempt`] to write comes in, as the API server told it; [`decide`] turns it into a [`RedactedEntry`] or says why
//! there is nothing to record. On the way the objects are walked ([`json`]), hashed for the chain of object states
//! (64 bits, keyed), redacted ([`redact`]) and compared ([`diff`]). The vocabulary of reading lives here too: [`query`] and
//! [`retention`].
//!
//! This crate never does IO, never asks for the time or for randomness, and never reads the environment: both are
//! arguments ([`clock`]).

pub mod attempt;
pub mod chain;
pub mod clock;
mod decide;
pub mod diff;
pub mod entry;
pub mod event;
pub mod finding;
mod hash;
pub mod id;
pub mod json;
pub mod kinds;
mod mac;
mod prior;
pub mod query;
pub mod redact;
mod resource;
pub mod retention;
pub mod seal;
pub mod system;
pub mod text;

pub use decide::{DETAIL_BYTES_MAX, Seen, Sighting, Terms, Unreadable, decide, decide_seen, state};
pub use entry::{
    Action, Detail, DetailJson, Entry, Evidence, Level, Outcome, RedactedEntry, Resource, Source, StoredEntry,
};
pub use id::EntryId;
