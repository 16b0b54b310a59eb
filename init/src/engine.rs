//! The loop: poll(2) over signals, children's output and connections; it does what [`Supervisor`] says.
//!
//! Whoever waits for something (a step of the boot for a program's end, a query for its answer) calls [`Engine::turn`] until it is there:
//! meanwhile signals are taken, orphans reaped, children supervised and `status` answered.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal as KernelSignal, WaitOptions, WaitStatus, kill_process, wait};

use crate::log::Log;
use crate::status::{ChildStatus, Phase, Status};
use crate::supervise::crash::{Ended, classify};
use crate::supervise::{Action, Child, Moment, Notch, Patience, Signal, State, Supervisor};
use crate::sys;

mod child;
mod connection;
mod exchange;
mod metadata;
mod peer;

use child::Running;
pub use child::Spec;
use connection::Connections;
pub use exchange::{Failed, Server, Talk};

/// A server that found the disk full is started again with this much of it free: a segment, and as much again for the rest.
const SPACE_TO_START: u64 = 32 << 20;

/// What a wait ends with when the program is told to stop, or can't go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("stopped")]
pub struct Stopped;

/// How a one-shot program ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// How.
    pub ended: Ended,
    /// The last lines that it printed.
    pub lines: Vec<String>,
}

impl Outcome {
    /// Whether it ended with 0.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.ended == Ended::Code(0)
    }

    /// What it said last.
    #[must_use]
    pub fn said(&self) -> String {
        let last = self.lines.iter().rev().take(6).rev().map(|line| line.trim());
        last.collect::<Vec<_>>().join(" | ")
    }
}

/// What somebody asked for from outside, to be done by who drives the loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Become the primary.
    Promote {
        /// In spite of what may be lost.
        force: bool,
    },
    /// Read the settings again, and do what follows.
    Reload,
}

/// The loop. One a process.
pub struct Engine {
    log: Log,
    started: Instant,
    signals: OwnedFd,
    core: Supervisor,
    specs: BTreeMap<Child, Spec>,
    running: BTreeMap<Child, Running>,
    /// Output of ended children that their own children still hold.
    leftover: Vec<Running>,
    last_task: Option<Outcome>,
    connections: Connections,
    asked: VecDeque<Asked>,
    set_aside: Option<Box<dyn FnMut(Notch) -> Vec<String>>>,
    memory_kills: u64,
    exit: Option<u8>,
    /// What is told to who asks; the parts that the engine knows are filled in then.
    pub board: Status,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("core", &self.core).finish_non_exhaustive()
    }
}

impl Engine {
    /// An engine that reads signals from there ([`sys::block_signals`]).
    #[must_use]
    pub fn new(log: Log, signals: OwnedFd, started: Instant) -> Self {
        let board = Status { version: env!("CARGO_PKG_VERSION").to_owned(), pid: std::process::id(), ..Status::default() };
        Self {
            log,
            started,
            signals,
            core: Supervisor::new(Patience::new(Duration::from_secs(120))),
            specs: BTreeMap::new(),
            running: BTreeMap::new(),
            leftover: Vec::new(),
            last_task: None,
            connections: Connections::default(),
            asked: VecDeque::new(),
            set_aside: None,
            memory_kills: memory_kills(),
            exit: None,
            board,
        }
    }

    /// The log that the engine writes to.
    #[must_use]
    pub const fn log(&self) -> Log {
        self.log
    }

    /// What the settings say of the log and of how long a stop may take. Nothing runs yet.
    pub fn configure(&mut self, log: Log, patience: Patience) {
        self.log = log;
        self.core.set_patience(patience);
    }

    /// How long the program has run.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one clock of the program: all else is given the time")]
    pub fn now(&self) -> Moment {
        Instant::now().saturating_duration_since(self.started)
    }

    /// Opens the socket of `status`, `stop` and `reload`.
    ///
    /// # Errors
    /// Where it can't be made.
    pub fn listen_control(&mut self, path: &Path) -> Result<()> {
        self.connections.listen_control(path)
    }

    /// Opens the health port, and says which one it is.
    ///
    /// # Errors
    /// Where it can't be had.
    pub fn listen_health(&mut self, address: std::net::SocketAddr) -> Result<()> {
        let bound = self.connections.listen_health(address)?;
        self.board.health = Some(format!("http://{bound}"));
        Ok(())
    }

    /// Who sets the user's configuration aside, and says which files that were.
    pub fn on_set_aside(&mut self, set_aside: Box<dyn FnMut(Notch) -> Vec<String>>) {
        self.set_aside = Some(set_aside);
    }

    /// Has the child run from now on, as this says, until [`Self::unwant`].
    pub fn want(&mut self, child: Child, spec: Spec) {
        self.specs.insert(child, spec);
        let now = self.now();
        self.core.handle_want(child, now);
        self.act();
    }

