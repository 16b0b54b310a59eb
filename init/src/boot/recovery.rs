//! The WAL that the volume lacks: from the sink, and proven after the start; or from the archive, up to a target.

use std::time::Duration;

use anyhow::{Result, bail};

use super::programs::own;
use super::{ANSWER, Boot};
use crate::engine::Spec;
use crate::settings::{ARCHIVE_STORE, PitrTarget, Program};

/// The longest pause between two attempts to reach what is away.
const PAUSE_MAX: Duration = Duration::from_secs(15);

impl Boot<'_> {
    /// Lays the WAL on the folder that it lacks and the sink has. Waits for a sink that is away, whatever the policy: a start without its
    /// WAL would lose what was acknowledged, for good.
    pub(super) fn sink_recover(&mut self) -> Result<()> {
        if !self.recovers_from_sink() {
            return Ok(());
        }
        let url = self.settings.wal_sink.clone().unwrap_or_default();
        let mut wait = Duration::from_millis(500);
        loop {
            let spec = self.sink_program(&["recover", "--from", &url, "--pgdata", &self.data_arg()])?;
            let outcome = self.engine.run(spec)?;
            if outcome.is_success() {
                self.sink_recovered = true;
                self.engine.board.recovered = Some(format!("WAL from {url}, not proven yet"));
                return Ok(());
            }
            let said = outcome.said();
            if said.contains(NOT_FOLLOWED) && self.remembered.promotion.is_some() {
                // It follows when the server runs, and not before; of the timeline that was begun here it has nothing.
                self.engine.log().warn(
                    "sink_recover",
                    format_args!("{url} has not followed the promotion yet: there is nothing in it to recover"),
                );
                return Ok(());
            }
            if said.contains(EMPTY) && !self.remembered.sink_has_wal {
                // A sink that is new: it gets its first WAL from the server that starts now.
                self.engine.log().warn("sink_recover", format_args!("{url} holds no WAL yet, and never had any of this volume"));
                return Ok(());
            }
            self.engine.board.not_ready = Some(format!("step sink_recover: {said}"));
            self.engine.log().error(
                "sink_recover",
                format_args!("the WAL of {url} can't be had, tried again in {wait:?} (unset BEYOND_PG_WAL_SINK to start without it, and lose what only the sink has): {said}"),
            );
            self.engine.pause_whole(wait)?;
            wait = (wait * 2).min(PAUSE_MAX);
        }
    }

    /// Proves that the server has replayed what was laid on it. Not ready before.
    pub(super) fn verify(&mut self) -> Result<()> {
        if !self.sink_recovered {
            return Ok(());
        }
        let conninfo =
            format!("host={} port={} user={} dbname=postgres", self.layout.run.display(), self.settings.port, super::SUPERUSER);
        let spec = self.sink_program(&["recover", "--verify", "--pgdata", &self.data_arg(), "--conninfo", &conninfo])?;
        let outcome = self.engine.run(spec)?;
        if !outcome.is_success() {
            bail!("the server has not replayed what the sink has: {}", outcome.said());
        }
        let url = self.settings.wal_sink.clone().unwrap_or_default();
        self.engine.board.recovered = Some(format!("proven: all WAL of {url} is replayed"));
        Ok(())
    }

    /// A cluster that is new has nothing to recover, a fork has a history of its own, and one that goes to a target does not go to the end.
    fn recovers_from_sink(&self) -> bool {
        // A promotion that was begun goes on from what the standby holds: all that was acknowledged.
        let promotes = self.remembered.promotion.as_ref().is_some_and(|promotion| promotion.to.is_none());
        self.settings.wal_sink.is_some() && !self.fresh && !self.is_fork() && !self.has_open_target() && !promotes
    }

    fn sink_program(&self, args: &[&str]) -> Result<Spec> {
        let mut args: Vec<String> = args.iter().map(ToString::to_string).collect();
        let settings = &self.settings;
        let files = [
            ("--ca", &settings.wal_sink_ca),
            ("--token-file", &settings.wal_sink_token_file),
            ("--client-cert", &settings.wal_sink_client_cert),
            ("--client-key", &settings.wal_sink_client_key),
        ];
        for (flag, file) in files {
            args.extend(file.iter().flat_map(|file| [flag.to_owned(), file.display().to_string()]));
        }
        Ok(Spec::new(own(settings, Program::Sink)?, args, self.account.as_ref()).named("recover"))
    }

    /// Recovers to the target, once for each: by a server that nobody but we can reach, so that nothing sees what is half-way.
    ///
    /// `restore` proves that the target can be reached before it writes anything, and may be run again until the server starts. From then on
    /// `recovery.signal`, which the server removes when it is there, says how far it is.
    pub(super) fn pitr(&mut self) -> Result<()> {
        if let (Some(begun), None) = (&self.remembered.pitr_begun, &self.settings.pitr_target) {
            bail!(
                "the volume is being recovered to {begun}, and BEYOND_PG_PITR_TARGET is not set any more: set it again, which goes on with it; or,                  before the server has replayed anything, take it back by beyond-pg-archiver restore --undo --pgdata {} and remove pitr_begun from {}",
                self.layout.data.display(),
                self.layout.state.display()
            );
        }
        let Some(target) = self.settings.pitr_target.clone().filter(|_| self.has_open_target()) else { return Ok(()) };
        let (flag, value) = match &target {
            PitrTarget::Lsn(lsn) => ("--target-lsn", lsn),
            PitrTarget::Time(time) => ("--target-time", time),
        };
        if self.remembered.pitr_begun.as_deref() != Some(value) {
            let outcome = self.archiver(&["restore", flag, value, "--action", "promote"])?;
            if !outcome.is_success() {
                bail!("BEYOND_PG_PITR_TARGET={value} can't be recovered to: {}", outcome.said());
            }
            self.remembered.pitr_begun = Some(value.clone());
            self.remembered.write(&self.layout)?;
        }
        if self.layout.data.join("recovery.signal").exists() {
            self.check()?;
            self.replay_to(value)?;
        }
        let outcome = self.archiver(&["restore", "--undo"])?;
        if !outcome.is_success() {
            bail!("the settings of the recovery can't be taken back: {}", outcome.said());
        }
        self.remembered.pitr_done = Some(value.clone());
        self.remembered.pitr_begun = None;
        self.remembered.write(&self.layout)?;
        self.engine.board.recovered = Some(format!("to {value}"));
        self.engine.log().info("pitr", format_args!("recovered to {value}"));
        Ok(())
    }

    fn replay_to(&mut self, target: &str) -> Result<()> {
        let folder = self.start_alone()?;
        let server = self.alone(&folder, "postgres");
        self.engine.board.not_ready = Some(format!("step pitr: replaying WAL up to {target}"));
        let mut talk = self.engine.open(&server, ANSWER)?;
        while super::identity::first(&self.engine.ask(&mut talk, "select pg_is_in_recovery()", ANSWER)?) == "t" {
            self.engine.pause_whole(Duration::from_millis(50))?;
        }
        drop(talk);
        self.engine.unwant(crate::supervise::Child::Postgres)
    }

    /// Whether there is a target that was not reached yet.
    pub(crate) fn has_open_target(&self) -> bool {
        self.settings.pitr_target.as_ref().is_some_and(|target| self.remembered.pitr_done.as_deref() != Some(target.as_str()))
    }

    fn archiver(&mut self, args: &[&str]) -> Result<crate::engine::Outcome> {
        let program = own(&self.settings, Program::Archiver)?;
        let data = self.data_arg();
        let args = args.iter().copied().chain(["--pgdata", &data]);
        let environment: Vec<_> = self.archive_environment();
        let spec = Spec::new(program, args, self.account.as_ref()).envs(environment).named("restore");
        self.engine.run(spec)
    }

    /// What the archiver is told, wherever it is run. As long as there is a target to recover to, its store is the one to recover from, and nothing
    /// is archived.
    pub(crate) fn archive_environment(&self) -> Vec<(String, String)> {
        let from = self.settings.pitr_store.clone().filter(|_| self.has_open_target());
        let passed = self.settings.passed(Program::Archiver).map(|(name, value)| (name.to_owned(), value.to_owned()));
        let passed = passed.filter(|(name, _)| from.is_none() || name != ARCHIVE_STORE);
        let passed = passed.chain(from.clone().map(|store| (ARCHIVE_STORE.to_owned(), store)));
        // Credentials of object stores come by names that are not ours.
        let foreign =
            std::env::vars().filter(|(name, _)| ["AWS_", "GOOGLE_", "AZURE_"].iter().any(|prefix| name.starts_with(prefix)));
        passed.chain(foreign).collect()
    }
}

