//! Programs: where they are, and how they are run.

use std::ffi::OsStr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

use crate::account::Account;
use crate::scratch::shared;

/// Variables of the caller's that programs under test would take for settings.
const FOREIGN: [&str; 5] = ["AWS_", "BEYOND_PG_ARCHIVE", "BEYOND_PG_CDC", "BEYOND_PG_SINK", "PG"];

/// A command that runs `program` as [`Account::current`], dies with this process, and sees no setting of the caller's environment.
#[must_use]
pub fn command(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    // Set by a program in between, since to set it between fork and exec is not safe Rust.
    command.args(["--pdeathsig", "KILL"]).args(Account::current().setpriv_args()).arg("--").arg(program);
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| FOREIGN.iter().any(|prefix| name.starts_with(prefix))) {
            command.env_remove(name);
        }
    }
    // Libraries look for certificates and passwords in a home: that of the caller is no part of a test.
    command.env("HOME", "/nonexistent").env("LC_ALL", "C").env("TZ", "UTC").stdin(Stdio::null()).current_dir("/");
    command
}

/// Runs a command to its end, whatever that is. The command is killed when the returned future is dropped.
///
/// # Errors
/// Where it can't be started.
pub async fn output(command: Command) -> Result<Output> {
    let what = describe(&command);
    tokio::process::Command::from(command).kill_on_drop(true).output().await.with_context(|| format!("run {what}"))
}

/// Runs a command that must succeed, and gives what it printed to stdout.
///
/// # Errors
/// Where it can't be started or fails: with all that it printed.
pub async fn run(command: Command) -> Result<String> {
    let what = describe(&command);
    let output = output(command).await?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!("{what}: {}\n{stdout}{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(stdout)
}

/// The command line, from the program under test on.
pub(crate) fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args()).map(OsStr::to_string_lossy);
    let words: Vec<_> = words.collect();
    let from = words.iter().position(|word| word == "--").map_or(0, |at| at + 1);
    words[from..].join(" ")
}

/// The top folder of the repository.
#[must_use]
pub fn repository() -> PathBuf {
    let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    crate_folder.parent().unwrap_or(crate_folder).to_owned()
}

/// A program of this workspace, such as `beyond-pg-sink`, as it was last built with the profile that this process was built with.
///
/// # Errors
/// Where it was not built.
pub fn of_workspace(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("where am I")?;
    let found = own.ancestors().skip(1).take(3).map(|folder| folder.join(name)).find(|path| path.is_file());
    let Some(found) = found else {
        bail!("the program {name} is not built: run scripts/test, or cargo build -p {name}, then try again");
    };
    stage(&found)
}

/// The program where the account of the programs under test can reach it: a copy, where it lies below a folder of root's alone.
fn stage(program: &Path) -> Result<PathBuf> {
    let closed = |folder: &Path| folder.metadata().map_or(true, |meta| meta.permissions().mode() & 0o001 == 0);
    if Account::current() == Account::Own || !program.ancestors().skip(1).any(closed) {
        return Ok(program.to_owned());
    }
    let meta = program.metadata().with_context(|| format!("read {}", program.display()))?;
    // One folder a build: another build's copy may be running.
    let folder = shared()?.join("programs").join(format!("{}-{}-{}", meta.ino(), meta.mtime(), meta.mtime_nsec()));
    let staged = folder.join(program.file_name().context("a program has a name")?);
    if !staged.exists() {
        std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        let draft = tempfile::NamedTempFile::new_in(&folder)?;
        std::fs::copy(program, draft.path()).with_context(|| format!("copy {}", program.display()))?;
        std::fs::set_permissions(draft.path(), std::fs::Permissions::from_mode(0o755))?;
        draft.into_temp_path().persist(&staged)?;
    }
    Ok(staged)
}
