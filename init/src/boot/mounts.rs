//! What a kernel leaves to PID 1: filesystems and the loopback device.

use std::path::Path;

use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};

use crate::log::Log;
use crate::sys;

/// Kind, where, and its options.
const MOUNTS: [(&str, &str, &str); 7] = [
    ("proc", "/proc", ""),
    ("sysfs", "/sys", ""),
    ("devtmpfs", "/dev", "mode=755"),
    ("tmpfs", "/dev/shm", "mode=1777"),
    ("devpts", "/dev/pts", "mode=620,ptmxmode=666"),
    ("tmpfs", "/run", "mode=755"),
    ("cgroup2", "/sys/fs/cgroup", ""),
];

/// Mounts what is not mounted. What can't be is said and left: in a container all of it is there already, or nobody's business.
pub(super) fn mount_all(log: Log) {
    for (kind, target, options) in MOUNTS {
        if is_mounted(target) {
            continue;
        }
        std::fs::create_dir_all(target).ok();
        let options = std::ffi::CString::new(options).unwrap_or_default();
        match mount(kind, target, kind, MountFlags::NOSUID, Some(options.as_c_str())) {
            Ok(()) | Err(Errno::BUSY) => {}
            Err(error) => log.warn("mounts", format_args!("{target} can't be mounted: {error}")),
        }
    }
    if let Err(error) = sys::loopback_up() {
        log.warn("mounts", format_args!("the loopback device does not come up: {error}"));
    }
}

fn is_mounted(target: &str) -> bool {
    // Before /proc there is no list of mounts.
    if target == "/proc" {
        return Path::new("/proc/self").exists();
    }
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts.lines().any(|line| line.split(' ').nth(1) == Some(target))
}
