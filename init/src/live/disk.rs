//! When a disk counts as nearly full, and what follows: decided here, done by [`super`].

use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result};
use rustix::fs::{FallocateFlags, fallocate};

const MB: u64 = 1 << 20;

/// What is to be done about the ballast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ballast {
    /// Nothing.
    Keep,
    /// Make one of this many bytes.
    Make(u64),
    /// Give it back.
    Release,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Decision {
    /// Whether transactions are read-only from now on.
    pub(super) read_only: bool,
    /// Whether that is new.
    pub(super) changed: bool,
    /// The ballast.
    pub(super) ballast: Ballast,
}

/// What it was like at the last look.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct DiskWatch {
    read_only: bool,
}

impl DiskWatch {
    pub(super) const fn set_read_only(&mut self, read_only: bool) {
        self.read_only = read_only;
    }

    /// `free` and `total` bytes of the filesystem, `held` of them by the ballast.
    pub(super) fn decide(&mut self, free: u64, total: u64, held: u64) -> Decision {
        // 3%: from 48 MB, room for segments and a checkpoint, to 2 GB.
        let low = (total / 100 * 3).clamp(48 * MB, 2048 * MB).min(total / 4);
        let read_only = if self.read_only { free < low * 2 } else { free < low };
        let changed = read_only != self.read_only;
        self.read_only = read_only;
        let size = (low / 2).min(256 * MB);
        let ballast = if held > 0 && free < low / 2 {
            Ballast::Release
        } else if held == 0 && free > low * 3 + size {
            Ballast::Make(size)
        } else {
            Ballast::Keep
        };
        Decision { read_only, changed, ballast }
    }
}

/// A file that holds space, for the day when there is none.
pub(super) fn make_ballast(path: &Path, size: u64) -> Result<()> {
    let make = || -> std::io::Result<()> {
        let file = File::create(path)?;
        fallocate(&file, FallocateFlags::empty(), 0, size)?;
        file.sync_all()
    };
    make()
        .or_else(|error| {
            std::fs::remove_file(path).ok();
            // Without a ballast, all else works: not every filesystem can reserve.
            if error.kind() == std::io::ErrorKind::Unsupported { Ok(()) } else { Err(error) }
        })
        .with_context(|| format!("reserve {} MB in {}", size / MB, path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GB: u64 = 1024 * MB;

    #[test]
    fn a_disk_that_fills_turns_read_only_before_it_is_full_and_back_when_there_is_room() {
        let mut watch = DiskWatch::default();
        let (total, low) = (10 * GB, 10 * GB / 100 * 3);
        let calm = watch.decide(5 * GB, total, 0);
        assert_eq!(calm, Decision { read_only: false, changed: false, ballast: Ballast::Make(low / 2) });
        assert_eq!(watch.decide(low, total, low / 2).ballast, Ballast::Keep);
        let full = watch.decide(low - 1, total, low / 2);
        assert!(full.read_only && full.changed && full.ballast == Ballast::Keep);
        let fuller = watch.decide(low / 2 - 1, total, low / 2);
        assert_eq!(fuller, Decision { read_only: true, changed: false, ballast: Ballast::Release });
        // What the ballast gave back alone is no reason to write again.
        assert!(watch.decide(low - 1, total, 0).read_only);
        assert!(watch.decide(low * 2 - 1, total, 0).read_only);
        let back = watch.decide(low * 2, total, 0);
        assert!(!back.read_only && back.changed && back.ballast == Ballast::Keep);
        assert_eq!(watch.decide(low * 4, total, 0).ballast, Ballast::Make(low / 2));
    }

    #[test]
    fn small_disks_can_be_used_at_all() {
        let mut watch = DiskWatch::default();
        assert!(!watch.decide(100 * MB, 160 * MB, 0).read_only);
        assert!(watch.decide(30 * MB, 160 * MB, 0).read_only);
    }
}
