//! Makes the cluster agree with this program: it is called for every write, over a certificate the API server trusts.
//!
//! [`policies`] puts the cluster's AuditPolicies in force, [`registration`] keeps the webhook's configuration as it should be, [`certificates`] what the listener serves with and
//! the API server trusts, while both go on; [`keys`] gives the key of redaction. Keys and certificates of our own are kept
//! in a [`Safe`], so that a restart finds the same ones and replicas share them.
//!
//! [`outcomes`] finds out what came of the writes that are recorded.
//!
//! This crate never reads what an audit entry says, only how it hangs together with others, and writes none but of its own
//! repairs and of writes that went unseen; never serves a request, and never removes the registration by itself: a restart
//! must not be a hole in the record.

pub mod certificates;
pub mod keys;
mod metrics;
pub mod outcomes;
pub mod policies;
pub mod registration;
mod safe;
mod webhook_url;

pub use metrics::Metrics;
pub use safe::{FileError, Safe, SafeError};
pub use webhook_url::{WebhookUrl, WebhookUrlError};
