//! Processes under test: started, signalled, and killed with all that they started.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use crate::program::describe;
use crate::wait::eventually;

/// How long the kernel may take to end a killed process.
const DEATH: Timespec = Timespec { tv_sec: 30, tv_nsec: 0 };

/// How much of its output a process leaves behind in an error.
const LOG_LINES: usize = 40;

/// A process that runs until it ends or this is dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a [`command`](crate::program::command); what it prints to stdout and stderr is appended to the file `log`.
    ///
    /// # Errors
    /// Where it can't be started.
    pub fn spawn(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        let out = File::options().create(true).append(true).open(log).with_context(|| format!("open {}", log.display()))?;
        command.stderr(out.try_clone()?).stdout(out);
        let child = command.spawn().with_context(|| format!("start {}", describe(&command)))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned() })
    }

    /// Its number.
    #[must_use]
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// All that it has printed, and what ran before it with the same log.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read(&self.log).map_or_else(|error| error.to_string(), |text| String::from_utf8_lossy(&text).into_owned())
    }

    /// The last lines that it has printed.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }

    /// How it ended, `None` while it runs.
    ///
    /// # Errors
    /// Where the kernel does not say.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("wait for {}", self.name))
    }

    /// An error where it has ended.
    ///
    /// # Errors
    /// With how it ended and what it printed last.
    pub fn check_runs(&mut self) -> Result<()> {
        match self.ended()? {
            None => Ok(()),
            Some(status) => bail!("{} ended with {status}:\n{}", self.name, self.log_tail()),
        }
    }

    /// Waits until it has ended, and returns in that very moment: what follows comes before much else.
    ///
    /// # Errors
    /// When it still runs at the deadline.
    pub async fn death(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let death = pidfd_open(self.pid(), PidfdFlags::empty()).with_context(|| format!("watch {}", self.name))?;
        let until = Timespec { tv_sec: i64::try_from(deadline.as_secs())?, tv_nsec: 0 };
        tokio::task::spawn_blocking(move || poll(&mut [PollFd::new(&death, PollFlags::IN)], Some(&until))).await??;
        self.ended()?.with_context(|| format!("{} still runs after {deadline:?}; its log:\n{}", self.name, self.log_tail()))
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// When it still runs at the deadline.
    pub async fn wait(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let what = format!("the end of {}", self.name);
        let ended = eventually(deadline, &what, async || self.ended()).await;
        ended.with_context(|| format!("its log:\n{}", self.log_tail()))
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// Where it has ended.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        self.check_runs()?;
        kill_process(self.pid(), signal).with_context(|| format!("send {signal:?} to {}", self.name))
    }

    /// Sends a signal to it, then to all processes that it has started and they have started.
    ///
    /// # Errors
    /// Where it has ended.
    pub fn signal_all(&mut self, signal: Signal) -> Result<()> {
        self.signal(signal)?;
        for pid in descendants(self.pid())? {
            // One may end at this moment: that is no fault.
            kill_process(pid, signal).ok();
        }
        Ok(())
    }

    /// Sends a signal to those of the processes that it has started, and they have started, whose names the kernel has so (15 characters
    /// of them), and says to how many.
    ///
    /// # Errors
    /// Where it has ended.
    pub fn signal_descendants(&mut self, name: &str, signal: Signal) -> Result<usize> {
        self.check_runs()?;
        let named = |pid: &Pid| {
            // It may have ended since it was listed.
            let comm = std::fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_nonzero()));
            comm.is_ok_and(|comm| comm.trim_end() == name)
        };
        let found = descendants(self.pid())?.into_iter().filter(named);
        Ok(found.filter(|pid| kill_process(*pid, signal).is_ok()).count())
    }

    /// Kills it and all that it has started, at one moment as far as they can tell, and waits until all are dead: nothing of it holds
    /// a file, a port or shared memory any longer.
    ///
    /// # Errors
    /// Where one does not die.
    pub fn kill_all(&mut self) -> Result<()> {
        if self.ended()?.is_some() {
            return Ok(());
        }
        let pid = self.pid();
        // Stopped, none starts another, and none can react to the death of another.
        let others = stop_all(pid).with_context(|| format!("stop {}", self.name))?;
        let deaths = deaths_of(&others);
        for pid in std::iter::once(&pid).chain(&others) {
            kill_process(*pid, Signal::KILL).ok();
        }
        self.child.wait().with_context(|| format!("wait for {}", self.name))?;
        await_deaths(&deaths).with_context(|| format!("kill {}", self.name))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(error) = self.kill_all() {
            eprintln!("{error:#}");
        }
        if std::thread::panicking() {
            eprintln!("--- the last lines of {} ({}):\n{}", self.name, self.log.display(), self.log_tail());
        }
    }
}

