//! Which child starts, which is signalled, and when all is over: decided here, done elsewhere. No process, no clock.
//!
//! Call `handle_*` with what happened and when, then [`Supervisor::poll_action`] until it gives `None`, then sleep until
//! [`Supervisor::poll_timeout`] or until something else happens, and call [`Supervisor::handle_timeout`] with the time.
//!
//! ```text
//!   want ──▶ Starting after backoff ──▶ Up ──▶ exit ──▶ by its class: again · without the user's layer · when there is space · never
//!                                       │
//!   unwant, stop ───────────────────────┴──▶ Stopping: one signal after the other, each with its time ──▶ Down
//! ```
//!
//! Stop order: one-shot programs, PgBouncer, sidecars, Postgres or the sink. Each waits until those before it are gone.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

mod backoff;
pub mod crash;
#[cfg(test)]
mod tests;

use backoff::Backoff;
use crash::{Class, Death};

/// A point in time: how long the program has run.
pub type Moment = Duration;

/// How long a killed process may take to be gone, before the program goes on without it.
const KILLED: Duration = Duration::from_secs(10);

/// What is started, in the order in which it is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Child {
    /// What a step runs to its end: `initdb`, `recover`, `restore`. Never started again by itself.
    Task,
    /// The pool in front of Postgres.
    PgBouncer,
    /// The sidecar `beyond-pg-archiver serve`.
    Archiver,
    /// The sidecar `beyond-pg-cdc`.
    Cdc,
    /// The server of the sink tier.
    Sink,
    /// The server of the other tiers.
    Postgres,
}

impl Child {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Task, Self::PgBouncer, Self::Archiver, Self::Cdc, Self::Sink, Self::Postgres];

    /// Its name in the log, in status and in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Archiver => "archiver",
            Self::Cdc => "cdc",
            Self::PgBouncer => "pgbouncer",
            Self::Postgres => "postgres",
            Self::Sink => "sink",
            Self::Task => "task",
        }
    }

    /// Those of a lower rank are gone before one of a higher is told to stop.
    #[must_use]
    pub const fn stop_rank(self) -> u8 {
        match self {
            Self::Task => 0,
            Self::PgBouncer => 1,
            Self::Archiver | Self::Cdc => 2,
            Self::Postgres | Self::Sink => 3,
        }
    }
}

/// A signal, named for what it asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Signal {
    /// Postgres: fast shutdown. PgBouncer: ends after its running transactions.
    Int,
    /// Ends sidecars and one-shot programs in their own order.
    Term,
    /// Immediate shutdown.
    Quit,
    /// Nothing is asked any more.
    Kill,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// The killed process does not go away: it is counted as gone.
    Abandon(Child),
    /// All is over: end with this code.
    Exit(u8),
    /// Something stands in the way that a person has to know of.
    Say(Child, String),
    /// Set the user's configuration aside: the server does not start with it. Comes before the start that it is meant for.
    SetAside(Notch),
    /// Signal it.
    Signal(Child, Signal),
    /// Start it. Answered by `handle_exit` when it ends, also where it could not be started.
    Start(Child),
}

/// What of the user's configuration is set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Notch {
    /// What `ALTER SYSTEM` has written.
    AlterSystem,
    /// The user's files in `conf.d`.
    Files,
}

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// How long Postgres' fast shutdown may take, with the checkpoint in it.
    pub postgres: Duration,
    /// How long PgBouncer may wait for running transactions.
    pub pgbouncer: Duration,
    /// How long sidecars and one-shot programs may take.
    pub others: Duration,
    /// How long an immediate shutdown may take.
    pub immediate: Duration,
}

impl Patience {
    /// What an ordered stop may take, with this much for Postgres' fast shutdown.
    #[must_use]
    pub const fn new(postgres: Duration) -> Self {
        let seconds = Duration::from_secs;
        Self { postgres, pgbouncer: seconds(5), others: seconds(15), immediate: seconds(15) }
    }

    /// The signals that stop this child, and how long each has time.
    fn ladder(&self, child: Child) -> Vec<(Signal, Duration)> {
        let kill = (Signal::Kill, KILLED);
        match child {
            Child::PgBouncer => vec![(Signal::Int, self.pgbouncer), (Signal::Quit, self.immediate.min(self.pgbouncer)), kill],
            Child::Postgres => vec![(Signal::Int, self.postgres), (Signal::Quit, self.immediate), kill],
            Child::Archiver | Child::Cdc | Child::Sink | Child::Task => vec![(Signal::Term, self.others), kill],
        }
    }

