//! Disks that are full, and disks that fail.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use rustix::mount::{MountFlags, UnmountFlags};

use crate::account::{Account, is_root};
use crate::program;
use crate::scratch::{Scratch, shared};

/// A disk of a few megabytes, a `tmpfs` of its own, unmounted when dropped.
#[derive(Debug)]
pub struct FullDisk {
    mount: PathBuf,
    _scratch: Scratch,
}

impl FullDisk {
    /// A disk of so many megabytes, or `None` where this process may not mount one: says so on stderr, so that a test that then
    /// returns is seen to have been skipped.
    ///
    /// # Errors
    /// Where root can't mount it.
    pub fn new(megabytes: u32) -> Result<Option<Self>> {
        if !is_root() {
            eprintln!("skipped: to mount a small disk takes root");
            return Ok(None);
        }
        unmount_left_over();
        let scratch = Scratch::new()?;
        let mount = scratch.folder(&format!("disk-{}", std::process::id()))?;
        let options = std::ffi::CString::new(format!("size={megabytes}m,mode=0755"))?;
        rustix::mount::mount("beyond-pg-tests", &mount, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, options.as_c_str())
            .with_context(|| format!("mount a disk of {megabytes} MB"))?;
        Account::current().give(&mount)?;
        Ok(Some(Self { mount, _scratch: scratch }))
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.mount
    }

    /// Makes it one that can only be read, or one that can be written again.
    ///
    /// # Errors
    /// Where it is written to at this moment.
    pub fn only_read(&self, only_read: bool) -> Result<()> {
        let flags = MountFlags::NOSUID | MountFlags::NODEV | if only_read { MountFlags::RDONLY } else { MountFlags::empty() };
        rustix::mount::mount_remount(&self.mount, flags, "").context("mount it anew")
    }

    /// Takes all but so many bytes of what room there is. [`free`](Self::free) gives it back.
    ///
    /// # Errors
    /// Where the ballast can't be written for another reason than a full disk.
    pub fn fill(&self, but_bytes: u64) -> Result<()> {
        let room = self.room()?.saturating_sub(but_bytes);
        let mut ballast = File::options().create(true).append(true).open(self.ballast())?;
        let zeros = vec![0; 64 * 1024];
        let mut left = room;
        while left > 0 {
            let piece = zeros.len().min(usize::try_from(left)?);
            match ballast.write(&zeros[..piece]) {
                Ok(written) => left -= written as u64,
                // Whoever else writes there was quicker.
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => break,
                Err(error) => return Err(error).context("write the ballast"),
            }
        }
        Ok(())
    }

    /// Gives back what [`fill`](Self::fill) took.
    ///
    /// # Errors
    /// Where the ballast can't be removed.
    pub fn free(&self) -> Result<()> {
        std::fs::remove_file(self.ballast()).context("remove the ballast")
    }

    /// How many bytes there is room for.
    ///
    /// # Errors
    /// Where the kernel does not say.
    pub fn room(&self) -> Result<u64> {
        let stat = rustix::fs::statvfs(&self.mount)?;
        Ok(stat.f_bavail * stat.f_frsize)
    }

    fn ballast(&self) -> PathBuf {
        self.mount.join("ballast")
    }
}

impl Drop for FullDisk {
    fn drop(&mut self) {
        // Detached: it goes when the last file on it is closed, whoever has that open.
        if let Err(error) = rustix::mount::unmount(&self.mount, UnmountFlags::DETACH) {
            eprintln!("unmount {}: {error}", self.mount.display());
        }
    }
}

/// Unmounts the disks of test processes that were killed.
fn unmount_left_over() {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    for line in mounts.lines().filter(|line| line.starts_with("beyond-pg-tests ")) {
        let Some(path) = line.split(' ').nth(1) else { continue };
        let owner = path.rsplit_once("disk-").map_or("", |(_, pid)| pid);
        if !Path::new("/proc").join(owner).exists() {
            rustix::mount::unmount(path, UnmountFlags::DETACH).ok();
        }
    }
}

/// A library that makes `fsync` and `fdatasync` fail, once told to, for the program that it is loaded into.
///
/// A real disk that fails needs the device mapper, which not every kernel has; to a program, the failing call is all there is to it.
#[derive(Debug)]
pub struct FailingSync {
    library: PathBuf,
    trigger: PathBuf,
    _scratch: Scratch,
}

/// The library. It fails for files below the folder in `FAILING_SYNC_FOLDER` once the file in `FAILING_SYNC_TRIGGER` exists.
const SOURCE: &str = include_str!("disk/failing_sync.c");

impl FailingSync {
    /// Builds the library, with the C compiler that Rust links by.
    ///
    /// # Errors
    /// Where there is none.
    pub async fn new() -> Result<Self> {
        let scratch = Scratch::new()?;
        let trigger = scratch.path().join("fail");
        let source = scratch.file("failing_sync.c", SOURCE)?;
        // Where all accounts can read it.
        let library = scratch.path().join("failing_sync.so");
        let mut compile = Command::new("cc");
        compile.args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"]).arg(&library).arg(&source).arg("-ldl");
        compile.current_dir(shared()?);
        program::run(compile).await?;
        Ok(Self { library, trigger, _scratch: scratch })
    }

    /// The environment of a program that is to fail for files below `folder`.
    #[must_use]
    pub fn environment(&self, folder: &Path) -> [(String, String); 3] {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        [
            ("LD_PRELOAD".to_owned(), text(&self.library)),
            ("FAILING_SYNC_FOLDER".to_owned(), text(folder)),
            ("FAILING_SYNC_TRIGGER".to_owned(), text(&self.trigger)),
        ]
    }

    /// From now on, every `fsync` and `fdatasync` there fails with EIO.
    ///
    /// # Errors
    /// Where the file that says so can't be made.
    pub fn fail(&self) -> Result<()> {
        File::create(&self.trigger).map(drop).context("make the trigger")
    }

    /// From now on, none fails.
    ///
    /// # Errors
    /// Where the file that said so can't be removed.
    pub fn mend(&self) -> Result<()> {
        std::fs::remove_file(&self.trigger).context("remove the trigger")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_full_and_has_room_again() {
        let Some(disk) = FullDisk::new(2).unwrap() else { return };
        let path = disk.path().to_owned();
        disk.fill(0).unwrap();
        let error = std::fs::write(path.join("x"), [1; 8192]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
        disk.free().unwrap();
        std::fs::write(path.join("x"), [1; 8192]).unwrap();
        drop(disk);
        assert!(!path.join("x").exists());
    }

    #[tokio::test]
    async fn a_sync_fails_when_told_to() {
        let shim = FailingSync::new().await.unwrap();
        let folder = Scratch::new().unwrap();
        let file = folder.file("x", b"x").unwrap();
        let sync = |path: PathBuf| {
            let mut command = program::command(Path::new("/bin/sync"));
            command.args(["--data"]).arg(path).envs(shim.environment(folder.path()));
            program::output(command)
        };
        assert!(sync(file.clone()).await.unwrap().status.success());
        shim.fail().unwrap();
        let failed = sync(file).await.unwrap();
        assert!(String::from_utf8_lossy(&failed.stderr).contains("Input/output error"), "{failed:?}");
        let elsewhere = Scratch::new().unwrap();
        assert!(sync(elsewhere.file("x", b"x").unwrap()).await.unwrap().status.success());
    }
}
