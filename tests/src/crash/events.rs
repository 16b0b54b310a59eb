//! What can befall a primary and its sink.

use std::fmt;
use std::time::Duration;

use anyhow::Result;
use walbus::sim::Random;

use super::Stage;
use crate::proxy::{Cut, Direction};

/// One thing that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// The link holds everything back while some more WAL is written, then lets it through.
    Blackhole,
    /// `CHECKPOINT`: WAL is removed and recycled.
    Checkpoint,
    /// The link is cut once.
    Cut(Cut),
    /// The link is cut again and again, each connection after so many bytes.
    CutAfter(u64),
    /// Each piece is held back for so long, until the next cut.
    Delay(Duration),
    /// Primary and sink are killed at once.
    KillBoth,
    /// The primary is killed, and recovers by itself.
    KillPrimary,
    /// The sink is killed.
    KillSink,
    /// One record of several pages or segments.
    LargeRecord,
    /// The data folder is copied: what the host will come back with is this.
    Snapshot,
    /// The sink is stopped in order.
    StopSink,
    /// `pg_switch_wal` many times in a row.
    SwitchStorm(u64),
}

/// How often what happened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    sink_killed: u32,
    primary_killed: u32,
    both_killed: u32,
    sink_stopped: u32,
    cuts: u32,
    delays: u32,
    switches: u64,
    others: u32,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "killed: sink {}, primary {}, both {}; sink stopped {}; cuts {}, delays {}, switches {}, others {}",
            self.sink_killed,
            self.primary_killed,
            self.both_killed,
            self.sink_stopped,
            self.cuts,
            self.delays,
            self.switches,
            self.others
        )
    }
}

impl Event {
    pub(super) fn any(random: &mut Random) -> Self {
        match random.below(18) {
            0..4 => Self::KillSink,
            4..7 => Self::KillPrimary,
            7..10 => Self::KillBoth,
            10 => Self::StopSink,
            11 => Self::Cut(if random.chance(1, 2) { Cut::Reset } else { Cut::Close }),
            12 => Self::CutAfter(1 + random.below(300_000)),
            13 => Self::SwitchStorm(3 + random.below(30)),
            14 => Self::Snapshot,
            15 => Self::LargeRecord,
            16 => Self::Delay(Duration::from_millis(1 + random.below(20))),
            _ if random.chance(1, 2) => Self::Checkpoint,
            _ => Self::Blackhole,
        }
    }
}

impl Stage {
    /// Makes it happen; in the end, commits can go on.
    pub(super) async fn befall(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Blackhole => self.blackhole().await?,
            Event::Checkpoint => {
                self.counts.others += 1;
                self.cluster.execute("CHECKPOINT").await?;
            }
            Event::Cut(how) => {
                self.counts.cuts += 1;
                self.proxy.cut(how);
                self.proxy.heal();
            }
            Event::CutAfter(bytes) => self.cut_again_and_again(bytes).await?,
            Event::Delay(delay) => {
                self.counts.delays += 1;
                self.proxy.delay(delay);
            }
            Event::KillBoth => {
                self.counts.both_killed += 1;
                self.kill_both()?;
                self.sink.start().await?;
                self.cluster.start().await?;
            }
            Event::KillPrimary => {
                self.counts.primary_killed += 1;
                self.cluster.kill()?;
                self.cluster.start().await?;
            }
            Event::KillSink => {
                self.counts.sink_killed += 1;
                self.sink.kill()?;
                self.sink.start().await?;
            }
            Event::LargeRecord => {
                self.counts.others += 1;
                self.large_record().await?;
            }
            Event::Snapshot => {
                self.counts.others += 1;
                let older = self.cluster.snapshot().await?;
                let forgotten = std::mem::replace(&mut self.older, older);
                self.cluster.forget(forgotten).await?;
            }
            Event::StopSink => {
                self.counts.sink_stopped += 1;
                self.sink.stop().await?;
                self.sink.start().await?;
            }
            Event::SwitchStorm(times) => self.switch_storm(times).await?,
        }
        Ok(())
    }

    async fn blackhole(&mut self) -> Result<()> {
        self.counts.delays += 1;
        self.proxy.blackhole();
        // Waits for nobody: what is written is not sent before the link is healed.
        self.cluster.value("SELECT pg_logical_emit_message(false, 'crash', repeat('b', 200000))").await?;
        self.proxy.heal();
        Ok(())
    }

    async fn cut_again_and_again(&mut self, bytes: u64) -> Result<()> {
        self.counts.cuts += 1;
        let before = self.proxy.connections();
        self.proxy.cut_after(Direction::ToClient, bytes, Cut::Reset);
        self.proxy.cut(Cut::Reset);
        crate::eventually(crate::DEADLINE, "two more connections", async || {
            Ok((self.proxy.connections() >= before + 2).then_some(()))
        })
        .await?;
        self.proxy.heal();
        Ok(())
    }

    async fn large_record(&mut self) -> Result<()> {
        let bytes = 10_000 + self.random.below(3_000_000);
        // Not transactional: its flush is waited for by the next commit, which may be killed before.
        self.cluster.value(&format!("SELECT pg_logical_emit_message(false, 'crash', repeat('c', {bytes}))")).await.map(drop)
    }

    async fn switch_storm(&mut self, times: u64) -> Result<()> {
        let client = self.cluster.client().await?;
        for _ in 0..times {
            client.batch_execute("SELECT pg_logical_emit_message(false, 'crash', 's'); SELECT pg_switch_wal()").await?;
        }
        self.counts.switches += times;
        Ok(())
    }
}