    /// After how long a stop is over, whatever the children do.
    #[must_use]
    pub fn longest_stop(&self) -> Duration {
        let of_rank = |rank: u8| {
            let children = Child::ALL.into_iter().filter(move |child| child.stop_rank() == rank);
            children.map(|child| self.ladder(child).iter().map(|(_, time)| *time).sum::<Duration>()).max().unwrap_or_default()
        };
        (0..=3).map(of_rank).sum()
    }
}

/// Where one child is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Not running, and not to be.
    Down,
    /// Ended; waits for space on the disk.
    NoSpace,
    /// Told to stop: which signal it was sent last, and when the next is due.
    Stopping {
        /// The number of the signal.
        rung: usize,
        /// When its time is over.
        until: Moment,
    },
    /// Runs.
    Up {
        /// Since when.
        since: Moment,
    },
    /// Starts when its backoff is over.
    Waiting {
        /// When that is.
        until: Moment,
    },
}

#[derive(Debug)]
struct Slot {
    wanted: bool,
    state: State,
    backoff: Backoff,
    deaths: u64,
    last_death: Option<Death>,
}

/// The core. See the module for the order of calls.
#[derive(Debug)]
pub struct Supervisor {
    patience: Patience,
    slots: BTreeMap<Child, Slot>,
    /// The exit code, once it is decided that all ends.
    ending: Option<u8>,
    ended: bool,
    failure: Option<String>,
    next_notch: Option<Notch>,
    actions: VecDeque<Action>,
}

impl Supervisor {
    /// Nothing runs, nothing is wanted.
    #[must_use]
    pub fn new(patience: Patience) -> Self {
        let slot = || Slot { wanted: false, state: State::Down, backoff: Backoff::default(), deaths: 0, last_death: None };
        Self {
            patience,
            slots: Child::ALL.into_iter().map(|child| (child, slot())).collect(),
            ending: None,
            ended: false,
            failure: None,
            next_notch: Some(Notch::Files),
            actions: VecDeque::new(),
        }
    }

    /// Other times for what is stopped from now on.
    pub const fn set_patience(&mut self, patience: Patience) {
        self.patience = patience;
    }

    /// From now on this child shall run. Ignored when all ends.
    pub fn handle_want(&mut self, child: Child, now: Moment) {
        if self.ending.is_some() {
            return;
        }
        let slot = self.slot(child);
        slot.wanted = true;
        if slot.state == State::Down {
            slot.backoff = Backoff::default();
            self.start(child, now);
        }
    }

    /// From now on this child shall not run: it is stopped in its own order.
    pub fn handle_unwant(&mut self, child: Child, now: Moment) {
        if self.ending.is_some() {
            return;
        }
        self.slot(child).wanted = false;
        match self.state(child) {
            State::NoSpace | State::Waiting { .. } => self.slot(child).state = State::Down,
            State::Up { .. } => self.begin_stop(child, now),
            State::Down | State::Stopping { .. } => {}
        }
    }

    /// The child has ended, or could not be started.
    pub fn handle_exit(&mut self, child: Child, death: Death, now: Moment) {
        let (state, wanted) = (self.state(child), self.is_wanted(child));
        match state {
            // Abandoned, or never started: nobody waits for it.
            State::Down | State::NoSpace | State::Waiting { .. } => {}
            State::Stopping { .. } => {
                self.slot(child).state = State::Down;
                if wanted && self.ending.is_none() {
                    self.start(child, now);
                }
            }
            State::Up { since } => {
                let ending = self.ending.is_some();
                let slot = self.slot(child);
                slot.state = State::Down;
                slot.last_death = Some(death.clone());
                if child == Child::Task {
                    slot.wanted = false;
                } else {
                    slot.deaths += 1;
                    if !ending {
                        self.revive(child, &death, since, now);
                    }
                }
            }
        }
        self.advance(now);
    }

    /// All ends, as asked: in order, then [`Action::Exit`] with 0. Where an end has begun already, its code stands.
    pub fn handle_stop(&mut self, now: Moment) {
        self.end(0, now);
    }

    /// All ends, since it can't go on: in order, then [`Action::Exit`] with this code.
    pub fn handle_failure(&mut self, reason: &str, code: u8, now: Moment) {
        self.failure.get_or_insert_with(|| reason.to_owned());
        self.end(code, now);
    }

