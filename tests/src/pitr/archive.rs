//! An archive in a folder, and the program over it.

use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::program::{self, of_workspace};
use crate::scratch::Scratch;

/// An archive in a folder of its own.
#[derive(Debug)]
pub struct Archive {
    scratch: Scratch,
    url: String,
}

impl Archive {
    /// An empty one.
    ///
    /// # Errors
    /// Where its folder can't be made.
    pub fn new() -> Result<Self> {
        let scratch = Scratch::new()?;
        let folder = scratch.folder("archive")?;
        let url = format!("file://{}", folder.display());
        Ok(Self { scratch, url })
    }

    /// Where it is.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.scratch.path()
    }

    /// Leaves its files where they are, for good.
    pub fn keep(&mut self) -> &Path {
        self.scratch.keep();
        self.scratch.path()
    }

    /// What a primary needs in its settings to be archived here.
    ///
    /// # Errors
    /// Where the program is not built.
    pub fn settings(&self) -> Result<[(&'static str, String); 2]> {
        let program = of_workspace("beyond-pg-archiver")?;
        Ok([("archive_mode", "on".to_owned()), ("archive_command", format!("{} push %p --store {}", program.display(), self.url))])
    }

    /// A subcommand of the program.
    ///
    /// # Errors
    /// Where the program is not built.
    pub fn command(&self, args: &[&str]) -> Result<Command> {
        let mut command = program::command(&of_workspace("beyond-pg-archiver")?);
        command.args(args).args(["--store", &self.url]);
        Ok(command)
    }

    /// Runs a subcommand to its end, whatever that is.
    ///
    /// # Errors
    /// Where it can't be started.
    pub async fn run(&self, args: &[&str]) -> Result<Output> {
        program::output(self.command(args)?).await
    }

    /// Runs a subcommand that must succeed, and reads the JSON that it prints.
    ///
    /// # Errors
    /// Where it fails: with what it printed.
    pub async fn json(&self, args: &[&str]) -> Result<Value> {
        let output = self.run(&[args, &["--json"]].concat()).await?;
        ensure!(output.status.success(), "{args:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).with_context(|| format!("read what {args:?} printed"))
    }
}