    /// Stops the child, and waits until it is gone.
    ///
    /// # Errors
    /// [`Stopped`].
    pub fn unwant(&mut self, child: Child) -> Result<()> {
        let now = self.now();
        self.core.handle_unwant(child, now);
        while self.core.state(child) != State::Down {
            self.go_on()?;
            self.turn(None, None)?;
        }
        self.go_on()
    }

    /// Stops the child and starts it anew, as `spec` says; does not wait for either.
    pub fn restart(&mut self, child: Child, spec: Spec) {
        self.specs.insert(child, spec);
        let now = self.now();
        self.core.handle_unwant(child, now);
        self.core.handle_want(child, now);
        self.act();
    }

    /// Sends a running child SIGHUP. `false` where it does not run.
    pub fn hup(&self, child: Child) -> bool {
        self.running.get(&child).is_some_and(|running| kill_process(running.pid, KernelSignal::HUP).is_ok())
    }

    /// Runs a program to its end.
    ///
    /// # Errors
    /// [`Stopped`].
    pub fn run(&mut self, spec: Spec) -> Result<Outcome> {
        self.go_on()?;
        self.last_task = None;
        self.want(Child::Task, spec);
        loop {
            if let Some(outcome) = self.last_task.take() {
                self.go_on()?;
                return Ok(outcome);
            }
            self.go_on()?;
            self.turn(None, None)?;
        }
    }

    /// Lets this much time pass, or less where something else happens.
    ///
    /// # Errors
    /// [`Stopped`].
    pub fn pause(&mut self, time: Duration) -> Result<()> {
        let until = self.now() + time;
        self.go_on()?;
        self.turn(None, Some(until))?;
        self.go_on()
    }

    /// Lets all of this time pass.
    ///
    /// # Errors
    /// [`Stopped`].
    pub fn pause_whole(&mut self, time: Duration) -> Result<()> {
        let until = self.now() + time;
        while self.now() < until {
            self.go_on()?;
            self.turn(None, Some(until))?;
        }
        self.go_on()
    }

    /// The last line of a running child that has this in it.
    #[must_use]
    pub fn said(&self, child: Child, text: &str) -> Option<String> {
        self.running.get(&child)?.lines().rev().find(|line| line.contains(text)).map(str::to_owned)
    }

    /// Where a child waits for space: says so to the supervisor once there is some.
    ///
    /// # Errors
    /// Where the folder is gone.
    pub fn look_for_space(&mut self, folder: &Path) -> Result<()> {
        if self.core.waits_for_space() && crate::volume::space(folder)?.0 >= SPACE_TO_START {
            self.space_is_back();
        }
        Ok(())
    }

    /// The control socket's file.
    #[must_use]
    pub fn control_path(&self) -> PathBuf {
        self.connections.control_path()
    }

    /// The supervisor, to ask how children are.
    #[must_use]
    pub const fn core(&self) -> &Supervisor {
        &self.core
    }

    /// The process of a child that runs.
    #[must_use]
    pub fn pid(&self, child: Child) -> Option<Pid> {
        self.running.get(&child).map(|running| running.pid)
    }

    /// There is space on the disk again.
    pub fn space_is_back(&mut self) {
        let now = self.now();
        self.core.handle_space(now);
        self.act();
    }

    /// Ends all with this code, since it can't go on.
    pub fn fail(&mut self, reason: &str, code: u8) {
        let now = self.now();
        self.core.handle_failure(reason, code, now);
        self.act();
    }

    /// What was asked for from outside.
    pub fn take_asked(&mut self) -> Option<Asked> {
        self.asked.pop_front()
    }

    /// Tells those who asked for a promotion what has become of it.
    pub fn answer_promotion(&mut self, outcome: &Result<String, Vec<String>>) {
        let answer = match outcome {
            Ok(said) => serde_json::json!({ "ok": true, "said": said }),
            Err(reasons) => serde_json::json!({ "refused": reasons }),
        };
        let now = self.now();
        self.connections.answer_waiting(&answer, now);
    }

    /// The exit code, once all is over.
    #[must_use]
    pub const fn exit(&self) -> Option<u8> {
        self.exit
    }

    /// # Errors
    /// [`Stopped`] when all ends.
    pub fn go_on(&self) -> Result<(), anyhow::Error> {
        if self.core.is_ending() { Err(Stopped.into()) } else { Ok(()) }
    }

