//! While all runs: the pool is asked, the disk and the sink are watched, settings are read again, and what follows is done.

use std::time::Duration;

use anyhow::Result;

use crate::boot::{ANSWER, Boot};
use crate::engine::{Asked, Stopped, Talk};
use crate::settings::{Settings, SinkPolicy, Tier};
use crate::status::{DiskStatus, SinkStatus};
use crate::supervise::{Child, Moment};
use crate::volume::{remove_durably, space, write_durably};

mod disk;
mod ha;
mod reload;
mod sink;

use disk::{Ballast, DiskWatch};
use ha::PairWatch;
use sink::{Change, Seen, SinkWatch};

/// How often the disk is looked at.
const DISK: Duration = Duration::from_secs(2);
/// How often the sink is.
const SINK: Duration = Duration::from_secs(1);
/// How often a query goes through the pool while all is well, and while it is not.
const PROBE: Duration = Duration::from_secs(5);
const PROBE_AGAIN: Duration = Duration::from_millis(50);
/// How long it may take then: the disk and the sink are looked at in between.
const PROBE_SHORT: Duration = Duration::from_secs(1);
/// How often pending restarts are looked for.
const PENDING: Duration = Duration::from_secs(30);

/// The layer that makes the database read-only.
const DISK_LAYER: &str = "40-disk.conf";
/// The layer that has commits not wait for the sink.
pub(crate) const SINK_LAYER: &str = "50-sink.conf";

/// Runs until all ends.
///
/// # Errors
/// [`Stopped`] when it does.
pub(crate) fn live(boot: &mut Boot<'_>) -> Result<()> {
    let now = boot.engine.now();
    let mut live = Live {
        disk: DiskWatch::default(),
        sink: SinkWatch::new(boot.settings.wal_sink_delay, boot.layout.conf.join(SINK_LAYER).exists()),
        pair: PairWatch::new(boot),
        talk: None,
        due: Due { disk: now, metadata: now + boot.settings.lookup.metadata_interval, pending: now, probe: now + PROBE, sink: now },
        deaths: boot.deaths(),
        alarms: Alarms::default(),
    };
    if boot.settings.tier == Tier::Sink {
        loop {
            boot.engine.pause(PROBE)?;
        }
    }
    // Read-only of a disk that was full at the last boot: looked at again at once.
    live.disk.set_read_only(boot.layout.conf.join(DISK_LAYER).exists());
    loop {
        live.turn(boot)?;
    }
}

struct Live {
    disk: DiskWatch,
    sink: SinkWatch,
    pair: PairWatch,
    talk: Option<Talk>,
    due: Due,
    deaths: u64,
    alarms: Alarms,
}

struct Due {
    disk: Moment,
    metadata: Moment,
    pending: Moment,
    probe: Moment,
    sink: Moment,
}

/// What is wrong at present, by what it is about.
#[derive(Debug, Default)]
struct Alarms {
    disk: Option<String>,
    pool: Option<String>,
    settings: Option<String>,
    sink: Option<String>,
}

impl Live {
    fn turn(&mut self, boot: &mut Boot<'_>) -> Result<()> {
        while let Some(asked) = boot.engine.take_asked() {
            match asked {
                Asked::Promote { force } => self.promote(boot, force)?,
                Asked::Reload => self.reload(boot)?,
            }
        }
        let now = boot.engine.now();
        if boot.deaths() != self.deaths {
            self.deaths = boot.deaths();
            boot.remember_set_aside()?;
            boot.engine.board.ready = false;
            boot.engine.board.not_ready = Some("a child has ended and is started again".to_owned());
            self.due.probe = now;
        }
        if self.due.disk <= now {
            self.due.disk = now + DISK;
            self.look_at_disk(boot)?;
        }
        if boot.settings.wal_sink.is_none() {
            // The layer of one that was away is gone with the setting.
            (self.sink, self.alarms.sink) = (SinkWatch::new(boot.settings.wal_sink_delay, false), None);
        } else if self.due.sink <= now && boot.settings.tier == Tier::Primary {
            self.due.sink = now + SINK;
            self.look_at_sink(boot)?;
        }
        if self.pair.due <= now {
            self.look_at_pair(boot)?;
        }
        if self.due.probe <= now {
            self.probe(boot)?;
        }
        if self.due.pending <= now {
            self.due.pending = now + PENDING;
            self.look_for_pending(boot)?;
        }
        if self.due.metadata <= now {
            self.due.metadata = now + boot.settings.lookup.metadata_interval;
            self.look_at_metadata(boot)?;
        }
        boot.engine.board.alarms =
            self.alarms.all().into_iter().chain(self.pair.alarms.iter().cloned()).chain(boot.archive_alarm()).collect();
        let next = [self.due.disk, self.due.metadata, self.due.pending, self.due.probe, self.due.sink, self.pair.due]
            .into_iter()
            .filter(|due| *due > now)
            .min();
        let now = boot.engine.now();
        boot.engine.pause(next.map_or(SINK, |next| next.saturating_sub(now)))
    }

