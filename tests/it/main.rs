//! The whole program, as its users run it: the real binary, the real kube-apiserver, both databases.
//!
//! One binary, so that it is linked once. A test that needs the webhook's registration, which is the whole cluster's, holds
//! the control plane for itself (`testkit::control_plane::exclusive`).

#![expect(unreachable_pub, reason = "nothing reaches into a test binary; pub marks what a module offers")]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "the lints' allowance for tests ends at functions that are tests themselves"
)]

mod account;
mod api;
mod callers;
mod chart;
mod cluster;
mod configuration;
mod control_plane;
mod delivery;
mod documented;
mod hostile;
mod house;
mod importing;
mod in_cluster;
mod kinds;
mod lifecycle;
mod load;
mod lost_elsewhere;
mod made_up;
mod observability;
mod oracle;
mod policies;
mod purging;
mod reading;
mod recording;
mod replicas;
mod reviews;
mod rights;
mod rotation;
mod secrets;
mod stock;
mod uninstalling;
mod watching;
