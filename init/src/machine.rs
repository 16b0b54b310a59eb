//! How much memory and how many CPUs there are for Postgres: what the control groups allow, else what the host has.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::settings::{Origin, Settings};

/// Where a number is from.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Found<T> {
    /// The number.
    pub value: T,
    /// Where it is from: a setting, a file, a system call.
    pub origin: String,
}

/// What there is.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Resources {
    /// Memory, in bytes.
    pub memory_bytes: Found<u64>,
    /// CPUs: a quota of one and a half is two.
    pub cpus: Found<u32>,
}

impl Resources {
    /// What the settings say, else what is found out.
    ///
    /// # Errors
    /// Where neither the control groups nor the host tell.
    pub fn find(settings: &Settings) -> Result<Self> {
        let root = Path::new("/");
        let said = |name| (settings.origin(name) != Origin::Default).then(|| format!("{name} ({})", settings.origin(name)));
        let memory_bytes = match settings.memory_mb {
            Some(mb) => Found { value: mb << 20, origin: said("BEYOND_PG_MEMORY_MB").unwrap_or_default() },
            None => memory(root)?,
        };
        let cpus = match settings.cpus {
            Some(cpus) => Found { value: cpus, origin: said("BEYOND_PG_CPUS").unwrap_or_default() },
            None => cpus(root, affinity()),
        };
        Ok(Self { memory_bytes, cpus })
    }
}

/// How many CPUs the scheduler lets us have.
fn affinity() -> u32 {
    rustix::thread::sched_getaffinity(None).map_or(1, |set| set.count()).max(1)
}

/// The least of all limits on the way up, and of what the host has.
fn memory(root: &Path) -> Result<Found<u64>> {
    let host = host_memory(root)?;
    let groups = Groups::read(root);
    let mut least = Found { value: host, origin: "/proc/meminfo".to_owned() };
    for folder in groups.folders_v2(root) {
        keep_less(&mut least, &folder.join("memory.max"));
    }
    for folder in groups.folders_v1(root, "memory") {
        keep_less(&mut least, &folder.join("memory.limit_in_bytes"));
    }
    Ok(least)
}

fn keep_less(least: &mut Found<u64>, file: &Path) {
    // `max` is no number, and no limit.
    let limit = std::fs::read_to_string(file).ok().and_then(|text| text.trim().parse::<u64>().ok()).filter(|limit| *limit > 0);
    if let Some(limit) = limit.filter(|limit| *limit < least.value) {
        *least = Found { value: limit, origin: file.display().to_string() };
    }
}

fn host_memory(root: &Path) -> Result<u64> {
    let file = root.join("proc/meminfo");
    let text = std::fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kb = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kb.and_then(|kb| kb.checked_mul(1024)).context("no MemTotal in /proc/meminfo: set BEYOND_PG_MEMORY_MB")
}

fn cpus(root: &Path, affinity: u32) -> Found<u32> {
    let groups = Groups::read(root);
    let mut least = Found { value: affinity, origin: "sched_getaffinity".to_owned() };
    for folder in groups.folders_v2(root) {
        let file = folder.join("cpu.max");
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let mut words = text.split_whitespace().map(|word| word.parse::<u64>().ok());
        keep_fewer(&mut least, words.next().flatten(), words.next().flatten(), &file);
    }
    for folder in groups.folders_v1(root, "cpu") {
        let number = |name| std::fs::read_to_string(folder.join(name)).ok().and_then(|text| text.trim().parse::<u64>().ok());
        keep_fewer(&mut least, number("cpu.cfs_quota_us"), number("cpu.cfs_period_us"), &folder.join("cpu.cfs_quota_us"));
    }
    least
}

fn keep_fewer(least: &mut Found<u32>, quota: Option<u64>, period: Option<u64>, file: &Path) {
    let (Some(quota), Some(period)) = (quota, period.filter(|period| *period > 0)) else { return };
    let cpus = u32::try_from(quota.div_ceil(period)).unwrap_or(u32::MAX).max(1);
    if cpus < least.value {
        *least = Found { value: cpus, origin: file.display().to_string() };
    }
}

/// Which control groups we are in: `/proc/self/cgroup` (cgroups(7)).
#[derive(Debug, Default, PartialEq, Eq)]
struct Groups {
    v2: Option<String>,
    /// Controllers of version 1, with the group of each.
    v1: Vec<(String, String)>,
}

impl Groups {
    fn read(root: &Path) -> Self {
        Self::parse(&std::fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default())
    }

