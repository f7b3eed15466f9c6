//! The doors through which writes become known: the API server's admission reviews ([`admission`]), and a look at what no
//! review tells of ([`config_watch`]).
//!
//! A door reads what it is sent, bounded in bytes and in time, has the domain decide what to record of it, and hands the
//! entry to the pipeline. It never stores anything, never changes anything in the cluster, and never repeats in an error, a log
//! line or a metric what was in an object: that may be a secret.

pub mod admission;
pub mod config_watch;
