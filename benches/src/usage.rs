//! What a process has used.

use anyhow::{Context, Result};
use rustix::process::Pid;

/// What a process has used since its start.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Usage {
    /// Seconds of CPU, user and system, all of its threads.
    pub cpu_seconds: f64,
    /// The most memory that was resident at once, in MB of 1,000,000 bytes.
    pub resident_mb_max: f64,
}

impl Usage {
    /// Of a process that runs.
    ///
    /// # Errors
    /// Where it has ended.
    pub fn of(pid: Pid) -> Result<Self> {
        let read = |file: &str| {
            let path = format!("/proc/{}/{file}", pid.as_raw_nonzero());
            std::fs::read_to_string(&path).with_context(|| format!("read {path}"))
        };
        let ticks = cpu_ticks(&read("stat")?).context("/proc/PID/stat has no times")?;
        let kilobytes = resident_kib_max(&read("status")?).context("/proc/PID/status has no VmHWM")?;
        Ok(Self {
            cpu_seconds: ticks as f64 / rustix::param::clock_ticks_per_second() as f64,
            resident_mb_max: kilobytes as f64 * 1024.0 / 1e6,
        })
    }
}

/// The fields 14 and 15, `utime` and `stime`, of `/proc/PID/stat`.
fn cpu_ticks(stat: &str) -> Option<u64> {
    // The name in parentheses may hold anything, parentheses and blanks as well; field 3 comes after it.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

fn resident_kib_max(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_proc_are_read() {
        assert_eq!(cpu_ticks("7 (a) b (c)) S 1 7 7 0 -1 4194560 1 2 3 4 250 17 5 6 20 0 1 0 99"), Some(267));
        assert_eq!(cpu_ticks("7 (a) S 1"), None);
        assert_eq!(resident_kib_max("VmPeak:\t  9 kB\nVmHWM:\t    8632 kB\n"), Some(8632));
        assert_eq!(resident_kib_max("VmPeak:\t  9 kB\n"), None);
    }

    #[test]
    fn a_process_uses_memory() {
        assert!(Usage::of(rustix::process::getpid()).unwrap().resident_mb_max > 0.1);
    }
}
