//! Whom the programs under test run as.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use rustix::process::{Gid, Uid, geteuid};

/// `nobody` on every Linux.
const NOBODY: u32 = 65534;

/// Whom the programs under test run as: whoever runs the tests, but `nobody` where that is root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Account {
    /// User and group 65534.
    Nobody,
    /// Whoever runs the tests.
    Own,
}

impl Account {
    /// The account for this process.
    #[must_use]
    pub fn current() -> Self {
        if is_root() { Self::Nobody } else { Self::Own }
    }

    /// The arguments that `setpriv` needs to become it.
    pub(crate) const fn setpriv_args(self) -> &'static [&'static str] {
        match self {
            Self::Nobody => &["--reuid=65534", "--regid=65534", "--clear-groups"],
            Self::Own => &[],
        }
    }

    /// Makes a command run as it, with no program in between, for what is timed. Nothing ends it with this process.
    pub fn run(self, command: &mut Command) {
        if self == Self::Nobody {
            command.uid(NOBODY).gid(NOBODY);
        }
    }

    /// Gives a file or folder to it.
    ///
    /// # Errors
    /// Where the owner can't be changed.
    pub fn give(self, path: &Path) -> Result<()> {
        if self == Self::Nobody {
            rustix::fs::chown(path, Some(Uid::from_raw(NOBODY)), Some(Gid::from_raw(NOBODY)))
                .with_context(|| format!("give {} to user {NOBODY}", path.display()))?;
        }
        Ok(())
    }
}

/// Whether the tests run as root, which mounting a disk takes.
#[must_use]
pub fn is_root() -> bool {
    geteuid().is_root()
}