    /// One turn of the loop: waits for an event until `until`, or until `also` is ready, and says whether that is.
    ///
    /// # Errors
    /// Where the kernel refuses to poll.
    pub fn turn(&mut self, also: Option<(BorrowedFd<'_>, PollFlags)>, until: Option<Moment>) -> Result<bool> {
        self.act();
        if self.exit.is_some() {
            return Ok(false);
        }
        let now = self.now();
        let due = [until, self.core.poll_timeout(), self.connections.timeout()].into_iter().flatten().min();
        let ready = self.wait(also, due.map(|due| due.saturating_sub(now))).context("wait for events")?;
        if ready.signals {
            self.take_signals()?;
        }
        for child in ready.children {
            if let Some(running) = self.running.get_mut(&child) {
                running.read_output(self.log);
            }
        }
        self.leftover.retain_mut(|running| running.read_output(self.log));
        let now = self.now();
        if ready.connections || self.connections.timeout().is_some_and(|due| due <= now) {
            self.serve(now);
        }
        self.core.handle_timeout(now);
        self.act();
        Ok(ready.also)
    }

    fn wait(&self, also: Option<(BorrowedFd<'_>, PollFlags)>, timeout: Option<Duration>) -> io::Result<Ready> {
        let mut fds = vec![PollFd::new(&self.signals, PollFlags::IN)];
        fds.extend(also.as_ref().map(|(fd, flags)| PollFd::new(fd, *flags)));
        let first_child = fds.len();
        let children: Vec<Child> =
            self.running.iter().filter_map(|(child, running)| running.output.is_some().then_some(*child)).collect();
        let outputs = self.running.values().chain(&self.leftover).filter_map(|running| running.output.as_ref());
        fds.extend(outputs.map(|output| PollFd::new(output, PollFlags::IN)));
        let first_connection = fds.len();
        self.connections.add_to(&mut fds);
        let timeout = timeout.map(|time| Timespec {
            tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: time.subsec_nanos().into(),
        });
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let is_ready = |at: usize| fds.get(at).is_some_and(|fd| !fd.revents().is_empty());
        Ok(Ready {
            signals: is_ready(0),
            also: also.is_some() && is_ready(1),
            children: children
                .into_iter()
                .enumerate()
                .filter_map(|(at, child)| is_ready(first_child + at).then_some(child))
                .collect(),
            connections: (first_connection..fds.len()).any(is_ready),
        })
    }

    fn take_signals(&mut self) -> Result<()> {
        while let Some(signal) = sys::next_signal(self.signals.as_fd()).context("read signals")? {
            let now = self.now();
            match signal {
                libc::SIGCHLD => {}
                libc::SIGHUP => self.asked.push_back(Asked::Reload),
                libc::SIGTERM | libc::SIGINT | libc::SIGQUIT | libc::SIGPWR => {
                    if !self.core.is_ending() {
                        self.log.info("boot", format_args!("signal {signal}: stopping"));
                    }
                    self.core.handle_stop(now);
                }
                _ => {}
            }
        }
        // One SIGCHLD stands for any number of ends.
        self.reap();
        Ok(())
    }

    /// Takes the ends of all that have ended, orphans among them.
    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let child = self.running.iter().find_map(|(child, running)| (running.pid == pid).then_some(*child));
            match child {
                Some(child) => self.take_end(child, ended(status)),
                None => self.board.reaped += 1,
            }
        }
    }

    fn take_end(&mut self, child: Child, ended: Ended) {
        let Some(mut running) = self.running.remove(&child) else { return };
        // What it said last is in the pipe already.
        let still_held = running.read_output(self.log);
        let memory_kills = memory_kills();
        let death = classify(ended, running.lines(), memory_kills > self.memory_kills);
        self.memory_kills = memory_kills;
        let asked = !matches!(self.core.state(child), State::Up { .. });
        if child == Child::Task {
            self.last_task = Some(Outcome { ended, lines: running.lines().map(str::to_owned).collect() });
        } else if asked {
            self.log.info(child.name(), "stopped");
        } else {
            self.log.error(child.name(), format_args!("{} ({})", death.text, death.class.name()));
        }
        if still_held {
            self.leftover.push(running);
        }
        let now = self.now();
        self.core.handle_exit(child, death, now);
    }

    /// Does what the supervisor says, until it says nothing.
    fn act(&mut self) {
        while let Some(action) = self.core.poll_action() {
            match action {
                Action::Abandon(child) => {
                    self.log.error(child.name(), "killed, and not gone: left behind");
                    self.running.remove(&child);
                }
                Action::Exit(code) => self.exit = Some(code),
                Action::Say(child, text) => self.log.error(child.name(), text),
                Action::SetAside(notch) => {
                    let files = self.set_aside.as_mut().map(|set_aside| set_aside(notch)).unwrap_or_default();
                    for file in files {
                        self.log
                            .error("postgres", format_args!("does not start with the user's configuration: {file} is set aside"));
                        self.board.set_aside.push(file);
                    }
                }
                Action::Signal(child, signal) => self.signal(child, signal),
                Action::Start(child) => self.start(child),
            }
        }
        self.board.phase = match (self.core.failure(), self.core.is_ending(), self.board.phase) {
            (Some(_), _, _) => Phase::Failed,
            (None, true, _) => Phase::Stopping,
            (None, false, phase) => phase,
        };
    }

