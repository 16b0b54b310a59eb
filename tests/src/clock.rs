//! A clock that jumps.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::program;
use crate::scratch::{Scratch, shared};

/// A library that shifts the time of day for the program that it is loaded into, by as much as it is told at any moment.
#[derive(Debug)]
pub struct ShiftedClock {
    library: PathBuf,
    shift: PathBuf,
    _scratch: Scratch,
}

/// The library. It adds the microseconds in the file `SHIFTED_CLOCK`.
const SOURCE: &str = include_str!("clock/shifted.c");

impl ShiftedClock {
    /// Builds the library, with the C compiler that Rust links by. The clock is right at first.
    ///
    /// # Errors
    /// Where there is none.
    pub async fn new() -> Result<Self> {
        let scratch = Scratch::new()?;
        let source = scratch.file("shifted.c", SOURCE)?;
        let shift = scratch.file("shift", 0_i64.to_le_bytes())?;
        let library = scratch.path().join("shifted.so");
        let mut compile = Command::new("cc");
        compile.args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"]).arg(&library).arg(&source).arg("-ldl");
        compile.current_dir(shared()?);
        program::run(compile).await?;
        Ok(Self { library, shift, _scratch: scratch })
    }

    /// The environment of a program whose clock is to be shifted.
    #[must_use]
    pub fn environment(&self) -> [(String, String); 2] {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        [("LD_PRELOAD".to_owned(), text(&self.library)), ("SHIFTED_CLOCK".to_owned(), text(&self.shift))]
    }

    /// From now on, the clock is so many microseconds ahead, or behind where that is negative.
    ///
    /// # Errors
    /// Where the file that says so can't be written.
    pub fn shift_us(&self, by: i64) -> Result<()> {
        let file = File::options().write(true).open(&self.shift).context("open the shift")?;
        // In place: programs have the file mapped.
        file.write_all_at(&by.to_le_bytes(), 0).context("write the shift")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_time_of_day_is_shifted() {
        let clock = ShiftedClock::new().await.unwrap();
        let year = async || {
            let mut command = program::command(Path::new("/bin/date"));
            command.args(["+%Y"]).envs(clock.environment());
            program::run(command).await.unwrap().trim().parse::<i64>().unwrap()
        };
        let now = year().await;
        clock.shift_us(-10 * 365 * 86_400_000_000).unwrap();
        let before = year().await;
        assert!((9..=10).contains(&(now - before)), "{now} {before}");
        clock.shift_us(0).unwrap();
        assert!(year().await >= now);
    }
}