    /// There is space on the disk again.
    pub fn handle_space(&mut self, now: Moment) {
        for child in Child::ALL {
            if self.state(child) == State::NoSpace {
                self.start(child, now);
            }
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Moment) {
        for child in Child::ALL {
            match self.state(child) {
                State::Waiting { until } if until <= now => self.start(child, now),
                State::Stopping { rung, until } if until <= now => self.next_rung(child, rung + 1, now),
                State::Down | State::NoSpace | State::Stopping { .. } | State::Up { .. } | State::Waiting { .. } => {}
            }
        }
        self.advance(now);
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Self::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Moment> {
        let due = |slot: &Slot| match slot.state {
            State::Stopping { until, .. } | State::Waiting { until } => Some(until),
            State::Down | State::NoSpace | State::Up { .. } => None,
        };
        self.slots.values().filter_map(due).min()
    }

    /// Where the child is.
    #[must_use]
    pub fn state(&self, child: Child) -> State {
        self.slots.get(&child).map_or(State::Down, |slot| slot.state)
    }

    /// Whether it shall run.
    #[must_use]
    pub fn is_wanted(&self, child: Child) -> bool {
        self.slots.get(&child).is_some_and(|slot| slot.wanted)
    }

    /// How it last ended without being told to.
    #[must_use]
    pub fn last_death(&self, child: Child) -> Option<&Death> {
        self.slots.get(&child)?.last_death.as_ref()
    }

    /// How often it has ended without being told to.
    #[must_use]
    pub fn deaths(&self, child: Child) -> u64 {
        self.slots.get(&child).map_or(0, |slot| slot.deaths)
    }

    /// Whether all ends.
    #[must_use]
    pub const fn is_ending(&self) -> bool {
        self.ending.is_some()
    }

    /// Why it can't go on, where it can't.
    #[must_use]
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// Whether a child waits for space on the disk.
    #[must_use]
    pub fn waits_for_space(&self) -> bool {
        self.slots.values().any(|slot| slot.state == State::NoSpace)
    }

    fn slot(&mut self, child: Child) -> &mut Slot {
        let empty = || Slot { wanted: false, state: State::Down, backoff: Backoff::default(), deaths: 0, last_death: None };
        self.slots.entry(child).or_insert_with(empty)
    }

    fn start(&mut self, child: Child, now: Moment) {
        debug_assert!(self.ending.is_none(), "nothing starts while all ends");
        self.slot(child).state = State::Up { since: now };
        self.actions.push_back(Action::Start(child));
    }

    /// What follows the end of a child that should run.
    fn revive(&mut self, child: Child, death: &Death, since: Moment, now: Moment) {
        match death.class {
            Class::Corrupt | Class::WrongVersion => {
                return self.handle_failure(&format!("{}: {}", child.name(), death.text), 1, now);
            }
            Class::DiskFull => {
                self.slot(child).state = State::NoSpace;
                let text = format!("the disk is full: started again when there is space ({})", death.text);
                return self.actions.push_back(Action::Say(child, text));
            }
            Class::Configuration if child == Child::Postgres => {
                if let Some(notch) = self.next_notch {
                    self.next_notch = (notch == Notch::Files).then_some(Notch::AlterSystem);
                    self.actions.push_back(Action::SetAside(notch));
                }
            }
            Class::OutOfMemory => {
                let text = format!("out of memory: give the machine more, or lower BEYOND_PG_MEMORY_MB ({})", death.text);
                self.actions.push_back(Action::Say(child, text));
            }
            Class::Configuration | Class::Other => {}
        }
        let slot = self.slot(child);
        let until = now + slot.backoff.next(since, now);
        slot.state = State::Waiting { until };
    }

    fn end(&mut self, code: u8, now: Moment) {
        if self.ending.is_some() {
            return;
        }
        self.ending = Some(code);
        for child in Child::ALL {
            let slot = self.slot(child);
            slot.wanted = false;
            if matches!(slot.state, State::NoSpace | State::Waiting { .. }) {
                slot.state = State::Down;
            }
        }
        // What was to be started a moment ago still is: its start and its signal are in the queue, in that order.
        self.advance(now);
    }

    /// While all ends: tells the next ones to stop, or that it is over.
    fn advance(&mut self, now: Moment) {
        let Some(code) = self.ending else { return };
        let running = |(child, slot): (&Child, &Slot)| (slot.state != State::Down).then_some(child.stop_rank());
        let Some(rank) = self.slots.iter().filter_map(running).min() else {
            if !self.ended {
                self.ended = true;
                self.actions.push_back(Action::Exit(code));
            }
            return;
        };
        for child in Child::ALL {
            if child.stop_rank() == rank && matches!(self.state(child), State::Up { .. }) {
                self.begin_stop(child, now);
            }
        }
    }

    fn begin_stop(&mut self, child: Child, now: Moment) {
        self.next_rung(child, 0, now);
    }

    fn next_rung(&mut self, child: Child, rung: usize, now: Moment) {
        if let Some((signal, time)) = self.patience.ladder(child).get(rung) {
            self.slot(child).state = State::Stopping { rung, until: now + *time };
            self.actions.push_back(Action::Signal(child, *signal));
            return;
        }
        self.slot(child).state = State::Down;
        self.actions.push_back(Action::Abandon(child));
        if self.slot(child).wanted && self.ending.is_none() {
            self.start(child, now);
        }
    }
}