    /// A query through the pool.
    fn probe(&mut self, boot: &mut Boot<'_>) -> Result<()> {
        if !boot.postgres_is_ready() {
            // PgBouncer would have the query wait.
            let why = boot.engine.core().last_death(Child::Postgres).map(|death| death.text.clone()).unwrap_or_default();
            let board = &mut boot.engine.board;
            (board.ready, board.not_ready) = (false, Some(format!("Postgres is not up: {why}")));
            self.due.probe = boot.engine.now() + PROBE_AGAIN;
            return Ok(());
        }
        let limit = if boot.engine.board.ready { PROBE } else { PROBE_SHORT };
        let answer = boot.engine.ask_once(&boot.pool(), "select 1", limit);
        let failed = unless_stopped(answer)?.err();
        let board = &mut boot.engine.board;
        match failed {
            None => {
                if !board.ready {
                    boot.engine.log().info("ready", "a query through PgBouncer answers again");
                }
                let board = &mut boot.engine.board;
                (board.ready, board.not_ready, self.alarms.pool) = (true, None, None);
                self.due.probe = boot.engine.now() + PROBE;
            }
            Some(error) => {
                let text = format!("no query through PgBouncer: {error:#}");
                if board.ready || board.not_ready.as_ref() != Some(&text) {
                    boot.engine.log().error("ready", &text);
                }
                let board = &mut boot.engine.board;
                (board.ready, board.not_ready) = (false, Some(text.clone()));
                self.alarms.pool = Some(text);
                self.due.probe = boot.engine.now() + PROBE_AGAIN;
            }
        }
        Ok(())
    }

    fn look_at_disk(&mut self, boot: &mut Boot<'_>) -> Result<()> {
        let layout = boot.layout.clone();
        let (mut free, mut total) = space(&layout.data)?;
        // WAL on a disk of its own can be full by itself.
        if let Ok((wal_free, wal_total)) = space(&layout.wal)
            && wal_free < free
        {
            (free, total) = (wal_free, wal_total);
        }
        boot.engine.look_for_space(&layout.data)?;
        let held = layout.ballast.metadata().map_or(0, |meta| meta.len());
        let decision = self.disk.decide(free, total, held);
        match decision.ballast {
            Ballast::Keep => {}
            Ballast::Make(size) => {
                // A quota may say no where there is room. The database is well without it.
                if let Err(error) = disk::make_ballast(&layout.ballast, size) {
                    boot.engine.log().warn("disk", format_args!("no ballast of {} MB: {error:#}", size >> 20));
                }
            }
            Ballast::Release => {
                std::fs::remove_file(&layout.ballast).ok();
                boot.engine
                    .log()
                    .warn("disk", format_args!("{} MB free: the ballast of {} MB is given back", free >> 20, held >> 20));
            }
        }
        let read_only = decision.read_only;
        boot.engine.board.disk = Some(DiskStatus { free_bytes: free, total_bytes: total, read_only });
        self.alarms.disk = read_only.then(|| {
            format!("{} MB free: transactions are read-only until there is space; to free some: begin read write", free >> 20)
        });
        if decision.changed {
            let text = read_only
                .then_some("# The disk is nearly full. Taken back when there is space.\ndefault_transaction_read_only = on\n");
            boot.engine
                .log()
                .error("disk", if read_only { "the disk is nearly full: read-only" } else { "there is space again: read-write" });
            // Where not even this can be written, the next look tries again.
            if let Err(error) = set_layer(boot, DISK_LAYER, text) {
                boot.engine.log().error("disk", format_args!("{error:#}"));
                self.disk.set_read_only(!read_only);
            }
        }
        Ok(())
    }

    fn look_at_sink(&mut self, boot: &mut Boot<'_>) -> Result<()> {
        let Some(seen) = self.see_sink(boot)? else { return Ok(()) };
        let preferred = boot.settings.wal_sink_policy == SinkPolicy::Preferred;
        if seen == Seen::CaughtUp && !boot.remembered.sink_has_wal {
            boot.remembered.sink_has_wal = true;
            if let Err(error) = boot.remembered.write(&boot.layout) {
                boot.remembered.sink_has_wal = false;
                boot.engine.log().error("sink", format_args!("that the sink has WAL can't be remembered: {error:#}"));
            }
        }
        let now = boot.engine.now();
        let change = self.sink.handle_seen(seen, preferred, now);
        let made = match change {
            None => Ok(()),
            Some(Change::Release) => {
                boot.engine.log().error(
                    "sink",
                    "the WAL sink is away: commits no longer wait for it, and are lost with this host until it is back",
                );
                boot.write_sink_layer().and_then(|_| apply_layers(boot))
            }
            Some(Change::Restore) => {
                boot.engine.log().info("sink", "the WAL sink has caught up: commits wait for it again");
                set_layer(boot, SINK_LAYER, None)
            }
        };
        // The next look tries again: for want of a file, nobody stops a server that runs.
        if let (Some(change), Err(error)) = (change, made) {
            boot.engine.log().error("sink", format_args!("that can't be written: {error:#}"));
            self.sink.handle_failed(change);
        }
        let streaming = seen == Seen::CaughtUp;
        let policy = if preferred { "preferred" } else { "required" };
        let commits_wait = !self.sink.is_released();
        boot.engine.board.sink = Some(SinkStatus { policy: policy.to_owned(), streaming, commits_wait });
        self.alarms.sink = match (seen, commits_wait) {
            (Seen::CaughtUp, _) => None,
            (_, true) => Some("the WAL sink is away: commits wait for it".to_owned()),
            (_, false) => {
                Some("the WAL sink is away or behind: commits do not wait for it, and are lost with this host".to_owned())
            }
        };
        Ok(())
    }

