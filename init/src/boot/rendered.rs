//! What the files that a boot writes are rendered from: the settings, the machine, and what the primary had.

use anyhow::{Context, Result};

use super::Boot;
use super::programs::own;
use crate::account;
use crate::conf::{self, Inputs, Place, RenderedFile};
use crate::machine::Resources;
use crate::settings::{Program, Tier};
use crate::tier;
use crate::tune::{Floor, Machine, tune};
use crate::volume::space;

/// The size of a segment, which `initdb` is not told.
const SEGMENT_BYTES: u64 = 16 << 20;

impl Boot<'_> {
    /// All files, as they should be now.
    pub(super) fn render(&mut self) -> Result<Vec<RenderedFile>> {
        let floor = self.floor()?;
        let resources = Resources::find(&self.settings).context("find out what this machine has")?;
        let machine = Machine {
            memory_bytes: resources.memory_bytes.value,
            cpus: resources.cpus.value,
            wal_volume_bytes: space(&self.layout.wal).or_else(|_error| space(&self.layout.root)).ok().map(|(_, total)| total),
            wal_segment_bytes: SEGMENT_BYTES,
            major: self.major,
        };
        let tuning = tune(&machine, floor);
        let archiver = self.archives().then(|| own(&self.settings, Program::Archiver)).transpose()?;
        let own_account = account::of_uid(rustix::process::geteuid().as_raw(), &account::passwd());
        let own_name = own_account.map(|account| account.name).unwrap_or_default();
        let files = conf::render(&Inputs {
            settings: &self.settings,
            tuning: &tuning,
            tier: &tier::plan(&self.settings, self.standby_name().as_deref()),
            major: self.major,
            run: &self.layout.run,
            os_name: &self.os_name(),
            own_name: &own_name,
            archiver: archiver.as_deref(),
            max_connections: self.max_connections.unwrap_or(tuning.max_connections),
            primary: self.pool_primary().as_ref(),
        })?;
        Ok(files)
    }

    /// What a server that replays another's WAL may not fall below.
    fn floor(&mut self) -> Result<Floor> {
        let replays = self.settings.tier == Tier::Replica
            || self.has_open_target()
            || ["standby.signal", "recovery.signal"].iter().any(|name| self.layout.data.join(name).exists());
        if !replays {
            return Ok(Floor::default());
        }
        let outcome = self.engine.run(self.of_postgres("pg_controldata", &["-D", &self.data_arg()])?.quiet())?;
        Ok(parse_floor(&outcome.lines))
    }

    /// Where a file belongs.
    pub(super) fn place_of(&self, file: &RenderedFile) -> std::path::PathBuf {
        match file.place {
            Place::Data => self.layout.data.join(file.name),
            Place::Layer => self.layout.conf.join(file.name),
            Place::Run => self.layout.run.join(file.name),
        }
    }
}

/// Out of what `pg_controldata` prints.
fn parse_floor(lines: &[String]) -> Floor {
    let number = |name: &str| {
        let value = lines.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(" setting:"));
        value.and_then(|value| value.trim().parse().ok()).unwrap_or_default()
    };
    Floor { max_connections: number("max_connections"), max_worker_processes: number("max_worker_processes") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_primary_had_is_read() {
        let lines = [
            "wal_level setting:                    logical",
            "max_connections setting:              250",
            "max_worker_processes setting:         8",
        ];
        let floor = parse_floor(&lines.map(str::to_owned));
        assert_eq!(floor, Floor { max_connections: 250, max_worker_processes: 8 });
        assert_eq!(parse_floor(&[]), Floor::default());
    }
}