impl Boot<'_> {
    /// Whether WAL is archived: there is a store, and it is not the one of the database that this is a fork of. Both have one system identifier,
    /// and the timelines that they begin have the same numbers: what one has archived, the other would be refused.
    pub(crate) fn archives(&self) -> bool {
        let remembered = &self.remembered;
        let own = remembered.archive_store.iter().filter(|_| self.is_fork());
        self.settings
            .archive_store()
            .is_some_and(|store| !remembered.parents_stores.iter().chain(own).any(|held| held == plain_store(store)))
    }

    /// Notes the store that is archived to, for a fork of this volume.
    pub(super) fn remember_store(&mut self) -> Result<()> {
        // Until a fork is freed, what is noted is its parent's.
        let Some(store) =
            self.settings.archive_store().filter(|_| self.archives() && !self.is_fork()).map(|store| plain_store(store).to_owned())
        else {
            return Ok(());
        };
        if self.remembered.archive_store.as_ref() == Some(&store) {
            return Ok(());
        }
        self.remembered.archive_store = Some(store);
        self.remembered.write(&self.layout)
    }

    /// Why nothing is archived though there is a store.
    pub(crate) fn archive_alarm(&self) -> Option<String> {
        let store = self.settings.archive_store().filter(|_| !self.archives())?;
        Some(format!(
            "nothing is archived: BEYOND_PG_ARCHIVE_STORE={store} is the archive of the database that this is a fork of. Give it a prefix of its own;              to recover from it alone there is BEYOND_PG_PITR_STORE"
        ))
    }
}

/// A store's URL, as it is compared.
fn plain_store(store: &str) -> &str {
    store.trim_end_matches('/')
}

/// What `recover` says of a sink that is on an earlier timeline than the folder.
const NOT_FOLLOWED: &str = "this server was promoted and the sink did not follow";

/// What `recover` says of a sink that has not received anything.
const EMPTY: &str = "the sink holds no WAL yet";
