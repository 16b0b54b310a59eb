//! What befalls a round.

use std::fmt;

use anyhow::Result;
use walbus::sim::Random;

use super::Stage;

/// One thing that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// All are killed at once.
    KillAll,
    /// The server is killed.
    KillCdc,
    /// Postgres is killed, and recovers by itself.
    KillPostgres,
    /// The subscriber is dropped, its connections with it.
    KillSubscriber,
    /// The server is stopped in order.
    StopCdc,
}

/// How often what happened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kills {
    all: u32,
    cdc: u32,
    postgres: u32,
    subscriber: u32,
    stopped: u32,
}

impl fmt::Display for Kills {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "killed: cdc {}, postgres {}, subscriber {}, all {}; cdc stopped {}",
            self.cdc, self.postgres, self.subscriber, self.all, self.stopped
        )
    }
}

impl Event {
    pub(super) fn any(random: &mut Random) -> Self {
        match random.below(12) {
            0..4 => Self::KillCdc,
            4..7 => Self::KillPostgres,
            7..10 => Self::KillSubscriber,
            10 => Self::KillAll,
            _ => Self::StopCdc,
        }
    }
}

impl Stage {
    /// Makes it happen; in the end, all run again.
    pub(super) async fn befall(&mut self, event: Event) -> Result<()> {
        match event {
            Event::KillAll => {
                self.kills.all += 1;
                self.cdc.kill()?;
                self.cluster.kill()?;
                self.subscriber.kill().await;
                self.subscriber.start();
                // What holds no log yet needs nobody to come up.
                self.cdc.start().await?;
                self.cluster.start().await?;
            }
            Event::KillCdc => {
                self.kills.cdc += 1;
                self.cdc.kill()?;
                self.cdc.start().await?;
            }
            Event::KillPostgres => {
                self.kills.postgres += 1;
                self.cluster.kill()?;
                self.cluster.start().await?;
            }
            Event::KillSubscriber => {
                self.kills.subscriber += 1;
                self.subscriber.kill().await;
                self.subscriber.start();
            }
            Event::StopCdc => {
                self.kills.stopped += 1;
                let status = self.cdc.stop().await?;
                anyhow::ensure!(status.success(), "the CDC server ended with {status}:\n{}", self.cdc.log());
                self.cdc.start().await?;
            }
        }
        Ok(())
    }
}
