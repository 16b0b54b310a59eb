//! What is uploaded next, and what those are told who wait for it. Pure.
//!
//! Call order: `handle_*` for what has happened, then [`Uploads::poll_upload`] and [`Uploads::poll_answer`] until both give nothing.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::outage::Outage;
use crate::daemon::line::{Answer, FileIdentity};

/// How many pushes may wait at once. Postgres has one; people may run more.
pub const PUSHES_MAX: usize = 64;
/// How many files it is remembered of that they were stored. Past that no more is uploaded ahead until Postgres has caught up.
pub const STORED_MAX: usize = 65_536;
/// How long a file that can't be archived is left alone, unless it is pushed.
const REFUSED_RETRY: Duration = Duration::from_mins(1);

/// What became of an upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Uploaded {
    /// The store failed.
    Away(String),
    /// The file is not there any more.
    Gone,
    /// The file can't be archived, for this reason.
    Refused(String),
    /// The store has acknowledged the file of this identity.
    Stored(FileIdentity),
}

/// Somebody who waits for a file to be stored.
#[derive(Debug)]
struct Push {
    id: u64,
    name: String,
    identity: FileIdentity,
}

/// A file's place in the order in which Postgres archives: histories first, then by name, which is from the oldest on
/// (`ready_file_comparator` in pgarch.c).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Turn(Reverse<bool>, String);

impl Turn {
    fn of(name: &str) -> Self {
        Self(Reverse(name.ends_with(".history")), name.to_owned())
    }
}

/// What is uploaded, and who waits for it.
#[derive(Debug)]
pub struct Uploads {
    jobs: usize,
    ready: BTreeSet<Turn>,
    running: BTreeSet<String>,
    stored: BTreeMap<String, FileIdentity>,
    refused: BTreeMap<String, Duration>,
    pushes: Vec<Push>,
    answers: VecDeque<(u64, Answer)>,
    stopping: bool,
}

impl Uploads {
    /// Uploads of which up to `jobs` run at once.
    #[must_use]
    pub fn new(jobs: usize) -> Self {
        Self {
            jobs: jobs.max(1),
            ready: BTreeSet::new(),
            running: BTreeSet::new(),
            stored: BTreeMap::new(),
            refused: BTreeMap::new(),
            pushes: Vec::new(),
            answers: VecDeque::new(),
            stopping: false,
        }
    }

    /// These are the files that Postgres has marked as ready, all of them.
    pub fn handle_scan(&mut self, names: impl IntoIterator<Item = String>) {
        self.ready = names.into_iter().map(|name| Turn::of(&name)).collect();
        // What Postgres has ticked off is not asked for again.
        let ready = &self.ready;
        self.stored.retain(|name, _| ready.contains(&Turn::of(name)));
        self.refused.retain(|name, _| ready.contains(&Turn::of(name)));
    }

    /// Somebody wants a file of that identity to be stored, and waits under this number.
    pub fn handle_push(&mut self, id: u64, name: String, identity: FileIdentity, outage: &Outage) {
        let refusal = if self.stored.get(&name) == Some(&identity) {
            self.answers.push_back((id, Answer::Stored));
            return;
        } else if self.stopping {
            "it is being stopped".to_owned()
        } else if let Some(reason) = outage.reason() {
            format!("the store is away: {reason}")
        } else if self.pushes.len() >= PUSHES_MAX {
            format!("{PUSHES_MAX} others wait already")
        } else {
            self.pushes.push(Push { id, name, identity });
            return;
        };
        self.answers.push_back((id, Answer::Yourself(refusal)));
    }

    /// Who waited under this number is gone.
    pub fn handle_gone(&mut self, id: u64) {
        self.pushes.retain(|push| push.id != id);
    }

    /// An upload that [`Self::poll_upload`] gave has ended.
    pub fn handle_uploaded(&mut self, name: &str, uploaded: Uploaded, now: Duration) {
        assert!(self.running.remove(name), "the upload of {name} was started");
        let mut stored = None;
        let refusal = match uploaded {
            Uploaded::Away(reason) => format!("the store is away: {reason}"),
            Uploaded::Gone => "the file is not in its pg_wal".to_owned(),
            Uploaded::Refused(reason) => {
                self.refused.insert(name.to_owned(), now + REFUSED_RETRY);
                reason
            }
            Uploaded::Stored(identity) => {
                self.refused.remove(name);
                self.stored.insert(name.to_owned(), identity);
                stored = Some(identity);
                "the file in its pg_wal is another one, or has changed".to_owned()
            }
        };
        for push in self.pushes.extract_if(.., |push| push.name == name) {
            let answer = if stored == Some(push.identity) { Answer::Stored } else { Answer::Yourself(refusal.clone()) };
            self.answers.push_back((push.id, answer));
        }
    }

