//! Waiting for what becomes true by itself: the one place that sleeps.

use std::time::Duration;

use anyhow::Context;
use tokio::time::{Instant, sleep};

const PAUSE: Duration = Duration::from_millis(20);

/// Tries until it succeeds; past `within` it fails with what the last attempt said.
///
/// Measured in tokio's time, so a test that paused it waits for nothing.
pub async fn eventually<T, A>(within: Duration, mut attempt: impl FnMut() -> A) -> anyhow::Result<T>
where
    A: Future<Output = anyhow::Result<T>>,
{
    let deadline = Instant::now() + within;
    loop {
        match attempt().await {
            Ok(value) => return Ok(value),
            Err(last) if Instant::now() >= deadline => {
                return Err(last).with_context(|| format!("still not so after {within:?}"));
            }
            Err(_) => sleep(PAUSE).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_first_success_is_the_answer() {
        let mut tries = 0;
        let answer = eventually(Duration::from_secs(1), || {
            tries += 1;
            let tries = tries;
            async move { if tries < 3 { bail!("not yet") } else { Ok(tries) } }
        });
        assert_eq!(answer.await.unwrap(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn what_never_comes_fails_with_the_last_reason() {
        let failure = eventually::<(), _>(Duration::from_secs(1), || async { bail!("the door is shut") });
        let said = format!("{:#}", failure.await.unwrap_err());
        assert_eq!(said, "still not so after 1s: the door is shut");
    }
}