    /// How the sink is, as the server sees it; `None` where the server can't be asked.
    fn see_sink(&mut self, boot: &mut Boot<'_>) -> Result<Option<Seen>> {
        let name = crate::sql::literal(&boot.settings.wal_sink_name);
        let sql = format!(
            "select state = 'streaming' and pg_wal_lsn_diff(pg_current_wal_flush_lsn(), flush_lsn) < 16777216 from pg_stat_replication \
             where application_name = {name} order by 1 desc nulls last limit 1"
        );
        let Some(rows) = self.ask(boot, &sql)? else { return Ok(None) };
        Ok(Some(match rows.first().and_then(|row| row.first()) {
            Some(Some(caught_up)) if caught_up == "t" => Seen::CaughtUp,
            Some(_) => Seen::Behind,
            None => Seen::Away,
        }))
    }

    /// Settings that the running server does not take before it is started again.
    fn look_for_pending(&mut self, boot: &mut Boot<'_>) -> Result<()> {
        let sql = "select name, setting from pg_settings where pending_restart order by name";
        let Some(rows) = self.ask(boot, sql)? else { return Ok(()) };
        let names = rows.into_iter().filter_map(|row| row.into_iter().next().flatten());
        let of_boot = boot.pending_of_boot.iter().map(|name| format!("{name}: takes hold at the next boot"));
        let pending: Vec<String> =
            names.map(|name| format!("{name}: takes hold when Postgres is started again")).chain(of_boot).collect();
        boot.engine.board.pending_restart = pending;
        Ok(())
    }

    /// Asks the server over a session that is kept; `None` where it does not answer.
    fn ask(&mut self, boot: &mut Boot<'_>, sql: &str) -> Result<Option<crate::sql::Rows>> {
        if self.talk.is_none() {
            self.talk = unless_stopped(boot.engine.open(&boot.server("postgres"), PROBE))?.ok();
        }
        let Some(talk) = &mut self.talk else { return Ok(None) };
        let answer = unless_stopped(boot.engine.ask(talk, sql, ANSWER))?;
        if answer.is_err() {
            self.talk = None;
        }
        Ok(answer.ok())
    }
}

impl Alarms {
    fn all(&self) -> Vec<String> {
        [&self.disk, &self.pool, &self.settings, &self.sink].into_iter().flatten().cloned().collect()
    }
}

impl Boot<'_> {
    fn deaths(&self) -> u64 {
        [Child::Postgres, Child::PgBouncer].map(|child| self.engine.core().deaths(child)).iter().sum()
    }
}

/// Writes or removes a layer, and has Postgres read it.
fn set_layer(boot: &Boot<'_>, name: &str, text: Option<&str>) -> Result<()> {
    let path = boot.layout.conf.join(name);
    match text {
        Some(text) => {
            write_durably(&path, text.as_bytes(), 0o600, boot.owner())?;
        }
        None => {
            remove_durably(&path)?;
        }
    }
    apply_layers(boot)
}

/// Has Postgres read what was written.
fn apply_layers(boot: &Boot<'_>) -> Result<()> {
    // Without a standby, who commits wait for is said there as well.
    boot.write_ha_layer()?;
    boot.engine.hup(Child::Postgres);
    Ok(())
}

/// An answer or a failure; [`Stopped`] goes through.
fn unless_stopped<T>(answer: Result<T>) -> Result<Result<T>> {
    match answer {
        Err(error) if error.downcast_ref::<Stopped>().is_some() => Err(error),
        other => Ok(other),
    }
}

/// What has changed between two readings of the settings, by name.
fn changed(before: &Settings, after: &Settings) -> Vec<&'static str> {
    let held = |name: &str| before.provenance().iter().find(|one| one.name == name).and_then(|one| one.value.clone());
    let names = after.provenance().iter().filter(|one| held(one.name) != one.value).map(|one| one.name);
    let gone =
        before.provenance().iter().map(|one| one.name).filter(|name| !after.provenance().iter().any(|one| one.name == *name));
    names.chain(gone).collect()
}