    fn start(&mut self, child: Child) {
        let Some(spec) = self.specs.get(&child) else { return };
        match Running::start(child, spec) {
            Ok(running) => {
                if !spec.quiet {
                    self.log.info(child.name(), format_args!("started {} (pid {})", spec.describe(), running.pid.as_raw_nonzero()));
                }
                self.running.insert(child, running);
            }
            Err(error) => {
                let text = format!("{} can't be started: {error}", spec.program.display());
                if child == Child::Task {
                    self.last_task = Some(Outcome { ended: Ended::NotStarted, lines: vec![text.clone()] });
                }
                self.log.error(child.name(), &text);
                let now = self.now();
                let death = classify(Ended::NotStarted, [text.as_str()].into_iter(), false);
                self.core.handle_exit(child, death, now);
            }
        }
    }

    fn signal(&self, child: Child, signal: Signal) {
        let Some(running) = self.running.get(&child) else { return };
        let (kernel, name) = match signal {
            Signal::Int => (KernelSignal::INT, "INT"),
            Signal::Kill => (KernelSignal::KILL, "KILL"),
            Signal::Quit => (KernelSignal::QUIT, "QUIT"),
            Signal::Term => (KernelSignal::TERM, "TERM"),
        };
        self.log.info(child.name(), format_args!("stopping it by SIG{name}"));
        // It may have ended a moment ago: its end is on the way.
        kill_process(running.pid, kernel).ok();
    }

    /// Answers who asks.
    fn serve(&mut self, now: Moment) {
        let status = self.status();
        for asked in self.connections.serve(now, &status) {
            match asked {
                connection::Request::Promote { force } => self.asked.push_back(Asked::Promote { force }),
                connection::Request::Reload => self.asked.push_back(Asked::Reload),
                connection::Request::Stop => {
                    self.log.info("boot", "asked to stop");
                    self.core.handle_stop(now);
                }
            }
        }
    }

    /// What is to be told.
    #[must_use]
    pub fn status(&self) -> Status {
        let mut status = self.board.clone();
        status.children = Child::ALL
            .into_iter()
            .filter(|child| *child != Child::Task || self.running.contains_key(child))
            .filter(|child| self.specs.contains_key(child))
            .map(|child| self.child_status(child))
            .collect();
        if let Some(failure) = self.core.failure() {
            status.not_ready = Some(failure.to_owned());
        } else if self.core.is_ending() {
            status.not_ready = Some("it is stopping".to_owned());
        }
        status.ready &= !self.core.is_ending();
        if let Some(ha) = &mut status.ha {
            ha.serving = matches!(self.core.state(Child::Postgres), State::Up { .. }) && !self.core.is_ending();
        }
        if status.ready {
            let down = status
                .children
                .iter()
                .find(|child| matches!(child.name.as_str(), "postgres" | "pgbouncer" | "sink") && child.state != "up");
            if let Some(down) = down {
                status.ready = false;
                status.not_ready =
                    Some(format!("{} is {}: {}", down.name, down.state, down.last_death.as_deref().unwrap_or("not started yet")));
            }
        }
        if status.ready {
            status.not_ready = None;
        }
        status
    }

    fn child_status(&self, child: Child) -> ChildStatus {
        let state = match self.core.state(child) {
            State::Down => "down",
            State::NoSpace => "no-space",
            State::Stopping { .. } => "stopping",
            State::Up { .. } => "up",
            State::Waiting { .. } => "waiting",
        };
        let last = self.core.last_death(child).filter(|_| self.core.deaths(child) > 0);
        ChildStatus {
            name: child.name().to_owned(),
            state: state.to_owned(),
            pid: self.pid(child).map(|pid| pid.as_raw_nonzero().get()),
            deaths: self.core.deaths(child),
            last_death: last.map(|death| death.text.clone()),
            last_class: last.map(|death| death.class.name().to_owned()),
        }
    }
}

struct Ready {
    signals: bool,
    also: bool,
    children: Vec<Child>,
    connections: bool,
}

fn ended(status: WaitStatus) -> Ended {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Ended::Code(code),
        (None, Some(signal)) => Ended::Signal(signal),
        (None, None) => Ended::NotStarted,
    }
}

/// How often the kernel has killed for want of memory, on the whole machine.
fn memory_kills() -> u64 {
    let text = std::fs::read_to_string("/proc/vmstat").unwrap_or_default();
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok()).unwrap_or_default()
}
