//! The chart on a real node: real pods, real controllers, a real kubelet.
//!
//! Run by `make test-cluster`, which brings the node up and the image into it. The tests share the node, so each
//! installs what it needs, takes it away again, and holds the node alone meanwhile.

#![expect(unreachable_pub, reason = "nothing reaches into a test binary; pub marks what a module offers")]
#![expect(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "the lints' allowance for tests ends at functions that are tests themselves"
)]

mod documented;
mod healing;
mod installing;
mod load;
mod node;
mod release;
mod replicas;
mod terminals;