    fn parse(text: &str) -> Self {
        let mut groups = Self::default();
        for line in text.lines() {
            let mut parts = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
            if controllers.is_empty() {
                groups.v2 = Some(path.to_owned());
            }
            groups.v1.extend(controllers.split(',').filter(|name| !name.is_empty()).map(|name| (name.to_owned(), path.to_owned())));
        }
        groups
    }

    fn folders_v2(&self, root: &Path) -> Vec<PathBuf> {
        let mount = root.join("sys/fs/cgroup");
        // Beside version 1, version 2 is mounted one lower.
        let mounts = [mount.join("unified"), mount];
        self.v2.iter().flat_map(|path| mounts.iter().flat_map(|mount| upwards(mount, path))).collect()
    }

    fn folders_v1(&self, root: &Path, controller: &str) -> Vec<PathBuf> {
        let mount = root.join("sys/fs/cgroup").join(controller);
        self.v1.iter().filter(|(name, _)| name == controller).flat_map(|(_, path)| upwards(&mount, path)).collect()
    }
}

/// A group and all above it. In a namespace of its own the path may lead out of what is mounted: then the mount itself is ours.
fn upwards(mount: &Path, path: &str) -> Vec<PathBuf> {
    let relative = Path::new(path.trim_start_matches('/'));
    relative
        .ancestors()
        .filter(|part| part.components().all(|one| matches!(one, std::path::Component::Normal(_))))
        .map(|part| mount.join(part))
        .collect()
}

/// What the kernel has under this name in `/proc/sys/kernel/random`: `uuid`, another one each time; `boot_id`, one for each of its runs.
///
/// # Errors
/// Where that can't be read.
pub fn kernel_random(name: &str) -> Result<String> {
    let path = Path::new("/proc/sys/kernel/random").join(name);
    Ok(std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        folder
    }

    const HOST: (&str, &str) = ("proc/meminfo", "MemTotal:       16777216 kB\nMemFree: 1 kB\n");

    #[test]
    fn without_groups_it_is_the_hosts() {
        let root = tree(&[HOST]);
        assert_eq!(memory(root.path()).unwrap(), Found { value: 16 << 30, origin: "/proc/meminfo".to_owned() });
        assert_eq!(cpus(root.path(), 8).value, 8);
        assert!(memory(tree(&[]).path()).is_err());
    }

    #[test]
    fn the_least_limit_on_the_way_up_counts() {
        let root = tree(&[
            HOST,
            ("proc/self/cgroup", "0::/a/b\n"),
            ("sys/fs/cgroup/a/b/memory.max", "max\n"),
            ("sys/fs/cgroup/a/memory.max", "1073741824\n"),
            ("sys/fs/cgroup/memory.max", "8589934592\n"),
            ("sys/fs/cgroup/a/b/cpu.max", "150000 100000\n"),
            ("sys/fs/cgroup/a/cpu.max", "max 100000\n"),
        ]);
        let found = memory(root.path()).unwrap();
        assert_eq!(found.value, 1 << 30);
        assert!(found.origin.ends_with("sys/fs/cgroup/a/memory.max"), "{}", found.origin);
        assert_eq!(cpus(root.path(), 8).value, 2, "one and a half");
        assert_eq!(cpus(root.path(), 1).value, 1, "affinity is less");
    }

    #[test]
    fn version_1_is_read_as_well() {
        let root = tree(&[
            HOST,
            ("proc/self/cgroup", "4:memory:/x\n1:cpu,cpuacct:/y\n0::/\n"),
            ("sys/fs/cgroup/memory/x/memory.limit_in_bytes", "536870912\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("sys/fs/cgroup/cpu/y/cpu.cfs_quota_us", "300000\n"),
            ("sys/fs/cgroup/cpu/y/cpu.cfs_period_us", "100000\n"),
            ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n"),
            ("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"),
        ]);
        assert_eq!(memory(root.path()).unwrap().value, 512 << 20);
        assert_eq!(cpus(root.path(), 8).value, 3);
    }

    #[test]
    fn a_path_that_leads_out_is_not_followed() {
        assert_eq!(upwards(Path::new("/m"), "/../../x"), [PathBuf::from("/m/")]);
        assert_eq!(upwards(Path::new("/m"), "/"), [PathBuf::from("/m/")]);
        assert_eq!(upwards(Path::new("/m"), "/a/b"), [PathBuf::from("/m/a/b"), PathBuf::from("/m/a"), PathBuf::from("/m/")]);
    }

    #[test]
    fn this_machine_can_be_read() {
        let found = Resources::find(&Settings::resolve(&[]).unwrap()).unwrap();
        assert!(found.memory_bytes.value > 1 << 20 && found.cpus.value >= 1, "{found:?}");
    }
}
