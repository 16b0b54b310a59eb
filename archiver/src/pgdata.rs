//! The data folder that a command works for: whose WAL it is.

use std::path::{Path, PathBuf};

use anyhow::Context;
use walbus::proto::control::Control;

/// A data folder, and what its `pg_control` says.
#[derive(Debug, Clone)]
pub struct DataFolder {
    /// Where it is.
    pub path: PathBuf,
    /// What it says of itself.
    pub control: Control,
}

impl DataFolder {
    /// The data folder at `path`.
    ///
    /// # Errors
    /// Where its `pg_control` can't be read, or is of no supported version.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let file = path.join("global/pg_control");
        let content = std::fs::read(&file).with_context(|| format!("read {}: is --pgdata right?", file.display()))?;
        let control = Control::parse(&content).with_context(|| file.display().to_string())?;
        Ok(Self { path: path.to_owned(), control })
    }

    /// The data folder that a setting names, or else the one that `file` is in (`DIR/pg_wal/FILE`), or else the current folder, in which
    /// Postgres runs its commands.
    ///
    /// # Errors
    /// Where none of these is one.
    pub fn find(named: Option<&Path>, file: &Path) -> anyhow::Result<Self> {
        if let Some(named) = named {
            return Self::open(named);
        }
        let around = file.parent().and_then(Path::parent).filter(|path| !path.as_os_str().is_empty());
        let is_one = |path: &Path| path.join("global/pg_control").is_file();
        match [around, Some(Path::new("."))].into_iter().flatten().find(|path| is_one(path)) {
            Some(path) => Self::open(path),
            None => anyhow::bail!(
                "{} is in no data folder, and the current folder is none: say --pgdata DIR (BEYOND_PG_ARCHIVE_PGDATA), so that it is known \
                 whose WAL it is",
                file.display()
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_none_is_told_with_the_way_out() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pg_wal/000000010000000000000001");
        let error = DataFolder::find(None, &file).unwrap_err().to_string();
        assert!(error.contains("--pgdata"), "{error}");
        let error = format!("{:#}", DataFolder::find(Some(folder.path()), &file).unwrap_err());
        assert!(error.contains("global/pg_control") && error.contains("--pgdata"), "{error}");
    }
}
