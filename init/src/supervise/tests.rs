//! The core under any order of events, with children that do as they please.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::crash::Ended;
use super::*;

fn death(class: Class) -> Death {
    Death { class, ended: Ended::Code(1), text: "said so".to_owned() }
}

const fn seconds(seconds: u64) -> Moment {
    Moment::from_secs(seconds)
}

fn supervisor() -> Supervisor {
    Supervisor::new(Patience::new(seconds(120)))
}

fn actions(supervisor: &mut Supervisor) -> Vec<Action> {
    std::iter::from_fn(|| supervisor.poll_action()).collect()
}

fn all_up() -> Supervisor {
    let mut supervisor = supervisor();
    for child in [Child::Postgres, Child::PgBouncer, Child::Cdc] {
        supervisor.handle_want(child, seconds(0));
    }
    assert_eq!(actions(&mut supervisor).len(), 3);
    supervisor
}

#[test]
fn a_stop_goes_from_the_pool_to_the_server() {
    let mut supervisor = all_up();
    supervisor.handle_stop(seconds(1));
    assert_eq!(actions(&mut supervisor), [Action::Signal(Child::PgBouncer, Signal::Int)]);
    supervisor.handle_exit(Child::PgBouncer, death(Class::Other), seconds(2));
    assert_eq!(actions(&mut supervisor), [Action::Signal(Child::Cdc, Signal::Term)]);
    supervisor.handle_exit(Child::Cdc, death(Class::Other), seconds(3));
    assert_eq!(actions(&mut supervisor), [Action::Signal(Child::Postgres, Signal::Int)]);
    assert_eq!(supervisor.poll_timeout(), Some(seconds(123)));
    supervisor.handle_timeout(seconds(123));
    assert_eq!(actions(&mut supervisor), [Action::Signal(Child::Postgres, Signal::Quit)]);
    supervisor.handle_timeout(seconds(138));
    assert_eq!(actions(&mut supervisor), [Action::Signal(Child::Postgres, Signal::Kill)]);
    supervisor.handle_exit(Child::Postgres, death(Class::Other), seconds(139));
    assert_eq!(actions(&mut supervisor), [Action::Exit(0)]);
}

#[test]
fn a_server_whose_configuration_is_broken_starts_without_the_users() {
    let mut supervisor = all_up();
    let mut said = Vec::new();
    for round in 1..=4 {
        supervisor.handle_exit(Child::Postgres, death(Class::Configuration), seconds(round * 100));
        supervisor.handle_timeout(seconds(round * 100 + 50));
        said.push(actions(&mut supervisor));
    }
    let start = Action::Start(Child::Postgres);
    assert_eq!(said[0], [Action::SetAside(Notch::Files), start.clone()]);
    assert_eq!(said[1], [Action::SetAside(Notch::AlterSystem), start.clone()]);
    assert_eq!((said[2].as_slice(), said[3].as_slice()), ([start.clone()].as_slice(), [start].as_slice()));
}

#[test]
fn damaged_data_and_another_version_end_all_with_1() {
    for class in [Class::Corrupt, Class::WrongVersion] {
        let mut supervisor = all_up();
        supervisor.handle_exit(Child::Postgres, death(class), seconds(1));
        for child in [Child::PgBouncer, Child::Cdc] {
            supervisor.handle_exit(child, death(Class::Other), seconds(2));
        }
        assert_eq!(actions(&mut supervisor).last(), Some(&Action::Exit(1)), "{class:?}");
        assert_eq!(supervisor.failure(), Some("postgres: said so"));
    }
}

#[test]
fn a_full_disk_is_waited_for_and_not_tried_against() {
    let mut supervisor = all_up();
    supervisor.handle_exit(Child::Postgres, death(Class::DiskFull), seconds(1));
    assert!(matches!(actions(&mut supervisor).as_slice(), [Action::Say(Child::Postgres, _)]));
    assert_eq!((supervisor.poll_timeout(), supervisor.waits_for_space()), (None, true));
    supervisor.handle_timeout(seconds(1000));
    assert!(actions(&mut supervisor).is_empty());
    supervisor.handle_space(seconds(1001));
    assert_eq!(actions(&mut supervisor), [Action::Start(Child::Postgres)]);
}

#[test]
fn what_is_wanted_again_while_it_stops_starts_when_it_has() {
    let mut supervisor = all_up();
    supervisor.handle_unwant(Child::Postgres, seconds(1));
    supervisor.handle_want(Child::Postgres, seconds(2));
    assert_eq!(actions(&mut supervisor), [Action::Signal(Child::Postgres, Signal::Int)]);
    supervisor.handle_exit(Child::Postgres, death(Class::Other), seconds(3));
    assert_eq!(actions(&mut supervisor), [Action::Start(Child::Postgres)]);
    assert_eq!(supervisor.deaths(Child::Postgres), 0);
}

/// What may happen, in any order.
#[derive(Clone, Debug)]
enum Happens {
    Dies(usize, usize),
    Passes(u64),
    Space,
    Stop,
    Unwant(usize),
    Want(usize),
}

const CLASSES: [Class; 6] =
    [Class::Configuration, Class::Corrupt, Class::DiskFull, Class::Other, Class::OutOfMemory, Class::WrongVersion];

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        4 => (0..6_usize, 0..6_usize).prop_map(|(child, class)| Happens::Dies(child, class)),
        4 => (1..40_000_u64).prop_map(Happens::Passes),
        1 => Just(Happens::Space),
        1 => Just(Happens::Stop),
        2 => (0..6_usize).prop_map(Happens::Unwant),
        4 => (0..6_usize).prop_map(Happens::Want),
    ]
}

