//! How a side-by-side measurement is run, and what it leaves behind.

use std::fmt::Display;
use std::future::Future;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use serde::Serialize;

/// Measures, prints the report, and writes it to the file `json` as well where there is one.
///
/// # Errors
/// Of what is measured; where the file can't be written.
pub fn give<R: Display + Serialize>(measuring: impl Future<Output = Result<R>>, json: Option<&Path>) -> Result<ExitCode> {
    // One thread: the kernel kills what was started when the thread that started it ends.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(measuring)?;
    println!("{report}");
    if let Some(path) = json {
        let json = serde_json::to_vec_pretty(&report)?;
        std::fs::write(path, json).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}
