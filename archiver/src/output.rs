//! What the commands print.

use std::io::Write;

use serde::Serialize;

/// Prints a result on stdout, for people or as JSON. That nobody reads it (a closed pipe) is no error.
///
/// # Errors
/// Where stdout can't be written.
pub(crate) fn print<T: Serialize>(json: bool, text: &str, value: &T) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    let written = if json {
        let mut bytes = serde_json::to_vec_pretty(value)?;
        bytes.push(b'\n');
        out.write_all(&bytes)
    } else {
        out.write_all(text.as_bytes())
    };
    match written.and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}
