//! Makes the cluster agree with this program: it is called for every write, over a certificate the API server trusts.
//!
//! [`policies`] puts the cluster's AuditPolicies in force, [`registration`] keeps the webhook's configuration as it should be, [`certificates`] gives the listener what it serves
//! with, [`keys`] the key of redaction; the last two are kept in a [`Safe`], so that a restart finds the same ones and
//! replicas share them.
//!
//! This crate never reads or writes an audit entry (it counts them, for the policies' status), never serves a request, and never removes the registration by
//! itself: a restart must not be a hole in the record.

pub mod certificates;
pub mod keys;
pub mod policies;
pub mod registration;
mod safe;
mod webhook_url;

pub use safe::{FileError, Safe, SafeError};
pub use webhook_url::{WebhookUrl, WebhookUrlError};
