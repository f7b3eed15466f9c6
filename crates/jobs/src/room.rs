//! Keeps room for the days to come, so that no write has to make it.
//!
//! Every replica does: under no lease, since it destroys nothing and the store makes each day once, under its own lock on
//! the schema, whoever asks.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use domain::clock::Clock;
use store::Migrate;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// The store prepares days ahead; this is often enough to have seen each of them many times before it comes.
const PERIOD: Duration = Duration::from_secs(3_600);
/// Where the store was away.
const RETRY: Duration = Duration::from_secs(30);

pub struct Room {
    pub store: Arc<dyn Migrate>,
    pub clock: Arc<dyn Clock>,
}

impl Room {
    pub async fn run(self, stop: CancellationToken) -> Result<(), Infallible> {
        loop {
            let pause = match self.store.prepare(self.clock.now()).await {
                Ok(()) => {
                    debug!("room for the coming days is there");
                    PERIOD
                }
                Err(error) => {
                    warn!(error = &error as &dyn std::error::Error, "could not make room for the coming days");
                    RETRY
                }
            };
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }
}
