//! What can befall Postgres, its archiver and its store.

use std::time::Duration;

use anyhow::{Result, ensure};
use rustix::process::Signal;
use walbus::sim::Random;

use super::{CATCH_UP, Stage};
use crate::s3::{Fault, Refuse, When};
use crate::wait::eventually;

/// The clock jumps by one of these, either way.
const JUMPS: [Duration; 4] =
    [Duration::from_millis(300), Duration::from_mins(20), Duration::from_hours(30), Duration::from_hours(9 * 365 * 24)];

/// One thing that happens; faults last until some more WAL was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// Who uploads is killed when the store has taken something, and before it says so.
    Between,
    /// The clock of `push` and of the daemon is so many microseconds off from now on.
    ClockJump(i64),
    /// This goes wrong with requests of that method, all or the first few.
    Fault(&'static str, Fault, Option<u64>),
    /// The daemon is stopped for as long as a push or two take.
    HangDaemon,
    /// Postgres, the daemon and the store are killed at once.
    KillAll,
    /// The daemon is killed, where there is one.
    KillDaemon,
    /// Postgres is killed, its running push with it, and recovers by itself.
    KillPostgres,
    /// The push that runs is killed.
    KillPush,
    /// The store is away, in this way or killed, until pushes have failed. What counts as archived is removed meanwhile, or Postgres is killed.
    Outage(Option<Fault>),
    /// Postgres goes on on another timeline.
    Promote,
    /// The store is killed and comes back at once.
    RestartStore,
    /// A second daemon is started beside the first.
    SecondDaemon,
    /// `pg_switch_wal` many times in a row.
    SwitchStorm(u64),
}

impl Event {
    /// What happens in a round, in its order. What lies are found by is in each.
    pub(super) fn sequence(random: &mut Random) -> Vec<Self> {
        let mut events: Vec<Self> = (0..3 + random.below(4)).map(|_| Self::any(random)).collect();
        for event in [Self::Outage(outage(random)), Self::Outage(outage(random)), Self::Between] {
            let at = usize::try_from(random.below(events.len() as u64 + 1)).unwrap_or(0);
            events.insert(at, event);
        }
        events
    }

    fn any(random: &mut Random) -> Self {
        match random.below(20) {
            0..3 => Self::KillPostgres,
            // Postgres starts its archiver again after 10 s, no more than one of these in a round on average.
            3 => Self::KillPush,
            4..6 => Self::KillDaemon,
            6 => Self::RestartStore,
            7 => Self::KillAll,
            8 | 9 => Self::Promote,
            10 => Self::SwitchStorm(3 + random.below(20)),
            11 => Self::HangDaemon,
            12 => Self::SecondDaemon,
            13 | 14 => {
                let jump = JUMPS.get(usize::try_from(random.below(4)).unwrap_or(0)).map_or(0, Duration::as_micros);
                let jump = i64::try_from(jump).unwrap_or(0);
                Self::ClockJump(if random.chance(1, 2) { jump } else { -jump })
            }
            _ => {
                let method = if random.chance(3, 4) { "PUT" } else { "GET" };
                let times = random.chance(1, 2).then(|| 1 + random.below(4));
                Self::Fault(method, fault(random), times)
            }
        }
    }
}

fn fault(random: &mut Random) -> Fault {
    match random.below(12) {
        0..6 => Fault::Refuse(refuse(random)),
        6 => Fault::Hang,
        7 => Fault::CutRequest(random.below(60_000)),
        8 => Fault::FlipRequest(random.below(20_000)),
        9 => Fault::Delay(Duration::from_millis(1 + random.below(400))),
        10 => Fault::CutResponse(random.below(100)),
        _ => Fault::LoseAnswer,
    }
}

fn refuse(random: &mut Random) -> Refuse {
    match random.below(5) {
        0 => Refuse::SlowDown,
        1 => Refuse::InternalError,
        2 => Refuse::TooManyRequests,
        3 => Refuse::RequestTimeTooSkewed,
        _ => Refuse::ExpiredToken,
    }
}

/// A way to be away in which nothing is stored; `None` to be killed.
pub(super) fn outage(random: &mut Random) -> Option<Fault> {
    match random.below(4) {
        0 => None,
        1 => Some(Fault::Hang),
        _ => Some(Fault::Refuse(refuse(random))),
    }
}

