//! Makes the database agree with what was asked of it: the purge, the room ahead, and late audit events.
//!
//! A job takes no input but the state that it finds, so that running it twice does nothing and a lost signal is found at
//! the next run. What would do harm twice is done under a lease. It never touches the cluster.

mod late;
mod metrics;
mod purge;
mod room;
mod steady;

pub use late::{Late, LateMetrics};
pub use metrics::Metrics;
pub use purge::{Purge, PurgeError, PurgeSettings, Purged};
pub use room::Room;