/// Kills processes that are nobody's to wait for, and waits until they are dead.
///
/// # Errors
/// Where one does not die.
pub(crate) fn kill_others(pids: &[Pid]) -> Result<()> {
    let deaths = deaths_of(pids);
    for pid in pids {
        kill_process(*pid, Signal::KILL).ok();
    }
    await_deaths(&deaths)
}

/// What tells of their deaths; of those that are dead and reaped, nothing.
fn deaths_of(pids: &[Pid]) -> Vec<OwnedFd> {
    pids.iter().filter_map(|pid| pidfd_open(*pid, PidfdFlags::empty()).ok()).collect()
}

fn await_deaths(deaths: &[OwnedFd]) -> Result<()> {
    for death in deaths {
        if poll(&mut [PollFd::new(death, PollFlags::IN)], Some(&DEATH))? == 0 {
            bail!("a process was killed and does not die");
        }
    }
    Ok(())
}

/// Stops a process and all that it has started, and they have started, and gives the others.
///
/// # Errors
/// Where the first of them has ended.
pub(crate) fn stop_all(root: Pid) -> Result<Vec<Pid>> {
    kill_process(root, Signal::STOP)?;
    let mut stopped = Vec::new();
    loop {
        // One that was not stopped yet may have started another since.
        let found = descendants(root)?;
        let new: Vec<Pid> = found.into_iter().filter(|pid| !stopped.contains(pid)).collect();
        if new.is_empty() {
            return Ok(stopped);
        }
        for pid in &new {
            // One may end at this moment: that is no fault.
            kill_process(*pid, Signal::STOP).ok();
        }
        stopped.extend(new);
    }
}

/// The parent of a process, `None` of one that is dead.
pub(crate) fn parent_of(pid: Pid) -> Option<i32> {
    parent(&std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?)
}

/// The processes that `root` has started, those that they have started, and so on; without those that are dead already.
fn descendants(root: Pid) -> Result<Vec<Pid>> {
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    for entry in std::fs::read_dir("/proc").context("read /proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // It may have ended since it was listed.
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        if let Some(parent) = parent(&stat) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = Vec::new();
    let mut open = vec![root.as_raw_nonzero().get()];
    while let Some(pid) = open.pop() {
        let next = children.remove(&pid).unwrap_or_default();
        found.extend(next.iter().filter_map(|pid| Pid::from_raw(*pid)));
        open.extend(next);
    }
    Ok(found)
}

/// The parent in a `/proc/PID/stat`, `None` of a process that is dead and not yet reaped.
fn parent(stat: &str) -> Option<i32> {
    // The name in parentheses may hold anything, parentheses and blanks as well.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    match fields.next()? {
        "Z" | "X" => None,
        _ => fields.next()?.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;
    use crate::wait::DEADLINE;

    #[test]
    fn a_parent_is_found_whatever_the_name() {
        assert_eq!(parent("12 (a) b (c)) S 7 12 12 0"), Some(7));
        assert_eq!(parent("12 (a) Z 7 12 12 0"), None);
        assert_eq!(parent(""), None);
    }

    #[tokio::test]
    async fn all_that_a_process_started_dies_with_it() {
        let scratch = Scratch::new().unwrap();
        let mut command = crate::program::command(Path::new("/bin/sh"));
        command.args(["-c", "sh -c 'sleep 1000 & wait' & echo ready; wait"]);
        let mut process = Process::spawn("a shell", command, &scratch.path().join("log")).unwrap();
        let others = eventually(DEADLINE, "two descendants, and a word from the shell", async || {
            let found = descendants(process.pid())?;
            Ok((found.len() == 2 && process.log().contains("ready")).then_some(found))
        })
        .await
        .unwrap();
        process.kill_all().unwrap();
        assert!(process.ended().unwrap().is_some());
        for pid in others {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
            assert_eq!(parent(&stat), None, "{stat}");
        }
    }
}