impl Stage {
    /// Makes it happen.
    pub(super) async fn befall(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Between => self.kill_between().await?,
            Event::ClockJump(by) => {
                self.counts.clock_jumps += 1;
                self.clock.shift_us(by)?;
                self.heard(1).await?;
            }
            Event::Fault(method, fault, times) => self.fault(method, fault, times).await?,
            Event::HangDaemon => self.hang_daemon().await?,
            Event::KillAll => {
                self.counts.all_killed += 1;
                self.kill_daemon()?;
                self.server.kill()?;
                self.restart_postgres().await?;
            }
            Event::KillDaemon => {
                self.counts.daemon_killed += u32::from(self.running().is_some());
                self.kill_daemon()?;
                // Now and then, pushes do without for a while.
                if self.random.chance(1, 2) {
                    self.start_daemon().await?;
                }
            }
            Event::KillPostgres => {
                self.counts.postgres_killed += 1;
                self.restart_postgres().await?;
            }
            Event::KillPush if self.is_followed_alone() => self.kill_daemon()?,
            Event::KillPush => self.kill_push().await?,
            Event::Outage(how) => self.be_away(how).await?,
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
            Event::SecondDaemon => self.start_second_daemon().await?,
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

    async fn fault(&mut self, method: &'static str, fault: Fault, times: Option<u64>) -> Result<()> {
        self.counts.faults += 1;
        let when = When::method(method);
        let hits = self.faults.add(times.into_iter().fold(when, When::times), fault);
        // Of GETs there may be none while all goes well.
        if method == "GET" {
            self.heard(1).await?;
        } else {
            eventually(CATCH_UP, "a request that it befalls", async || {
                self.urge().await?;
                Ok((hits.count() > 0).then_some(()))
            })
            .await?;
        }
        self.counts.hits += hits.count();
        Ok(())
    }

    /// Postgres is killed and comes back; what it took for archived must be in the store.
    async fn restart_postgres(&mut self) -> Result<()> {
        self.cluster.kill()?;
        self.check_done().await?;
        self.cluster.start().await
    }

    async fn be_away(&mut self, how: Option<Fault>) -> Result<()> {
        self.counts.outages += 1;
        match how {
            Some(fault) => drop(self.faults.add(When::any(), fault)),
            None => {
                self.counts.store_killed += 1;
                self.server.kill()?;
            }
        }
        let before = self.failed().await?;
        let answers = 1 + self.random.below(2);
        self.heard(answers).await?;
        self.counts.failed += self.failed().await?.saturating_sub(before);
        if self.random.chance(1, 2) {
            self.cluster.execute("CHECKPOINT").await?;
        } else {
            self.counts.postgres_killed += 1;
            self.restart_postgres().await?;
        }
        Ok(())
    }

    /// Catches an upload that the store has taken while its answer is held back, and kills who waits for it.
    async fn kill_between(&mut self) -> Result<()> {
        self.counts.between += 1;
        let hits = self.faults.add(When::method("PUT").of(".zst"), Fault::HoldAnswer);
        let is_followed = self.is_followed_alone();
        let system = self.cluster.system().await?;
        eventually(CATCH_UP, "an upload whose answer is held back", async || {
            if is_followed {
                self.urge_follow().await?;
                return Ok((hits.count() > 0).then_some(()));
            }
            self.urge().await?;
            for file in self.ready()? {
                if self.archiver.content(&self.client, system, &file).await?.is_some() {
                    return Ok(Some(()));
                }
            }
            Ok(None)
        })
        .await?;
        self.kill_daemon()?;
        if self.random.chance(1, 2) {
            self.restart_postgres().await?;
        }
        Ok(())
    }

    async fn hang_daemon(&mut self) -> Result<()> {
        let Some(daemon) = self.running() else { return Ok(()) };
        daemon.process()?.signal(Signal::STOP)?;
        self.counts.hangs += 1;
        let heard = self.heard(1).await;
        if let Some(daemon) = self.running() {
            daemon.process()?.signal(Signal::CONT)?;
        }
        heard
    }

    async fn start_second_daemon(&mut self) -> Result<()> {
        if self.running().is_none() {
            return Ok(());
        }
        self.counts.refused_daemons += 1;
        let second = self.archiver.run("serve", [std::path::Path::new("--pgdata"), self.cluster.data()]).await?;
        ensure!(second.ended(1, &["another `beyond-pg-archiver serve`"]), "a second daemon was not refused: {second:?}");
        ensure!(self.running().is_some(), "a second daemon has ended the first");
        Ok(())
    }

    /// Catches a push while it waits for its store, or right after, and kills it.
    async fn kill_push(&mut self) -> Result<()> {
        let delay = Duration::from_millis(self.random.below(300));
        self.faults.add(When::any(), Fault::Delay(delay));
        let killed = eventually(CATCH_UP, "a push to be killed", async || {
            self.urge().await?;
            let killed = self.cluster.process()?.signal_descendants("beyond-pg-archi", Signal::KILL)?;
            Ok((killed > 0).then_some(killed))
        })
        .await?;
        self.counts.pushes_killed += u32::try_from(killed)?;
        Ok(())
    }

    /// Sees to it that there is something to be archived, and that Postgres does not sleep over it.
    pub(super) async fn urge(&mut self) -> Result<()> {
        if self.ready()?.len() < 2 {
            self.cluster.execute("SELECT pg_switch_wal() FROM pg_logical_emit_message(false, 'crash', 's')").await?;
        }
        // After three failures, the archiver sleeps for a minute, unless it is woken.
        self.cluster.reload()
    }

    /// Waits until Postgres has heard so many more answers of its `archive_command`.
    async fn heard(&mut self, answers: u64) -> Result<()> {
        const SQL: &str = "SELECT archived_count + failed_count FROM pg_stat_archiver";
        let from: u64 = self.cluster.value(SQL).await?.parse()?;
        eventually(CATCH_UP, "answers of archive_command", async || {
            self.urge().await?;
            let now: u64 = self.cluster.value(SQL).await?.parse()?;
            Ok((now >= from + answers).then_some(()))
        })
        .await?;
        if self.is_followed_alone() { self.asked(2 * answers).await } else { Ok(()) }
    }

    async fn failed(&self) -> Result<u64> {
        Ok(self.cluster.value("SELECT failed_count FROM pg_stat_archiver").await?.parse()?)
    }
}
