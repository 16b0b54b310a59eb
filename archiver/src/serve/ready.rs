//! What Postgres has marked as ready to be archived: `pg_wal/archive_status/*.ready`. The daemon reads there and never writes.

use std::io;
use std::path::Path;
use std::time::Duration;

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Ready {
    /// The files' names, in no order.
    pub names: Vec<String>,
    /// How long the oldest of some has waited, by its mark's time.
    pub waits: Duration,
}

/// How many marks are looked at for the oldest of them: they come in the order of their names, but for a few.
const AGED_MAX: usize = 4;

/// Reads the folder. `now` is the time since 1970. Blocks.
///
/// # Errors
/// Of the operating system; a folder that is not there yet has nothing in it.
pub fn scan(pg_wal: &Path, now: Duration) -> io::Result<Ready> {
    let folder = pg_wal.join("archive_status");
    let entries = match std::fs::read_dir(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Ready::default()),
        entries => entries?,
    };
    let mut names = Vec::new();
    for entry in entries {
        if let Some(name) = entry?.file_name().to_str().and_then(|name| name.strip_suffix(".ready")) {
            names.push(name.to_owned());
        }
    }
    let mut oldest: Vec<_> = names.iter().collect();
    if oldest.len() > AGED_MAX {
        oldest.select_nth_unstable(AGED_MAX);
    }
    let age = |name: &&String| {
        let modified = folder.join(format!("{name}.ready")).metadata().and_then(|meta| meta.modified()).ok()?;
        let since_1970 = modified.duration_since(std::time::UNIX_EPOCH).ok()?;
        // A clock that was set back makes none wait for a negative time.
        Some(now.saturating_sub(since_1970))
    };
    let waits = oldest.iter().take(AGED_MAX).filter_map(age).max().unwrap_or_default();
    Ok(Ready { names, waits })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_ones_are_found_with_the_time_they_wait() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(scan(folder.path(), Duration::ZERO).unwrap(), Ready::default());
        let status = folder.path().join("archive_status");
        std::fs::create_dir(&status).unwrap();
        for name in ["000000010000000000000002.ready", "000000010000000000000001.done", "00000002.history.ready"] {
            std::fs::write(status.join(name), "").unwrap();
        }
        let modified = status.join("00000002.history.ready").metadata().unwrap().modified().unwrap();
        let now = modified.duration_since(std::time::UNIX_EPOCH).unwrap() + Duration::from_secs(30);
        let mut found = scan(folder.path(), now).unwrap();
        found.names.sort();
        assert_eq!(found.names, ["000000010000000000000002", "00000002.history"]);
        assert!(found.waits >= Duration::from_secs(29) && found.waits < Duration::from_secs(90), "{:?}", found.waits);
        assert_eq!(scan(folder.path(), Duration::ZERO).unwrap().waits, Duration::ZERO);
    }
}
