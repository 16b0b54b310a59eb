//! The sink over HTTPS.

use std::future::Future;
use std::time::Duration;

use tokio::runtime::Handle;
use walbus::{Lsn, SegmentName, Timeline};

use crate::api;
use crate::client::{Client, ClientError};

use super::error::RecoverError;
use super::job::Remote;

/// How often a request is made that the sink does not answer, before it is given up.
const ATTEMPTS: u32 = 6;

/// How long to wait before the second attempt; doubled from one to the next.
const BACKOFF: Duration = Duration::from_millis(200);

/// How long a sink may take to flush what it has written.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(10);

/// A sink behind a URL, for threads that are none of the runtime's.
#[derive(Debug)]
pub(super) struct HttpRemote {
    client: Client,
    runtime: Handle,
}

impl HttpRemote {
    /// A sink that is reached on that runtime.
    #[must_use]
    pub(super) const fn new(client: Client, runtime: Handle) -> Self {
        Self { client, runtime }
    }

    /// Asks again where the sink can't answer now.
    fn retry<T, F: Future<Output = Result<T, ClientError>>>(&self, ask: impl Fn() -> F) -> Result<T, RecoverError> {
        self.runtime.block_on(async {
            let mut attempt = 1;
            loop {
                match ask().await {
                    Err(ClientError::Retry(_)) if attempt < ATTEMPTS => pause(&mut attempt).await,
                    answer => return Ok(answer?),
                }
            }
        })
    }
}

async fn pause(attempt: &mut u32) {
    tokio::time::sleep(BACKOFF * 2_u32.pow(*attempt - 1)).await;
    *attempt += 1;
}

impl Remote for HttpRemote {
    fn status(&self) -> Result<api::Status, RecoverError> {
        let status = self.retry(|| self.client.status())?;
        let position = |text: &Option<String>| text.as_ref().and_then(|text| text.parse::<Lsn>().ok());
        match (position(&status.written), position(&status.flushed)) {
            (Some(written), Some(flushed)) if written > flushed => {
                self.retry(|| self.client.wait(written, FLUSH_TIMEOUT))?;
                self.retry(|| self.client.status())
            }
            _ => Ok(status),
        }
    }

    fn segments(&self) -> Result<api::Segments, RecoverError> {
        self.retry(|| self.client.segments())
    }

    fn history(&self, timeline: Timeline) -> Result<Vec<u8>, RecoverError> {
        Ok(self.retry(|| self.client.history(timeline))?.to_vec())
    }

    fn segment(&self, name: &SegmentName, take: &mut dyn FnMut(&[u8]) -> Result<(), RecoverError>) -> Result<(), RecoverError> {
        self.runtime.block_on(async {
            let (mut taken, mut total, mut attempt) = (0, None, 1);
            loop {
                let range = total.map(|total| taken..total);
                let failed = match self.client.segment(name, range).await {
                    Ok(mut body) => {
                        total.get_or_insert(body.len);
                        loop {
                            match body.chunk().await {
                                Ok(Some(bytes)) => {
                                    take(&bytes)?;
                                    taken += bytes.len() as u64;
                                    attempt = 1;
                                }
                                Ok(None) => return Ok(()),
                                Err(error) => break error,
                            }
                        }
                    }
                    Err(error) => error,
                };
                match failed {
                    ClientError::Retry(_) if total == Some(taken) => return Ok(()),
                    ClientError::Retry(_) if attempt < ATTEMPTS => pause(&mut attempt).await,
                    error => return Err(error.into()),
                }
            }
        })
    }
}