/// Processes as the core believes them to be: what it starts runs, and how each takes signals is drawn.
struct World {
    supervisor: Supervisor,
    now: Moment,
    /// Which run, and since when.
    up: BTreeMap<Child, Moment>,
    /// When the next start of each is allowed at the earliest, after an end that nobody asked for.
    not_before: BTreeMap<Child, Moment>,
    /// Those that end by no signal but KILL, and those that don't even by that.
    deaf: Vec<Child>,
    undead: Vec<Child>,
    stop_asked: Option<Moment>,
    /// Those that were told to stop before all was.
    stopping_alone: Vec<Child>,
    exit: Option<u8>,
}

impl World {
    fn obey(&mut self) {
        while let Some(action) = self.supervisor.poll_action() {
            assert_eq!(self.exit, None, "nothing is done after the end");
            match action {
                Action::Abandon(child) => {
                    assert!(self.undead.contains(&child), "only what does not die is abandoned");
                    self.up.remove(&child);
                }
                Action::Exit(code) => {
                    assert!(self.up.is_empty(), "all have ended before the program does");
                    self.exit = Some(code);
                }
                Action::Say(..) | Action::SetAside(_) => {}
                Action::Signal(child, signal) => self.signal(child, signal),
                Action::Start(child) => {
                    assert_eq!(self.stop_asked, None, "nothing starts while all ends");
                    assert!(self.up.insert(child, self.now).is_none(), "at most one of each child");
                    if let Some(earliest) = self.not_before.remove(&child) {
                        assert!(self.now >= earliest, "a start before its backoff is over");
                    }
                }
            }
        }
    }

    fn signal(&mut self, child: Child, signal: Signal) {
        assert!(self.up.contains_key(&child), "only what runs is signalled");
        if self.stop_asked.is_some() && !self.stopping_alone.contains(&child) {
            let before = self.up.keys().find(|other| other.stop_rank() < child.stop_rank());
            assert_eq!(before, None, "{child:?} is told to stop before all that comes before it has");
        }
        let dies = if signal == Signal::Kill { !self.undead.contains(&child) } else { !self.deaf.contains(&child) };
        if dies && !self.undead.contains(&child) {
            self.up.remove(&child);
            self.supervisor.handle_exit(child, death(Class::Other), self.now);
        }
    }

    fn happen(&mut self, what: &Happens) {
        let stopping = |child: &Child| matches!(self.supervisor.state(*child), State::Stopping { .. });
        let alone: Vec<Child> = Child::ALL.into_iter().filter(stopping).collect();
        match what {
            Happens::Dies(child, class) => {
                let (child, class) = (Child::ALL[*child], CLASSES[*class]);
                if self.up.remove(&child).is_none() {
                    return;
                }
                let asked = !matches!(self.supervisor.state(child), State::Up { .. });
                if !asked && child != Child::Task && class != Class::DiskFull {
                    self.not_before.insert(child, self.now + Duration::from_millis(100));
                }
                self.supervisor.handle_exit(child, death(class), self.now);
            }
            Happens::Passes(millis) => {
                let until = self.now + Duration::from_millis(*millis);
                self.pass(until);
            }
            Happens::Space => self.supervisor.handle_space(self.now),
            Happens::Stop => self.supervisor.handle_stop(self.now),
            Happens::Unwant(child) => {
                self.not_before.remove(&Child::ALL[*child]);
                self.supervisor.handle_unwant(Child::ALL[*child], self.now);
            }
            Happens::Want(child) => self.supervisor.handle_want(Child::ALL[*child], self.now),
        }
        if self.supervisor.is_ending() && self.stop_asked.is_none() {
            self.obey_starts_of_before();
            self.stop_asked = Some(self.now);
            self.stopping_alone = alone;
        }
        self.obey();
    }

    /// A start that was decided before the end comes out of the queue after it, with its signal behind.
    fn obey_starts_of_before(&mut self) {
        let mut rest = Vec::new();
        while let Some(action) = self.supervisor.poll_action() {
            match action {
                Action::Start(child) => assert!(self.up.insert(child, self.now).is_none()),
                other => rest.push(other),
            }
        }
        self.supervisor.actions.extend(rest);
    }

    fn pass(&mut self, until: Moment) {
        while let Some(due) = self.supervisor.poll_timeout().filter(|due| *due <= until) {
            self.now = self.now.max(due);
            self.supervisor.handle_timeout(self.now);
            self.obey();
        }
        self.now = until;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn the_rules_hold_whatever_happens(
        events in proptest::collection::vec(happens(), 1..60),
        deaf in proptest::collection::vec(0..6_usize, 0..4),
        undead in proptest::collection::vec(0..6_usize, 0..2),
    ) {
        let named = |numbers: &[usize]| numbers.iter().map(|number| Child::ALL[*number]).collect::<Vec<_>>();
        let mut world = World {
            supervisor: supervisor(),
            now: Moment::ZERO,
            up: BTreeMap::new(),
            not_before: BTreeMap::new(),
            deaf: named(&deaf),
            undead: named(&undead),
            stop_asked: None,
            stopping_alone: Vec::new(),
            exit: None,
        };
        for event in &events {
            if world.exit.is_some() {
                break;
            }
            world.happen(event);
        }
        if world.exit.is_none() {
            world.happen(&Happens::Stop);
        }
        let asked = world.stop_asked.unwrap();
        // What was stopping alone already has its own time, which is no longer.
        let deadline = asked + world.supervisor.patience.longest_stop();
        world.pass(world.now.max(deadline));
        prop_assert!(world.exit.is_some(), "the end comes within its deadlines");
    }
}
