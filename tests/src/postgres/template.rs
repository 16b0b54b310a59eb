//! Clusters as `initdb` makes them, made once for all tests.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::fs::FlockOperation;
use tokio::sync::Mutex;
use walbus::SegmentSize;

use crate::account::Account;
use crate::program;
use crate::scratch::shared;

/// Raised when what is in a template changes: older ones are then left alone.
const RECIPE: u32 = 1;

/// The folder of a version's programs, from `scripts/postgres`, which fetches them where they are missing. The variable
/// `BEYOND_PG_BIN_<version>` names another one.
///
/// # Errors
/// Where they can't be had.
pub async fn programs(version: u32) -> Result<PathBuf> {
    match std::env::var_os(format!("BEYOND_PG_BIN_{version}")) {
        Some(folder) => Ok(folder.into()),
        None => fetched(&version.to_string()).await,
    }
}

/// The program of `PgBouncer`, from `scripts/postgres` as well.
///
/// # Errors
/// Where it can't be had.
pub async fn pgbouncer() -> Result<PathBuf> {
    Ok(fetched("pgbouncer").await?.join("pgbouncer"))
}

/// The folder that `scripts/postgres` prints for one of its words.
async fn fetched(word: &str) -> Result<PathBuf> {
    static KNOWN: Mutex<Vec<(String, PathBuf)>> = Mutex::const_new(Vec::new());
    let mut known = KNOWN.lock().await;
    if let Some((_, folder)) = known.iter().find(|(of, _)| of == word) {
        return Ok(folder.clone());
    }
    let mut command = std::process::Command::new(program::repository().join("scripts/postgres"));
    command.arg(word);
    let folder = PathBuf::from(program::run(command).await?.trim());
    known.push((word.to_owned(), folder.clone()));
    Ok(folder)
}

/// Makes a data folder at `data`, a copy of one that `initdb` made. All copies have the same system identifier.
pub(crate) async fn copy_template(bin: &Path, version: u32, size: SegmentSize, data: &Path) -> Result<()> {
    let folder = shared()?.join("templates");
    std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    let name = format!("{version}-{}MB-{RECIPE}", size.bytes() >> 20);
    let template = folder.join(&name);
    if !template.exists() {
        let lock = File::create(folder.join(format!("{name}.lock")))?;
        // Waits where another process makes it: that takes a second.
        rustix::fs::flock(&lock, FlockOperation::LockExclusive)?;
        if !template.exists() {
            let draft = folder.join(format!("{name}.draft"));
            // Of a process that was killed.
            remove_folder(&draft).await?;
            std::fs::create_dir(&draft)?;
            Account::current().give(&draft)?;
            initdb(bin, size, &draft).await?;
            rustix::fs::rename(&draft, &template).context("name the template")?;
        }
    }
    copy_folder(&template, data).await
}

/// Makes a data folder at `data` with a system identifier of its own.
pub(crate) async fn initdb(bin: &Path, size: SegmentSize, data: &Path) -> Result<()> {
    let mut command = program::command(&bin.join("initdb"));
    command.args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions"]);
    command.arg(format!("--wal-segsize={}", size.bytes() >> 20)).arg("-D").arg(data);
    program::run(command).await.map(drop)
}

/// Copies a folder as it is, owners, times and holes included, to a path where nothing is yet.
pub(crate) async fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    let mut command = std::process::Command::new("cp");
    command.args(["--archive", "--reflink=auto", "--no-target-directory", "--"]).arg(from).arg(to);
    program::run(command).await.map(drop)
}

/// Removes a folder with all that is in it, if it is there.
pub(crate) async fn remove_folder(path: &Path) -> Result<()> {
    match tokio::fs::remove_dir_all(path).await {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}