    /// No more is uploaded, and who waits has to do it alone.
    pub fn handle_stop(&mut self) {
        self.stopping = true;
        for push in self.pushes.drain(..) {
            self.answers.push_back((push.id, Answer::Yourself("it is being stopped".to_owned())));
        }
    }

    /// The file to be uploaded now: what somebody waits for, then what is ready, in Postgres' order. While the store is away, one is tried at a
    /// time.
    pub fn poll_upload(&mut self, now: Duration, outage: &Outage) -> Option<String> {
        let jobs = if outage.reason().is_some() { 1 } else { self.jobs };
        if self.stopping || self.running.len() >= jobs || !outage.may_try(now) {
            return None;
        }
        let pushed = self.pushes.iter().map(|push| &push.name).find(|name| !self.running.contains(*name));
        let ahead = || {
            let is_open = |name: &String| {
                !self.running.contains(name)
                    && !self.stored.contains_key(name)
                    && self.refused.get(name).is_none_or(|until| now >= *until)
            };
            (self.stored.len() < STORED_MAX).then(|| self.ready.iter().map(|turn| &turn.1).find(|name| is_open(name))).flatten()
        };
        let name = pushed.or_else(ahead)?.clone();
        self.running.insert(name.clone());
        Some(name)
    }

    /// The next answer, and to whom.
    pub fn poll_answer(&mut self) -> Option<(u64, Answer)> {
        self.answers.pop_front()
    }

    /// How many files Postgres has marked as ready.
    #[must_use]
    pub fn ready(&self) -> usize {
        self.ready.len()
    }

    /// The files that are ready and not stored, from the oldest on.
    pub fn lagging(&self) -> impl Iterator<Item = &str> {
        self.ready.iter().map(|turn| turn.1.as_str()).filter(|name| !self.stored.contains_key(*name))
    }

