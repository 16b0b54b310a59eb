//! Where settings are read: the metadata service, a file, the environment, the kernel's command line.

pub mod cmdline;
pub mod json;
pub mod mmds;

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::settings::{Origin, Source};

/// The most bytes of a file of settings.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What this machine says without being asked: the environment and the kernel's command line. They also say where else to look.
///
/// # Errors
/// Where a value of ours in the environment is no text. A kernel whose command line can't be read says nothing.
pub fn local() -> Result<Vec<Source>> {
    let mut values = Vec::new();
    for (name, value) in std::env::vars_os() {
        let Some(name) = name.to_str().filter(|name| name.to_ascii_uppercase().starts_with("BEYOND_")) else { continue };
        let Some(value) = value.to_str() else { bail!("environment: {name} is no UTF-8") };
        values.push((name.to_owned(), value.to_owned()));
    }
    let line = std::fs::read("/proc/cmdline").unwrap_or_default();
    let line = String::from_utf8_lossy(&line);
    Ok(vec![Source::new(Origin::Environment, values), Source::new(Origin::KernelCommandLine, cmdline::parse(&line))])
}

/// The file of settings.
///
/// # Errors
/// Where it can't be read, or is no JSON object of plain values.
pub fn file(path: &Path) -> Result<Source> {
    let reading = || format!("BEYOND_PG_METADATA_FILE={}", path.display());
    let size = path.metadata().with_context(reading)?.len();
    if size > FILE_BYTES_MAX {
        bail!("{}: has {size} bytes, {FILE_BYTES_MAX} are taken", reading());
    }
    let bytes = std::fs::read(path).with_context(reading)?;
    let object = json::parse(&bytes).with_context(reading)?;
    Ok(Source::new(Origin::File, object.all().with_context(reading)?))
}
