//! What is left of an instance that was killed: kill -9 at a step of its boot, and what still runs.

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, getpid};

use super::Init;
use crate::process::{kill_others, parent_of};
use crate::wait::DEADLINE;

impl Init {
    /// Boots it until it kills itself right after this step, and kills all that it has started: its whole host dies there.
    ///
    /// # Errors
    /// Where it does not get as far: with its log.
    pub async fn die_after(&mut self, step: &str) -> Result<()> {
        let from = self.log().len();
        self.launch(&["--die-after", step])?;
        let status = self.process()?.death(DEADLINE).await?;
        // The kernel has told them to stop in order; few get far.
        loop {
            let left = self.orphans()?;
            if left.is_empty() {
                break;
            }
            kill_others(&left).with_context(|| format!("what it has started until {step}"))?;
        }
        let log = self.log().get(from..).unwrap_or_default().to_owned();
        ensure!(status.code().is_none() && log.contains(&format!("dying after step {step}")), "{step}: {status} {log}");
        Ok(())
    }

    /// The processes that have a folder of this instance as their current one, and those that its program is running for.
    ///
    /// # Errors
    /// Where /proc can't be read.
    pub fn left_behind(&self) -> Result<Vec<String>> {
        Ok(self.processes()?.into_iter().map(|(_, line)| line).collect())
    }

    /// Those of them that this process has not started itself, as it has a sink beside the instance.
    fn orphans(&self) -> Result<Vec<Pid>> {
        let own = getpid().as_raw_nonzero().get();
        let found = self.processes()?.into_iter().map(|(pid, _)| pid);
        Ok(found.filter(|pid| parent_of(*pid).is_some_and(|parent| parent != own)).collect())
    }

    fn processes(&self) -> Result<Vec<(Pid, String)>> {
        let mut found = Vec::new();
        let scratch = self.scratch.path().to_string_lossy().into_owned();
        for entry in std::fs::read_dir("/proc")? {
            let path = entry?.path();
            let pid = path.file_name().and_then(|name| Pid::from_raw(name.to_str()?.parse().ok()?));
            let folder = std::fs::read_link(path.join("cwd")).unwrap_or_default();
            let line = std::fs::read_to_string(path.join("cmdline")).unwrap_or_default();
            if let Some(pid) = pid
                && (folder.starts_with(self.scratch.path()) || line.contains(&scratch))
            {
                found.push((pid, line.replace('\0', " ")));
            }
        }
        Ok(found)
    }
}
