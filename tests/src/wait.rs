//! Waiting for a condition: the one place with a timer.

use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::{Instant, sleep};

/// How long a test waits for what takes a moment when all is well: long enough for a machine with much else to do.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// The first pause between two looks; doubled up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(50);

/// Looks until there is something to see.
///
/// `look` gives `Ok(Some(value))` where the condition holds, `Ok(None)` or an error where it does not hold yet. A look that never
/// returns is given up at the deadline as well.
///
/// # Errors
/// When the deadline has passed: names `what`, and the last error that was seen.
pub async fn eventually<T>(deadline: Duration, what: &str, mut look: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    let mut pace = Pace::new(deadline);
    let mut last = None;
    loop {
        match tokio::time::timeout_at(pace.end, look()).await {
            Ok(Ok(Some(value))) => return Ok(value),
            Ok(Ok(None)) => last = None,
            Ok(Err(error)) => last = Some(error),
            Err(_elapsed) => {}
        }
        if !pace.pause().await {
            match last {
                Some(error) => bail!("not within {deadline:?}: {what}; last seen: {error:#}"),
                None => bail!("not within {deadline:?}: {what}"),
            }
        }
    }
}

/// The pauses between looks, for a loop of its own; prefer [`eventually`].
#[derive(Debug)]
pub(crate) struct Pace {
    end: Instant,
    pause: Duration,
}

impl Pace {
    pub(crate) fn new(deadline: Duration) -> Self {
        Self { end: Instant::now() + deadline, pause: PAUSE_MIN }
    }

    /// Waits until it is time for another look; `false` at once, where the deadline comes before that.
    pub(crate) async fn pause(&mut self) -> bool {
        if Instant::now() + self.pause >= self.end {
            return false;
        }
        sleep(self.pause).await;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::anyhow;

    #[tokio::test]
    async fn the_first_value_seen_is_given() {
        let mut looks = 0;
        let seen = eventually(DEADLINE, "three looks", async || {
            looks += 1;
            Ok((looks == 3).then_some("there"))
        });
        assert_eq!(seen.await.unwrap(), "there");
    }

    #[tokio::test]
    async fn what_was_waited_for_and_the_last_error_are_named() {
        let error = eventually::<()>(Duration::from_millis(5), "rain", async || Err(anyhow!("a drought"))).await.unwrap_err();
        assert!(error.to_string().contains("rain") && error.to_string().contains("a drought"), "{error}");
    }

    #[tokio::test]
    async fn a_look_without_end_is_given_up() {
        let error =
            eventually::<()>(Duration::from_millis(5), "an answer", async || std::future::pending().await).await.unwrap_err();
        assert!(error.to_string().contains("an answer"), "{error}");
    }
}
