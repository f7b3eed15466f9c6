//! The doors through which writes become known: here the API server's admission reviews ([`admission`]).
//!
//! A door reads what it is sent, bounded in bytes and in time, has the domain decide what to record of it, and hands the
//! entry to the pipeline. It never stores anything, never asks the cluster anything, and never repeats in an error, a log
//! line or a metric what was in an object: that may be a secret.

pub mod admission;
