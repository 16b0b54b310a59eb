//! A former primary comes back as a standby.

use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::Boot;
use crate::machine;
use crate::volume::{self, write_durably};

/// The longest pause between two attempts.
const PAUSE_MAX: Duration = Duration::from_secs(15);

/// What `pg_rewind` writes into the `backup_label` that it leaves.
const REWOUND: &str = "BACKUP METHOD: pg_rewind";

/// What `pg_rewind` says where the other server is on the timeline that this one was on.
const SAME_TIMELINE: &str = "on the same timeline";

/// By what the kernel tells its runs apart: what was not synced is lost with one.
fn run_of_the_kernel() -> Result<String> {
    machine::kernel_random("boot_id").context("find out which run of the kernel this is")
}

impl Boot<'_> {
    /// Whether the data folder is a primary's that shall be a standby's.
    pub(super) fn was_primary(&self) -> bool {
        self.remembered.rejoining || !self.layout.data.join("standby.signal").exists()
    }

    /// Takes back what the folder has and the present primary has not (`pg_rewind`), and makes it a standby.
    ///
    /// Remembered before it begins: a folder that was rewound by half is no primary's any more.
    pub(super) fn rejoin(&mut self) -> Result<()> {
        (self.remembered.rejoining, self.remembered.copy) = (true, None);
        self.remembered.write(&self.layout)?;
        if self.is_rewound()? {
            return self.end_rejoin();
        }
        let run = run_of_the_kernel()?;
        if self.remembered.rejoin_boot.as_ref().is_some_and(|held| *held != run)
            && self.control()?.is_some_and(|control| control.is_in_archive_recovery)
        {
            bail!("{}", self.half_way());
        }
        self.remembered.rejoin_boot = Some(run);
        self.remembered.write(&self.layout)?;
        // Of an earlier attempt that came as far as that: the recovery that pg_rewind begins with is none of a standby.
        volume::remove_durably(&self.layout.data.join("standby.signal"))?;
        let (mut conninfo, password) = self.primary_without_password()?;
        if conninfo.value("dbname").is_none() {
            conninfo = conninfo.with("dbname", "postgres");
        }
        let source = format!("--source-server={}", conninfo.text());
        let target = format!("--target-pgdata={}", self.layout.data.display());
        let mut wait = Duration::from_millis(500);
        loop {
            let outcome = self.engine.run(self.of_postgres("pg_rewind", &[&target, &source])?.envs(password.clone()))?;
            // Where another is known to have begun a later timeline, it is not yet in what it reads of that: 15 looks at the last checkpoint.
            let is_early = self.remembered.fenced.is_some() && outcome.lines.iter().any(|line| line.contains(SAME_TIMELINE));
            if (outcome.is_success() && !is_early) || self.is_rewound()? {
                break;
            }
            let said = outcome.said();
            self.engine.board.not_ready = Some(format!("step base: this former primary can't be rewound: {said}"));
            self.engine.log().error(
                "base",
                format_args!(
                    "this former primary can't be rewound to the present one, tried again in {wait:?} (to have a new copy instead, stop and \
                     move {} elsewhere): {said}",
                    self.layout.data.display()
                ),
            );
            self.engine.pause_whole(wait)?;
            wait = (wait * 2).min(PAUSE_MAX);
        }
        self.end_rejoin()
    }

    /// Whether `pg_rewind` has been through, and was killed while it synced, or we after it. To run it on that would have a server write on the
    /// new timeline.
    fn is_rewound(&mut self) -> Result<bool> {
        let label = std::fs::read_to_string(self.layout.data.join("backup_label")).unwrap_or_default();
        if !label.lines().any(|line| line == REWOUND) {
            return Ok(false);
        }
        let is_this_run = self.remembered.rejoin_boot.as_ref() == Some(&run_of_the_kernel()?);
        if !is_this_run || !self.control()?.is_some_and(|control| control.is_in_archive_recovery) {
            bail!("{}", self.half_way());
        }
        let outcome = self.engine.run(self.of_postgres("initdb", &["--sync-only", "-D", &self.data_arg()])?.quiet())?;
        if !outcome.is_success() {
            bail!("what pg_rewind has written can't be synced: {}", outcome.said());
        }
        Ok(true)
    }

    fn half_way(&self) -> String {
        let data = self.layout.data.display();
        format!(
            "pg_rewind was killed half-way on this former primary, or its host was lost before all was on disk: move {data} elsewhere, and the next boot makes a new copy"
        )
    }

    fn end_rejoin(&mut self) -> Result<()> {
        write_durably(&self.layout.data.join("standby.signal"), b"", 0o600, self.owner())?;
        self.remembered.begin_as_standby();
        self.engine.log().info("base", "this former primary is a standby of the present one now");
        self.remembered.write(&self.layout)
    }
}
