//! Trying again what may come right by itself.

use std::time::Duration;

use object_store::path::Path;

use super::{Archive, StoreError};

/// The first pause. Each one after is twice as long, up to [`PAUSE_MAX`], and up to a half of it is left to chance, so that many that
/// failed at once do not come back at once.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(3);

impl Archive {
    /// Runs `attempt` until it succeeds, fails for good, or the archive's time for one call is up.
    pub(super) async fn retrying<T, F>(&self, doing: &'static str, path: &Path, attempt: impl Fn() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let (timeout, retries) = (self.inner.options.timeout, self.inner.options.retries);
        let mut last = None;
        let attempts = async {
            let mut pause = PAUSE_MIN;
            loop {
                match attempt().await {
                    Err(error @ StoreError::Retry { .. }) if retries => {
                        // Said once: the rest is the same, and the last one is what the call ends with.
                        if last.is_none() {
                            tracing::warn!("{error}; trying again for up to {:.0} s", timeout.as_secs_f64());
                        } else {
                            tracing::debug!(pause_ms = pause.as_millis(), "{error}");
                        }
                        last = Some(error);
                    }
                    done => return done,
                }
                tokio::time::sleep(pause.mul_f64(1.0 - chance() / 2.0)).await;
                pause = PAUSE_MAX.min(pause * 2);
            }
        };
        match tokio::time::timeout(timeout, attempts).await {
            Ok(done) => done,
            Err(_) => {
                let (object, seconds) = (self.shown(path), timeout.as_secs_f64());
                let problem = match last {
                    Some(StoreError::Retry { problem, .. }) => format!("{problem}; gave up after {seconds:.0} s (--timeout)"),
                    _ => format!("no answer within {seconds:.0} s (--timeout)"),
                };
                Err(StoreError::Retry { doing, object, problem })
            }
        }
    }
}

/// A number from 0 to 1.
fn chance() -> f64 {
    let mut byte = [0];
    // Without chance, the pause is a whole one.
    aws_lc_rs::rand::fill(&mut byte).map_or(0.0, |()| f64::from(byte[0]) / 255.0)
}
