//! What machine the numbers are of.

use std::path::Path;

use anyhow::{Context, Result, bail};

/// What bears upon the numbers.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Machine {
    /// Cores that may be used.
    pub cores: usize,
    /// The processor's name.
    pub cpu: String,
    /// Memory, in GB of 1,000,000,000 bytes.
    pub memory_gb: f64,
    /// The kernel's release.
    pub kernel: String,
    /// The file system that everything lies on, such as `ext4`.
    pub filesystem: String,
    /// How many were waiting for a core on average over the minute before: other work on the machine, where it is not near 0.
    pub load: f64,
}

impl Machine {
    /// This machine, as it is now, with its disk below `folder`.
    ///
    /// # Errors
    /// Where the kernel does not say.
    pub fn of(folder: &Path) -> Result<Self> {
        let cpus = std::fs::read_to_string("/proc/cpuinfo").context("read /proc/cpuinfo")?;
        let field = |name: &str| cpus.lines().find_map(|line| Some(line.strip_prefix(name)?.split_once(':')?.1.trim().to_owned()));
        let memory = rustix::system::sysinfo();
        let load = std::fs::read_to_string("/proc/loadavg").context("read /proc/loadavg")?;
        Ok(Self {
            cores: std::thread::available_parallelism()?.get(),
            cpu: field("model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            memory_gb: memory.totalram as f64 * f64::from(memory.mem_unit) / 1e9,
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            filesystem: filesystem(folder)?,
            load: load.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(0.0),
        })
    }

    /// An error where a sync costs nothing, since there is no disk.
    ///
    /// # Errors
    /// Where the file system is one in memory.
    pub fn check_disk(&self) -> Result<()> {
        if ["tmpfs", "ramfs"].contains(&self.filesystem.as_str()) {
            bail!("the temporary folder is on {}, where an fsync does nothing: set TMPDIR to a folder on a disk", self.filesystem);
        }
        Ok(())
    }
}

/// The type of the mount that a folder is in: the longest mount point that it begins with, the last of these where several are.
fn filesystem(folder: &Path) -> Result<String> {
    let folder = folder.canonicalize().with_context(|| format!("find {}", folder.display()))?;
    let mounts = std::fs::read_to_string("/proc/self/mounts").context("read /proc/self/mounts")?;
    let found = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (point, kind) = (fields.next()?, fields.next()?);
        folder.starts_with(point).then_some((point.len(), kind))
    });
    let (_, kind) = found.max_by_key(|(len, _)| *len).context("no mount holds the temporary folder")?;
    Ok(kind.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_in_memory_is_refused() {
        let mut machine = Machine::of(Path::new("/proc")).unwrap();
        assert_eq!(machine.filesystem, "proc");
        machine.check_disk().unwrap();
        machine.filesystem = "tmpfs".to_owned();
        assert!(machine.check_disk().unwrap_err().to_string().contains("TMPDIR"));
    }
}
