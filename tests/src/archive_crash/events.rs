//! What can befall Postgres, its archiver and its store.

use std::fmt;
use std::time::Duration;

use anyhow::{Result, ensure};
use rustix::process::Signal;
use walbus::sim::Random;

use super::Stage;
use crate::s3::{Fault, Refuse, When};

/// One thing that happens; faults last until some more WAL was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// `CHECKPOINT`: what was archived is removed.
    Checkpoint,
    /// This goes wrong with requests of that method, all or the first few.
    Fault(&'static str, Fault, Option<u64>),
    /// Postgres, the daemon and the store are killed at once.
    KillAll,
    /// The daemon is killed, where there is one.
    KillDaemon,
    /// Postgres is killed, its running push with it, and recovers by itself.
    KillPostgres,
    /// The push that runs is killed.
    KillPush,
    /// The store is killed.
    KillStore,
    /// Postgres goes on on another timeline.
    Promote,
    /// The store is killed and comes back at once.
    RestartStore,
    /// `pg_switch_wal` many times in a row.
    SwitchStorm(u64),
}

/// How often what happened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    postgres_killed: u32,
    daemon_killed: u32,
    pushes_killed: u32,
    store_killed: u32,
    all_killed: u32,
    promotions: u32,
    faults: u32,
    /// Requests that a fault has befallen.
    hits: u64,
    switches: u64,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "killed: postgres {}, push {}, daemon {}, store {}, all {}; promotions {}; faults {} of {} requests; switches {}",
            self.postgres_killed,
            self.pushes_killed,
            self.daemon_killed,
            self.store_killed,
            self.all_killed,
            self.promotions,
            self.faults,
            self.hits,
            self.switches
        )
    }
}

impl Event {
    pub(super) fn any(random: &mut Random) -> Self {
        match random.below(20) {
            0..4 => Self::KillPostgres,
            // Postgres starts its archiver again after 10 s, no more than one of these in a round on average.
            4..6 => Self::KillPush,
            6..9 => Self::KillDaemon,
            9 => Self::KillStore,
            10 => Self::RestartStore,
            11 => Self::KillAll,
            12 => Self::Promote,
            13 => Self::SwitchStorm(3 + random.below(10)),
            14 => Self::Checkpoint,
            _ => {
                let method = if random.chance(3, 4) { "PUT" } else { "GET" };
                let times = random.chance(1, 2).then(|| 1 + random.below(4));
                Self::Fault(method, fault(random), times)
            }
        }
    }
}

fn fault(random: &mut Random) -> Fault {
    match random.below(11) {
        0 => Fault::Refuse(Refuse::SlowDown),
        1 => Fault::Refuse(Refuse::InternalError),
        2 => Fault::Refuse(Refuse::TooManyRequests),
        3 => Fault::Refuse(Refuse::ExpiredToken),
        4 => Fault::Hang,
        5 => Fault::CutRequest(random.below(60_000)),
        6 => Fault::FlipRequest(random.below(20_000)),
        7 => Fault::Delay(Duration::from_millis(1 + random.below(400))),
        8 => Fault::CutResponse(random.below(100)),
        _ => Fault::LoseAnswer,
    }
}

impl Stage {
    /// Makes it happen.
    pub(super) async fn befall(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Checkpoint => self.cluster.execute("CHECKPOINT").await?,
            Event::Fault(method, fault, times) => {
                self.counts.faults += 1;
                let when = When::method(method);
                let hits = self.faults.add(times.into_iter().fold(when, When::times), fault);
                // Segments follow each other fast enough that one meets it.
                crate::eventually(super::CATCH_UP, "a request that it befalls", async || {
                    self.cluster.execute("SELECT pg_switch_wal() FROM pg_logical_emit_message(false, 'crash', 's')").await?;
                    self.cluster.reload()?;
                    Ok((method == "GET" || hits.count() > 0).then_some(()))
                })
                .await?;
                self.counts.hits += hits.count();
            }
            Event::KillAll => {
                self.counts.all_killed += 1;
                if let Some(daemon) = &mut self.daemon {
                    daemon.kill()?;
                }
                self.cluster.kill()?;
                self.server.kill()?;
                self.check_done().await?;
                self.cluster.start().await?;
            }
            Event::KillDaemon => {
                if let Some(daemon) = &mut self.daemon {
                    self.counts.daemon_killed += 1;
                    daemon.kill()?;
                    // Now and then, pushes do without for a while.
                    if self.random.chance(1, 2) {
                        daemon.start().await?;
                    }
                }
            }
            Event::KillPostgres => {
                self.counts.postgres_killed += 1;
                self.cluster.kill()?;
                self.check_done().await?;
                self.cluster.start().await?;
            }
            Event::KillPush => self.kill_push().await?,
            Event::KillStore => {
                self.counts.store_killed += 1;
                self.server.kill()?;
            }
            Event::Promote => {
                self.counts.promotions += 1;
                // Its shutdown waits for them, for as long as they take.
                self.archived().await?;
                self.cluster.restart_as_standby().await?;
                self.cluster.promote().await?;
                self.push_within(super::PUSH_SECONDS)?;
            }
            Event::RestartStore => {
                self.counts.store_killed += 1;
                self.server.kill()?;
                self.server.start().await?;
            }
            Event::SwitchStorm(times) => {
                let client = self.cluster.client().await?;
                for _ in 0..times {
                    client.batch_execute("SELECT pg_logical_emit_message(false, 'crash', 's'); SELECT pg_switch_wal()").await?;
                }
                self.counts.switches += times;
            }
        }
        Ok(())
    }

    /// Catches a push while it waits for its store, or right after, and kills it.
    async fn kill_push(&mut self) -> Result<()> {
        let delay = Duration::from_millis(self.random.below(300));
        self.faults.add(When::any(), Fault::Delay(delay));
        let killed = crate::eventually(super::CATCH_UP, "a push to be killed", async || {
            self.cluster.execute("SELECT pg_switch_wal() FROM pg_logical_emit_message(false, 'crash', 's')").await?;
            let killed = self.cluster.process()?.signal_descendants("beyond-pg-archi", Signal::KILL)?;
            Ok((killed > 0).then_some(killed))
        })
        .await?;
        ensure!(killed > 0, "no push was killed");
        self.counts.pushes_killed += u32::try_from(killed)?;
        Ok(())
    }
}
