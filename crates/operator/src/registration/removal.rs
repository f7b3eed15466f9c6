//! Taking the registration away for good: for an uninstall.

use std::time::Duration;

use cluster::{Cluster, ClusterError, Retry};
use tokio::time::{Instant, sleep};

use super::{CONFIGURATION, PERIOD};

/// Between two looks; each of them deletes what it finds.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A replica that was just told to end puts it back once more at most, within its period.
const STAYS_AWAY_FOR: Duration = Duration::from_secs(6);
/// Pods have ended by then: Kubernetes kills them after 30 s.
pub const REMOVED_WITHIN: Duration = Duration::from_secs(60);

const _: () = assert!(STAYS_AWAY_FOR.as_secs() > PERIOD.as_secs() + LOOK_EVERY.as_secs());
const _: () = assert!(REMOVED_WITHIN.as_secs() > 30 + STAYS_AWAY_FOR.as_secs());

#[derive(Debug, thiserror::Error)]
pub enum RemovalError {
    #[error(transparent)]
    Cluster(#[from] ClusterError),

    #[error(
        "ValidatingWebhookConfiguration {CONFIGURATION}: put back {times} times within {} s, so a kubevision-audit still runs",
        REMOVED_WITHIN.as_secs()
    )]
    PutBack { times: u32 },
}

/// Removes the registration. Tells whether there was one. A [`Registrar`](super::Registrar) that runs puts it back.
///
/// # Errors
/// Where the API server cannot be asked or refuses.
pub async fn unregister(cluster: &Cluster) -> Result<bool, ClusterError> {
    cluster.delete_registration(CONFIGURATION).await
}

/// Removes the registration until it stays away, while the replicas are ending. Tells how often there was one.
///
/// # Errors
/// Where the API server refuses, cannot be asked for long, or somebody keeps putting it back.
pub async fn unregister_for_good(cluster: &Cluster) -> Result<u32, RemovalError> {
    until_away(async || unregister(cluster).await).await
}

async fn until_away(mut remove: impl AsyncFnMut() -> Result<bool, ClusterError>) -> Result<u32, RemovalError> {
    let start = Instant::now();
    let (mut removed, mut away_since) = (0_u32, start);
    loop {
        let looked = remove().await;
        let now = Instant::now();
        let over = now - start >= REMOVED_WITHIN;
        match looked {
            Ok(false) if now - away_since >= STAYS_AWAY_FOR => return Ok(removed),
            Ok(false) if !over => {}
            Ok(false) => return Err(RemovalError::PutBack { times: removed.saturating_sub(1) }),
            Ok(true) => {
                removed += 1;
                away_since = now;
                if over {
                    return Err(RemovalError::PutBack { times: removed - 1 });
                }
            }
            Err(error) if error.retry() == Retry::Later && !over => away_since = now,
            Err(error) => return Err(error.into()),
        }
        sleep(LOOK_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_replica_that_is_ending_may_put_it_back() {
        let start = Instant::now();
        let mut looks = 0;
        let removed = until_away(async || {
            looks += 1;
            Ok(looks == 1 || looks == 5)
        });
        assert_eq!(removed.await.unwrap(), 2);
        assert_eq!(start.elapsed(), Duration::from_secs(4) + STAYS_AWAY_FOR);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_there_is_waited_for_all_the_same() {
        let start = Instant::now();
        assert_eq!(until_away(async || Ok(false)).await.unwrap(), 0);
        assert_eq!(start.elapsed(), STAYS_AWAY_FOR);
    }

    #[tokio::test(start_paused = true)]
    async fn a_program_that_runs_on_is_told() {
        let error = until_away(async || Ok(true)).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "ValidatingWebhookConfiguration kubevision-audit: put back 60 times within 60 s, so a kubevision-audit still runs"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_api_server_that_is_away_for_a_while_is_asked_again() {
        let away =
            || ClusterError::Timeout { operation: "deleting", object: "it".to_owned(), after: cluster::OPERATION_MAX };
        let mut looks = 0;
        let removed = until_away(async || {
            looks += 1;
            if looks < 4 { Err(away()) } else { Ok(looks == 4) }
        });
        assert_eq!(removed.await.unwrap(), 1);
        let error = until_away(async || Err(away())).await.unwrap_err();
        assert_eq!(error.to_string(), "deleting it: given up after 10s");
    }
}
