//! Folders that go away with the test that made them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::account::Account;

/// The variable that keeps the folders of all tests, to look into them afterwards.
const KEEP: &str = "BEYOND_PG_KEEP";

/// A folder that the programs under test own, removed when dropped unless `BEYOND_PG_KEEP` is set. Its path is short: sockets
/// have their place in it.
#[derive(Debug)]
pub struct Scratch {
    dir: TempDir,
}

impl Scratch {
    /// A new, empty folder.
    ///
    /// # Errors
    /// Where it can't be made.
    pub fn new() -> Result<Self> {
        let mut dir = tempfile::Builder::new().prefix("bpg-").tempdir().context("make a temporary folder")?;
        dir.disable_cleanup(std::env::var_os(KEEP).is_some());
        Account::current().give(dir.path())?;
        Ok(Self { dir })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A folder in it, made and given to the account of the programs under test.
    ///
    /// # Errors
    /// Where it can't be made.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.dir.path().join(name);
        std::fs::create_dir(&path).with_context(|| format!("make {}", path.display()))?;
        Account::current().give(&path)?;
        Ok(path)
    }

    /// A file in it, with this content, readable by the account of the programs under test alone.
    ///
    /// # Errors
    /// Where it can't be written.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.dir.path().join(name);
        write_private(&path, content.as_ref())?;
        Ok(path)
    }

    /// Leaves the folder where it is, for good.
    pub fn keep(&mut self) {
        self.dir.disable_cleanup(true);
    }
}

/// Writes a file that only the account of the programs under test may read, as Postgres demands of keys.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("create {}", path.display()))?;
    file.write_all(content).with_context(|| format!("write {}", path.display()))?;
    Account::current().give(path)
}

/// The folder that all test processes of this user share: templates, ports taken, programs staged.
pub(crate) fn shared() -> Result<PathBuf> {
    let path = std::env::temp_dir().join(format!("beyond-pg-harness-{}", rustix::process::geteuid().as_raw()));
    std::fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
    Ok(path)
}