    /// How many uploads run.
    #[must_use]
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// How many files can't be archived.
    #[must_use]
    pub fn refused(&self) -> usize {
        self.refused.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(100);

    const fn identity(inode: u64) -> FileIdentity {
        FileIdentity { device: 1, inode, bytes: 1, modified_ns: 1, changed_ns: 1 }
    }

    fn segment(number: u32) -> String {
        format!("0000000100000000{number:08X}")
    }

    fn all(uploads: &mut Uploads, outage: &Outage) -> Vec<String> {
        std::iter::from_fn(|| uploads.poll_upload(NOW, outage)).collect()
    }

    fn answers(uploads: &mut Uploads) -> Vec<(u64, bool)> {
        std::iter::from_fn(|| uploads.poll_answer()).map(|(id, answer)| (id, answer == Answer::Stored)).collect()
    }

    #[test]
    fn histories_come_first_then_the_oldest() {
        let (mut uploads, outage) = (Uploads::new(3), Outage::default());
        uploads.handle_scan([segment(9), segment(10), "00000002.history".to_owned(), segment(3)]);
        assert_eq!(all(&mut uploads, &outage), ["00000002.history".to_owned(), segment(3), segment(9)]);
        assert_eq!(uploads.running(), 3);
        uploads.handle_uploaded(&segment(3), Uploaded::Stored(identity(3)), NOW);
        assert_eq!(all(&mut uploads, &outage), [segment(10)]);
        assert_eq!(uploads.lagging().count(), 3);
        uploads.handle_scan([segment(3), segment(9)]);
        assert_eq!(uploads.lagging().collect::<Vec<_>>(), [segment(9)]);
    }

    #[test]
    fn what_was_stored_is_answered_for_the_same_file_only() {
        let (mut uploads, outage) = (Uploads::new(1), Outage::default());
        uploads.handle_scan([segment(1)]);
        assert_eq!(all(&mut uploads, &outage), [segment(1)]);
        uploads.handle_uploaded(&segment(1), Uploaded::Stored(identity(1)), NOW);
        uploads.handle_push(7, segment(1), identity(1), &outage);
        assert_eq!(answers(&mut uploads), [(7, true)]);
        // The same name with another file: it is read again.
        uploads.handle_push(8, segment(1), identity(2), &outage);
        assert_eq!((answers(&mut uploads), all(&mut uploads, &outage)), (vec![], vec![segment(1)]));
        uploads.handle_uploaded(&segment(1), Uploaded::Stored(identity(2)), NOW);
        assert_eq!(answers(&mut uploads), [(8, true)]);
        uploads.handle_push(9, segment(1), identity(1), &outage);
        assert_eq!(all(&mut uploads, &outage), [segment(1)]);
        uploads.handle_uploaded(&segment(1), Uploaded::Stored(identity(2)), NOW);
        assert_eq!(answers(&mut uploads), [(9, false)], "what is in pg_wal is not what was pushed");
        // Ticked off by Postgres, it is forgotten.
        uploads.handle_scan([]);
        uploads.handle_push(10, segment(1), identity(2), &outage);
        assert_eq!(answers(&mut uploads), []);
    }

    #[test]
    fn a_push_goes_first_and_joins_what_runs() {
        let (mut uploads, outage) = (Uploads::new(1), Outage::default());
        uploads.handle_scan([segment(1), segment(2), segment(3)]);
        assert_eq!(all(&mut uploads, &outage), [segment(1)]);
        uploads.handle_push(1, segment(3), identity(3), &outage);
        uploads.handle_push(2, segment(1), identity(1), &outage);
        uploads.handle_push(3, segment(3), identity(3), &outage);
        uploads.handle_gone(3);
        uploads.handle_uploaded(&segment(1), Uploaded::Stored(identity(1)), NOW);
        assert_eq!((answers(&mut uploads), all(&mut uploads, &outage)), (vec![(2, true)], vec![segment(3)]));
        uploads.handle_uploaded(&segment(3), Uploaded::Gone, NOW);
        assert_eq!(answers(&mut uploads), [(1, false)]);
    }

    #[test]
    fn while_the_store_is_away_one_is_tried_and_nobody_waits() {
        let (mut uploads, mut outage) = (Uploads::new(4), Outage::default());
        uploads.handle_scan([segment(1), segment(2)]);
        uploads.handle_push(1, segment(1), identity(1), &outage);
        assert_eq!(all(&mut uploads, &outage), [segment(1), segment(2)]);
        for number in [1, 2] {
            outage.handle_failure(NOW, "503", 0.0);
            uploads.handle_uploaded(&segment(number), Uploaded::Away("503".into()), NOW);
        }
        uploads.handle_push(2, segment(2), identity(2), &outage);
        assert_eq!((answers(&mut uploads), all(&mut uploads, &outage)), (vec![(1, false), (2, false)], vec![]));
        let later = NOW + Duration::from_secs(1);
        assert_eq!(uploads.poll_upload(later, &outage), Some(segment(1)));
        assert_eq!(uploads.poll_upload(later, &outage), None);
        outage.handle_answer(later);
        assert_eq!(uploads.poll_upload(later, &outage), Some(segment(2)));
    }

    #[test]
    fn a_file_that_cant_be_archived_holds_up_no_other_and_is_tried_when_pushed() {
        let (mut uploads, outage) = (Uploads::new(1), Outage::default());
        uploads.handle_scan([segment(1), segment(2)]);
        assert_eq!(all(&mut uploads, &outage), [segment(1)]);
        uploads.handle_uploaded(&segment(1), Uploaded::Refused("other content".into()), NOW);
        assert_eq!((all(&mut uploads, &outage), uploads.refused()), (vec![segment(2)], 1));
        uploads.handle_uploaded(&segment(2), Uploaded::Stored(identity(2)), NOW);
        assert_eq!(all(&mut uploads, &outage), Vec::<String>::new());
        uploads.handle_push(5, segment(1), identity(1), &outage);
        assert_eq!(all(&mut uploads, &outage), [segment(1)]);
        uploads.handle_uploaded(&segment(1), Uploaded::Refused("other content".into()), NOW);
        assert_eq!(uploads.poll_answer(), Some((5, Answer::Yourself("other content".into()))));
        assert_eq!(uploads.poll_upload(NOW + REFUSED_RETRY, &outage), Some(segment(1)));
    }

    #[test]
    fn a_stop_sends_those_who_wait_away() {
        let (mut uploads, outage) = (Uploads::new(1), Outage::default());
        uploads.handle_scan([segment(1)]);
        uploads.handle_push(1, segment(1), identity(1), &outage);
        uploads.handle_stop();
        uploads.handle_push(2, segment(2), identity(2), &outage);
        assert_eq!((answers(&mut uploads), all(&mut uploads, &outage)), (vec![(1, false), (2, false)], vec![]));
    }

    #[test]
    fn pushes_are_bounded() {
        let (mut uploads, outage) = (Uploads::new(1), Outage::default());
        for id in 0..=PUSHES_MAX as u64 {
            uploads.handle_push(id, segment(1), identity(1), &outage);
        }
        assert_eq!(answers(&mut uploads), [(PUSHES_MAX as u64, false)]);
    }
}
