//! Consumers with a name: the position that each has acknowledged, kept durably, and the one session that each has.
//!
//! ```text
//!   DIR/NAME.consumer      version, name, epoch, position; written whole, or not at all
//! ```
//!
//! Where a consumer begins is written before it is told so, by [`Attachment::keep`]: else it could begin elsewhere after a crash, and miss what is in
//! between. Acknowledgements are kept in memory and written by [`Consumers::write_changed`], which the caller does once a second and at the end:
//! what a crash loses of them is given out once more, and never less than once.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;
use walbus::Position;
use walbus::disk::{Disk, DiskFile, write_whole};

use crate::log::Epoch;

/// The longest name, in bytes.
pub const NAME_BYTES_MAX: usize = 63;
/// How many consumers there may be, unless said.
pub const CONSUMERS_MAX: usize = 10_000;
/// How many files are written at once.
const WRITES_MAX: usize = 256;
/// The largest file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 4096;
const FIRST_LINE: &str = "beyond-cdc consumer 1";
const SUFFIX: &str = ".consumer";

/// A place in the stream, for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The epoch that the position is of.
    pub epoch: Epoch,
    /// All up to here was acknowledged.
    pub position: Position,
}

/// All consumers of a folder.
#[derive(Debug)]
pub struct Consumers<D: Disk> {
    disk: Arc<D>,
    most: usize,
    state: Mutex<State>,
    /// Held by who touches the files.
    files: Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    by_name: BTreeMap<String, Consumer>,
    sessions: u64,
    /// Where the next round of writes begins, so that each has its turn.
    written_up_to: String,
}

#[derive(Debug, Default)]
struct Consumer {
    place: Option<Place>,
    changed: bool,
    session: Option<Session>,
}

#[derive(Debug)]
struct Session {
    number: u64,
    agent: String,
    taken_over: CancellationToken,
}

/// One consumer, as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerInfo {
    /// Its name.
    pub name: String,
    /// What it has acknowledged.
    pub place: Option<Place>,
    /// What its session calls itself, where it has one.
    pub agent: Option<String>,
}

/// Why a folder of consumers can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConsumersError {
    /// A file does not say what it should.
    #[error("{file} is no consumer's file: {reason}. Move it away; its consumer starts anew then")]
    Damaged {
        /// The file.
        file: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// The operating system refuses.
    #[error("{file}")]
    Io {
        /// The file.
        file: String,
        /// What the operating system says.
        #[source]
        source: io::Error,
    },
}

/// Why a name can't be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AttachError {
    /// Another session has it.
    #[error("the consumer {name:?} has a session already ({agent}): end that one, or take the name over")]
    Busy {
        /// The name.
        name: String,
        /// What the other session calls itself.
        agent: String,
    },
    /// No such name can be given.
    #[error("{0:?} is no consumer's name: letters, digits, '-', '_' and '.', not first, are allowed, {NAME_BYTES_MAX} at most")]
    Name(String),
    /// There are too many.
    #[error("there are {0} consumers, and no more are taken: drop those that are not needed")]
    TooMany(usize),
}

