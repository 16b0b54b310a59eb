//! What befalls an instance before its host is lost.

use std::fmt;

use anyhow::{Context, Result};

use super::Stage;

/// How often what happened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    killed: u32,
    checkpoints: u32,
    copies: u32,
    switches: u64,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { killed, checkpoints, copies, switches } = self;
        write!(f, "killed {killed}, checkpoints {checkpoints}, switches {switches}, copies {copies}")
    }
}

impl Stage {
    /// Something happens; in the end, commits can go on.
    pub(super) async fn befall(&mut self) -> Result<()> {
        match self.random.below(6) {
            0 => {
                // The host stays, with its disk: what Postgres has of its own is enough.
                self.counts.killed += 1;
                self.init.kill()?;
                self.init.start().await.context("boot on the volume as it was when it was killed")?;
            }
            1 | 2 => {
                self.counts.checkpoints += 1;
                self.init.admin(&["checkpoint"]).await?;
            }
            3 => {
                let times = 1 + self.random.below(5);
                self.counts.switches += times;
                for _ in 0..times {
                    self.init.admin(&["select pg_logical_emit_message(false, 'loss', 's')", "select pg_switch_wal()"]).await?;
                }
            }
            _ => {
                self.counts.copies += 1;
                self.older_has = self.ledger.count();
                let older = self.init.snapshot().await?;
                let forgotten = std::mem::replace(&mut self.older, older);
                self.init.forget(forgotten).await?;
            }
        }
        Ok(())
    }
}
