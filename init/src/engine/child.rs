//! Processes: how they are started, and what they print.

use std::collections::VecDeque;
use std::io::{self, pipe};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::process::{Pid, Signal};

use crate::account::Account;
use crate::log::Log;
use crate::supervise::Child;
use crate::sys;

/// How many of its last lines a child leaves behind.
const LINES: usize = 40;

/// The most bytes of one line.
const LINE_MAX: usize = 8192;

/// Variables of our own environment that no child sees: what it needs of them, it is given.
const OWN: [&str; 3] = ["BEYOND_", "PG", "NOTIFY_SOCKET"];

/// How a child is started.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// Variables of its environment, beside those of ours that are nobody's settings.
    pub env: Vec<(String, String)>,
    /// Who it runs as; `None` as we do.
    pub account: Option<Account>,
    /// Its current folder.
    pub folder: PathBuf,
    /// Whether neither its start nor its lines are logged.
    pub quiet: bool,
    /// A word for the log, in place of the program's name.
    pub name: Option<&'static str>,
}

impl Spec {
    /// A program with these arguments, as this account.
    #[must_use]
    pub fn new<T: Into<String>>(program: PathBuf, args: impl IntoIterator<Item = T>, account: Option<&Account>) -> Self {
        Self {
            program,
            args: args.into_iter().map(Into::into).collect(),
            env: Vec::new(),
            account: account.cloned(),
            folder: PathBuf::from("/"),
            quiet: false,
            name: None,
        }
    }

    /// With these variables in its environment.
    #[must_use]
    pub fn envs<N: Into<String>, V: Into<String>>(mut self, env: impl IntoIterator<Item = (N, V)>) -> Self {
        self.env.extend(env.into_iter().map(|(name, value)| (name.into(), value.into())));
        self
    }

    /// Its output is the answer to a question, not for the log.
    #[must_use]
    pub const fn quiet(mut self) -> Self {
        self.quiet = true;
        self
    }

    /// The name that its lines have in the log.
    #[must_use]
    pub const fn named(mut self, name: &'static str) -> Self {
        self.name = Some(name);
        self
    }

    pub(super) fn describe(&self) -> String {
        self.program.file_name().map_or_else(|| self.program.display().to_string(), |name| name.to_string_lossy().into_owned())
    }

    fn command(&self, child: Child) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.args).current_dir(&self.folder).stdin(Stdio::null());
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_none_or(|name| OWN.iter().any(|prefix| name.starts_with(prefix))) {
                command.env_remove(name);
            }
        }
        // What servers say is read by us as well: in English.
        command.env("LC_MESSAGES", "C").env_remove("LC_ALL").env_remove("LANGUAGE");
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        if let Some(account) = &self.account {
            // Supplementary groups are dropped with it.
            command.uid(account.uid).gid(account.gid).env("USER", &account.name).env("LOGNAME", &account.name);
        }
        // As an ordinary stop does it: if we are killed, nothing of ours goes on by itself.
        let death = match child {
            Child::Postgres => Signal::INT,
            Child::PgBouncer => Signal::QUIT,
            Child::Archiver | Child::Cdc | Child::Sink => Signal::TERM,
            Child::Task => Signal::KILL,
        };
        sys::prepare(&mut command, death);
        command
    }
}

/// A process, and what it has printed.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) pid: Pid,
    /// `None` once nobody can print any more.
    pub(super) output: Option<OwnedFd>,
    name: &'static str,
    quiet: bool,
    partial: Vec<u8>,
    lines: VecDeque<String>,
}

impl Running {
    pub(super) fn start(child: Child, spec: &Spec) -> io::Result<Self> {
        let (read, write) = pipe()?;
        let read = OwnedFd::from(read);
        fcntl_setfl(&read, fcntl_getfl(&read)? | OFlags::NONBLOCK)?;
        let mut command = spec.command(child);
        command.stdout(write.try_clone()?).stderr(write);
        let process = command.spawn()?;
        Ok(Self {
            pid: Pid::from_child(&process),
            output: Some(read),
            name: spec.name.unwrap_or_else(|| child.name()),
            quiet: spec.quiet,
            partial: Vec::new(),
            lines: VecDeque::new(),
        })
    }

    /// The last lines that it printed.
    pub(super) fn lines(&self) -> impl DoubleEndedIterator<Item = &str> + Clone {
        self.lines.iter().map(String::as_str)
    }

    /// Reads what it has printed. `false` once nobody can print any more.
    pub(super) fn read_output(&mut self, log: Log) -> bool {
        let mut bytes = [0; 16 * 1024];
        // A child that prints without end does not keep the loop.
        for _ in 0..16 {
            let Some(output) = &self.output else { return false };
            match rustix::io::read(output, &mut bytes) {
                Ok(0) => {
                    self.output = None;
                    self.end_line(log);
                    return false;
                }
                Ok(read) => self.take(bytes.get(..read).unwrap_or_default(), log),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return true,
                Err(_) => self.output = None,
            }
        }
        true
    }

    fn take(&mut self, bytes: &[u8], log: Log) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.partial.extend_from_slice(part);
            if self.partial.ends_with(b"\n") || self.partial.len() >= LINE_MAX {
                self.end_line(log);
            }
        }
    }

    fn end_line(&mut self, log: Log) {
        let line = String::from_utf8_lossy(&self.partial).trim_end().to_owned();
        self.partial.clear();
        if line.is_empty() {
            return;
        }
        if !self.quiet {
            log.info(self.name, &line);
        }
        if self.lines.len() == LINES {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }
}
