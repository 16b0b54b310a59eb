//! Where the programs are that are run.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::settings::{Program, Settings};

/// Where Debian has them, newest first.
const DEBIAN: [&str; 4] =
    ["/usr/lib/postgresql/18/bin", "/usr/lib/postgresql/17/bin", "/usr/lib/postgresql/16/bin", "/usr/lib/postgresql/15/bin"];

/// Postgres' programs and PgBouncer.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The folder of `postgres`, `initdb` and `pg_basebackup`.
    pub postgres: PathBuf,
    /// PgBouncer.
    pub pgbouncer: PathBuf,
}

impl Programs {
    /// Finds them.
    ///
    /// # Errors
    /// With the setting that names what is missing.
    pub fn find(settings: &Settings) -> Result<Self> {
        let postgres = match &settings.bin_dir {
            Some(folder) if is_program(&folder.join("postgres")) => folder.clone(),
            Some(folder) => bail!("BEYOND_PG_BIN_DIR={}: there is no program postgres in it", folder.display()),
            None => folders().chain(DEBIAN.map(PathBuf::from)).find(|folder| is_program(&folder.join("postgres"))).context(
                "no Postgres: it is neither in PATH nor in /usr/lib/postgresql; install it, or name its folder by BEYOND_PG_BIN_DIR",
            )?,
        };
        let pgbouncer = match &settings.pgbouncer {
            Some(program) if is_program(program) => program.clone(),
            Some(program) => bail!("BEYOND_PG_PGBOUNCER={}: no such program", program.display()),
            None => in_path("pgbouncer").context("no PgBouncer in PATH: install it, or name it by BEYOND_PG_PGBOUNCER")?,
        };
        Ok(Self { postgres, pgbouncer })
    }

    /// A program of Postgres.
    #[must_use]
    pub fn of_postgres(&self, name: &str) -> PathBuf {
        self.postgres.join(name)
    }
}

/// A program of this repository: where the settings say, beside this one, or in PATH.
///
/// # Errors
/// With the setting that names it.
pub(crate) fn own(settings: &Settings, program: Program) -> Result<PathBuf> {
    let setting = match program {
        Program::Archiver => "BEYOND_PG_ARCHIVER_PROGRAM",
        Program::Cdc => "BEYOND_PG_CDC_PROGRAM",
        Program::Sink => "BEYOND_PG_SINK_PROGRAM",
    };
    let name = program.file_name();
    if let Some(named) = settings.programs.get(&program) {
        if is_program(named) {
            return Ok(named.clone());
        }
        bail!("{setting}={}: no such program", named.display());
    }
    let beside = std::env::current_exe().ok().map(|own| own.with_file_name(name)).filter(|path| is_program(path));
    beside
        .or_else(|| in_path(name))
        .with_context(|| format!("no {name} beside beyond-pg or in PATH: install it, or name it by {setting}"))
}

fn in_path(name: &str) -> Option<PathBuf> {
    let sbin = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    folders().chain(sbin).map(|folder| folder.join(name)).find(|path| is_program(path))
}

fn folders() -> impl Iterator<Item = PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).collect::<Vec<_>>().into_iter()
}

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}