/// Why a consumer can't be dropped.
#[derive(Debug, thiserror::Error)]
pub enum DropError {
    /// It has a session.
    #[error("the consumer has a session: end that first")]
    Busy,
    /// Its file can't be removed.
    #[error("remove the consumer's file")]
    Io(#[from] io::Error),
    /// There is none.
    #[error("there is no such consumer")]
    NotThere,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<D: Disk> Consumers<D> {
    /// The consumers of a folder, at most `most` of them. Blocks on files.
    ///
    /// # Errors
    /// Where one can't be read: an acknowledged position is never forgotten in silence.
    pub fn open(disk: Arc<D>, most: usize) -> Result<Self, ConsumersError> {
        let listed = disk.list().map_err(|source| ConsumersError::Io { file: "the consumers' folder".to_owned(), source })?;
        let mut by_name = BTreeMap::new();
        for (file, len) in listed {
            let Some(name) = file.strip_suffix(SUFFIX) else { continue };
            let text = read(&*disk, &file, len)?;
            let place = parse(&text, name).map_err(|reason| ConsumersError::Damaged { file: file.clone(), reason })?;
            by_name.insert(name.to_owned(), Consumer { place: Some(place), ..Consumer::default() });
        }
        Ok(Self { disk, most, state: Mutex::new(State { by_name, ..State::default() }), files: Mutex::default() })
    }

    /// Takes a name for a session, from another one where `take_over` says so. Dropped, the attachment gives it back.
    ///
    /// # Errors
    /// See [`AttachError`].
    pub fn attach(self: &Arc<Self>, name: &str, agent: &str, take_over: bool) -> Result<Attachment<D>, AttachError> {
        if !is_name(name) {
            return Err(AttachError::Name(name.chars().take(NAME_BYTES_MAX).collect()));
        }
        let mut state = lock(&self.state);
        let State { by_name, sessions, .. } = &mut *state;
        if by_name.len() >= self.most && !by_name.contains_key(name) {
            return Err(AttachError::TooMany(by_name.len()));
        }
        let consumer = by_name.entry(name.to_owned()).or_default();
        if let Some(session) = &consumer.session {
            if !take_over {
                return Err(AttachError::Busy { name: name.to_owned(), agent: session.agent.clone() });
            }
            session.taken_over.cancel();
        }
        *sessions += 1;
        let taken_over = CancellationToken::new();
        let (number, place) = (*sessions, consumer.place);
        consumer.session = Some(Session { number, agent: agent.to_owned(), taken_over: taken_over.clone() });
        Ok(Attachment { consumers: Arc::clone(self), name: name.to_owned(), number, place, taken_over })
    }

    /// All consumers, by name.
    #[must_use]
    pub fn list(&self) -> Vec<ConsumerInfo> {
        let info = |(name, consumer): (&String, &Consumer)| ConsumerInfo {
            name: name.clone(),
            place: consumer.place,
            agent: consumer.session.as_ref().map(|session| session.agent.clone()),
        };
        lock(&self.state).by_name.iter().map(info).collect()
    }

    /// Forgets a consumer. Blocks on files.
    ///
    /// # Errors
    /// See [`DropError`].
    pub fn remove(&self, name: &str) -> Result<(), DropError> {
        let _files = lock(&self.files);
        {
            let mut state = lock(&self.state);
            let consumer = state.by_name.get(name).ok_or(DropError::NotThere)?;
            if consumer.session.is_some() {
                return Err(DropError::Busy);
            }
            state.by_name.remove(name);
        }
        match self.disk.remove(&file_of(name)) {
            Ok(()) => Ok(self.disk.sync_dir()?),
            // It was never written.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes what has changed since it was written last, 256 consumers at most, and says whether that was all. Blocks on files.
    ///
    /// # Errors
    /// Of the operating system. What was not written counts as changed still, and is written anew the next time.
    pub fn write_changed(&self) -> io::Result<bool> {
        let _files = lock(&self.files);
        let (changed, all) = self.take_changed();
        let mut failed = None;
        for (name, place) in changed {
            if let Err(error) = write_whole(&*self.disk, &file_of(&name), write(&name, place).as_bytes()) {
                if let Some(consumer) = lock(&self.state).by_name.get_mut(&name) {
                    consumer.changed = true;
                }
                failed = Some(error);
            }
        }
        failed.map_or(Ok(all), Err)
    }

    fn take_changed(&self) -> (Vec<(String, Place)>, bool) {
        let mut state = lock(&self.state);
        let State { by_name, written_up_to, .. } = &mut *state;
        let mut names: Vec<&String> = by_name.iter().filter(|(_, consumer)| consumer.changed).map(|(name, _)| name).collect();
        let turn = names.partition_point(|name| *name <= written_up_to);
        names.rotate_left(turn);
        let all = names.len() <= WRITES_MAX;
        names.truncate(WRITES_MAX);
        let names: Vec<String> = names.into_iter().cloned().collect();
        *written_up_to = names.last().cloned().unwrap_or_default();
        let mut taken = Vec::with_capacity(names.len());
        for name in names {
            let Some(consumer) = by_name.get_mut(&name) else { continue };
            consumer.changed = false;
            taken.extend(consumer.place.map(|place| (name, place)));
        }
        (taken, all)
    }
}

/// A name, held by a session.
#[derive(Debug)]
pub struct Attachment<D: Disk> {
    consumers: Arc<Consumers<D>>,
    name: String,
    number: u64,
    place: Option<Place>,
    taken_over: CancellationToken,
}

impl<D: Disk> Attachment<D> {
    /// What had been acknowledged when the name was taken.
    #[must_use]
    pub const fn place(&self) -> Option<Place> {
        self.place
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Keeps a position. After another session has taken the name over, nothing is kept, and the answer is no.
    pub fn acknowledge(&self, place: Place) -> bool {
        self.update(|consumer| {
            consumer.changed |= consumer.place != Some(place);
            consumer.place = Some(place);
        })
    }

    /// Keeps a position, durably on return: where a consumer begins that has acknowledged nothing. Blocks on files.
    ///
    /// # Errors
    /// Of the operating system: nothing is kept then.
    pub fn keep(&self, place: Place) -> io::Result<()> {
        let _files = lock(&self.consumers.files);
        // One that was taken over meanwhile has a place of the other session's.
        if self.update(|_| ()) {
            write_whole(&*self.consumers.disk, &file_of(&self.name), write(&self.name, place).as_bytes())?;
            self.update(|consumer| (consumer.place, consumer.changed) = (Some(place), false));
        }
        Ok(())
    }

    /// Word that another session has taken the name over.
    #[must_use]
    pub fn taken_over(&self) -> CancellationToken {
        self.taken_over.clone()
    }

    fn update(&self, change: impl FnOnce(&mut Consumer)) -> bool {
        let mut state = lock(&self.consumers.state);
        let consumer = state.by_name.get_mut(&self.name);
        let own = consumer.filter(|consumer| consumer.session.as_ref().is_some_and(|session| session.number == self.number));
        own.map(change).is_some()
    }
}

impl<D: Disk> Drop for Attachment<D> {
    fn drop(&mut self) {
        self.update(|consumer| consumer.session = None);
    }
}

fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(plain) && !name.starts_with('.')
}

fn file_of(name: &str) -> String {
    format!("{name}{SUFFIX}")
}

fn read<D: Disk>(disk: &D, file: &str, len: u64) -> Result<String, ConsumersError> {
    let damaged = |reason| ConsumersError::Damaged { file: file.to_owned(), reason };
    let io = |source| ConsumersError::Io { file: file.to_owned(), source };
    let len = usize::try_from(len).ok().filter(|_| len <= FILE_BYTES_MAX).ok_or_else(|| damaged("it is too long"))?;
    let mut bytes = vec![0; len];
    let read = disk.open(file).and_then(|file| file.read_at(&mut bytes, 0)).map_err(io)?;
    bytes.truncate(read);
    String::from_utf8(bytes).map_err(|_| damaged("it is no text"))
}

fn write(name: &str, place: Place) -> String {
    format!("{FIRST_LINE}\nname {name}\nepoch {}\nposition {}\n", place.epoch, place.position)
}

/// Reads what [`write`] has written.
fn parse(text: &str, name: &str) -> Result<Place, &'static str> {
    let mut lines = text.lines();
    if lines.next() != Some(FIRST_LINE) {
        return Err("its first line is not that of this version");
    }
    let mut value = |of: &str| lines.next().and_then(|line| line.strip_prefix(of)?.strip_prefix(' '));
    if value("name") != Some(name) {
        return Err("it is of another name");
    }
    let epoch = value("epoch").and_then(|text| text.parse().ok()).ok_or("it has no epoch")?;
    let position = value("position").and_then(|text| text.parse().ok()).ok_or("it has no position")?;
    if lines.next().is_some() { Err("there is more in it than there should be") } else { Ok(Place { epoch, position }) }
}

impl fmt::Display for ConsumerInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name)?;
        self.place.map_or(Ok(()), |place| write!(f, " at {}", place.position))?;
        self.agent.as_ref().map_or(Ok(()), |agent| write!(f, ", {agent}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use walbus::Lsn;
    use walbus::disk::OsDisk;

    const EPOCH: Epoch = Epoch::new([0xA7; 16]);

    fn place(lsn: u64) -> Place {
        Place { epoch: EPOCH, position: Position { commit_lsn: Lsn(lsn), ordinal: 2 } }
    }

    fn open(dir: &tempfile::TempDir) -> Arc<Consumers<OsDisk>> {
        Arc::new(Consumers::open(Arc::new(OsDisk::open(dir.path()).unwrap()), 3).unwrap())
    }

    #[test]
    fn what_was_acknowledged_is_there_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let consumers = open(&dir);
        let session = consumers.attach("orders", "a/1", false).unwrap();
        assert_eq!(session.place(), None);
        assert!(session.acknowledge(place(1)) && session.acknowledge(place(7)));
        assert_eq!(open(&dir).list(), [], "not written yet");
        assert!(consumers.write_changed().unwrap());
        let info = |agent: Option<&str>| ConsumerInfo {
            name: "orders".to_owned(),
            place: Some(place(7)),
            agent: agent.map(str::to_owned),
        };
        assert_eq!(consumers.list(), [info(Some("a/1"))]);
        assert_eq!(open(&dir).list(), [info(None)]);
        drop(session);
        assert_eq!(open(&dir).attach("orders", "b", false).unwrap().place(), Some(place(7)));
    }

    #[test]
    fn a_place_that_is_kept_is_there_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let consumers = open(&dir);
        let session = consumers.attach("orders", "a/1", false).unwrap();
        session.keep(place(4)).unwrap();
        assert_eq!(open(&dir).list()[0].place, Some(place(4)));
        let other = consumers.attach("orders", "a/2", true).unwrap();
        session.keep(place(5)).unwrap();
        assert_eq!((open(&dir).list()[0].place, other.place()), (Some(place(4)), Some(place(4))), "the name is another's");
        // No folder, no place.
        std::fs::remove_dir_all(dir.path()).unwrap();
        other.keep(place(6)).unwrap_err();
        assert_eq!(consumers.list()[0].place, Some(place(4)));
    }

    #[test]
    fn a_name_has_one_session() {
        let dir = tempfile::tempdir().unwrap();
        let consumers = open(&dir);
        let first = consumers.attach("a", "one", false).unwrap();
        assert!(matches!(consumers.attach("a", "two", false), Err(AttachError::Busy { agent, .. }) if agent == "one"));
        let second = consumers.attach("a", "two", true).unwrap();
        assert!(first.taken_over().is_cancelled() && !second.taken_over().is_cancelled());
        assert!(!first.acknowledge(place(9)), "who has lost the name moves nothing");
        assert!(second.acknowledge(place(1)));
        drop(first);
        assert!(matches!(consumers.attach("a", "three", false), Err(AttachError::Busy { .. })), "the second session still has it");
        drop(second);
        consumers.attach("a", "three", false).unwrap();
    }

    #[test]
    fn a_consumer_is_dropped_for_good() {
        let dir = tempfile::tempdir().unwrap();
        let consumers = open(&dir);
        let session = consumers.attach("a", "one", false).unwrap();
        session.acknowledge(place(1));
        consumers.write_changed().unwrap();
        assert!(matches!(consumers.remove("a"), Err(DropError::Busy)));
        drop(session);
        consumers.remove("a").unwrap();
        assert!(matches!(consumers.remove("a"), Err(DropError::NotThere)));
        assert_eq!(open(&dir).list(), []);
    }

    #[test]
    fn names_are_plain_and_not_without_end() {
        let dir = tempfile::tempdir().unwrap();
        let consumers = open(&dir);
        for name in ["", ".hidden", "a/b", "a b", "é", &"a".repeat(64)] {
            assert!(matches!(consumers.attach(name, "x", false), Err(AttachError::Name(_))), "{name:?}");
        }
        let _held: Vec<_> = ["a", "b.c-d_E", "0"].iter().map(|name| consumers.attach(name, "x", false).unwrap()).collect();
        assert_eq!(consumers.attach("d", "x", false).unwrap_err(), AttachError::TooMany(3));
    }

    #[test]
    fn a_file_that_says_something_else_is_an_error() {
        let good = write("a", place(3));
        assert_eq!(parse(&good, "a"), Ok(place(3)));
        for wrong in [
            good.replace("consumer 1", "consumer 2"),
            good.replace("name a", "name b"),
            good.replace("epoch a7", "epoch +7"),
            good.replace("0/3:2", "0/3"),
            format!("{good}more\n"),
            good.lines().take(3).collect::<Vec<_>>().join("\n"),
        ] {
            parse(&wrong, "a").unwrap_err();
        }
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.consumer"), "junk").unwrap();
        let error = Consumers::open(Arc::new(OsDisk::open(dir.path()).unwrap()), 3).unwrap_err();
        assert!(error.to_string().contains("a.consumer"), "{error}");
    }
}
