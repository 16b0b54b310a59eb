//! A server as `reorderbuffer.c` and `pgoutput.c` have it, and what its clients did, which is the truth to compare with.

use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::Bytes;

use super::super::{Body, Change, Replay, SpoolFile};
use super::{NOW, commit, prepare};
use crate::lsn::Lsn;
use crate::proto::pgoutput::{
    Begin, BeginPrepare, Column, CommitPrepared, Delete, Insert, LogicalMessage, Message, Old, Prepare, Relation, ReplicaIdentity,
    RollbackPrepared, StreamAbort, StreamCommit, StreamPrepare, StreamStart, Tuple, Update, Value,
};
use crate::sim::Random;

pub(super) fn relation(oid: u32, version: u32) -> Message {
    let column = |number| Column { key: number == 0, name: format!("v{version}_{number}"), type_oid: 25, type_modifier: -1 };
    Message::Relation(Relation {
        oid,
        schema: "public".into(),
        name: format!("t{oid}"),
        replica_identity: ReplicaIdentity::Default,
        columns: (0..=version % 3).map(column).collect(),
    })
}

/// A row of one column.
pub(super) fn text(content: &[u8]) -> Tuple {
    Tuple::of(&[Value::Text(content)]).unwrap()
}

fn tuple(version: u32, id: u32) -> Tuple {
    let id = id.to_string();
    let mut values = vec![Value::Text(id.as_bytes())];
    values.resize(1 + version as usize % 3, Value::Null);
    Tuple::of(&values).unwrap()
}

pub(super) fn insert(oid: u32, version: u32, id: u32) -> Message {
    Message::Insert(Insert { relation: oid, new: tuple(version, id) })
}

pub(super) fn message(content: &str) -> Message {
    let content = Bytes::copy_from_slice(content.as_bytes());
    Message::LogicalMessage(LogicalMessage { transactional: true, lsn: Lsn(1), prefix: "p".into(), content })
}

/// The number of a changed row, and the version of the definition it came with.
pub(super) fn row(change: &Change) -> (u32, u32) {
    let (definition, tuple) = match &change.body {
        Body::Insert { relation, new } | Body::Update { relation, new, .. } => (relation, new),
        Body::Delete { relation, old } => (relation, old.tuple()),
        other => panic!("{other:?}"),
    };
    let Some(Value::Text(id)) = tuple.values().next() else { panic!() };
    let name = &definition.relation.columns[0].name;
    let version = name.trim_start_matches('v').split('_').next().unwrap();
    (str::from_utf8(id).unwrap().parse().unwrap(), version.parse().unwrap())
}

/// A transaction as a subscriber sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) commit_lsn: Lsn,
    pub(super) rows: Vec<(u32, u32)>,
    pub(super) texts: Vec<String>,
    pub(super) xids: Vec<u32>,
}

impl Seen {
    pub(super) const fn new(commit_lsn: Lsn) -> Self {
        Self { commit_lsn, rows: Vec::new(), texts: Vec::new(), xids: Vec::new() }
    }

    pub(super) fn of<F: SpoolFile>(replay: &mut Replay<F>) -> Self {
        let mut seen = Self::new(replay.transaction().commit_lsn);
        while let Some(change) = replay.poll_change().unwrap() {
            seen.add(&change);
        }
        seen
    }

    pub(super) fn add(&mut self, change: &Change) {
        self.xids.push(change.xid);
        assert_eq!((change.position.commit_lsn, change.position.ordinal as usize), (self.commit_lsn, self.xids.len()));
        match &change.body {
            Body::Message(message) => self.texts.push(str::from_utf8(&message.content).unwrap().to_owned()),
            _ => self.rows.push(row(change)),
        }
    }

    pub(super) fn ids(&self) -> Vec<u32> {
        self.rows.iter().map(|(id, _)| *id).collect()
    }
}

/// What one change did, as its client knows it.
#[derive(Debug, Clone)]
enum Deed {
    Row { id: u32, version: u32 },
    Text(String),
}

/// A change that is in the WAL and was not sent yet.
#[derive(Debug)]
struct Decoded {
    xid: u32,
    /// What to send, and of which relation in which version; `None` for what the publication leaves out.
    message: Option<(Message, Option<(u32, u32)>)>,
}

/// A level of savepoints, the transaction itself at the bottom.
#[derive(Debug, Default)]
struct Level {
    xid: Option<u32>,
    /// Those that were released into it, in order.
    children: Vec<u32>,
    /// How many deeds there were when it began.
    start: usize,
    /// What tables looked like before it changed them.
    undo: Vec<(u32, u32)>,
}

#[derive(Debug, Default)]
struct Session {
    levels: Vec<Level>,
    deeds: Vec<Deed>,
    decoded: Vec<Decoded>,
    /// Xids of which something was sent.
    sent: HashSet<u32>,
    streamed: bool,
    /// What this transaction was told of relations, while it is streamed.
    told: HashMap<u32, u32>,
    /// The versions that this transaction has made.
    own: HashMap<u32, u32>,
    touched: HashSet<u32>,
}

#[derive(Debug)]
struct Held {
    session: Session,
    prepare_lsn: Lsn,
}

/// The server. Take [`Server::sent`] and compare what comes out with [`Server::committed`].
#[derive(Debug)]
pub(super) struct Server {
    random: Random,
    sessions: Vec<Session>,
    prepared: Vec<Held>,
    /// What is committed of each relation.
    versions: BTreeMap<u32, u32>,
    /// What all were told.
    told: HashMap<u32, u32>,
    /// Tables that an open transaction has changed the look of.
    locked: HashSet<u32>,
    next_xid: u32,
    next_lsn: u64,
    next_id: u32,
    in_stream: bool,
    pub(super) sent: Vec<Bytes>,
    pub(super) committed: Vec<Seen>,
}

impl Server {
    pub(super) fn new(seed: u64, sessions: usize) -> Self {
        let mut random = Random::new(seed);
        let next_xid = if random.chance(1, 2) { 1000 } else { u32::MAX - 30 };
        Self {
            random,
            sessions: (0..sessions).map(|_| Session::default()).collect(),
            prepared: Vec::new(),
            versions: (1..=3).map(|oid| (oid, 0)).collect(),
            told: HashMap::new(),
            locked: HashSet::new(),
            next_xid,
            next_lsn: 1000,
            next_id: 0,
            in_stream: false,
            sent: Vec::new(),
            committed: Vec::new(),
        }
    }

    pub(super) fn step(&mut self) {
        let at = self.random.below(self.sessions.len() as u64) as usize;
        let mut session = std::mem::take(&mut self.sessions[at]);
        if session.levels.is_empty() {
            session.levels.push(Level::default());
        }
        match self.random.below(24) {
            0..=7 => self.write(&mut session),
            8 => self.filtered(&mut session),
            9 => self.message(&mut session),
            10 => self.outside(),
            11 => self.alter(&mut session),
            12..=14 => {
                let start = session.deeds.len();
                session.levels.push(Level { start, ..Level::default() });
            }
            15 => release(&mut session),
            16..=17 => self.roll_back_to(&mut session),
            18..=20 => self.stream(&mut session),
            21 => session = self.end(session),
            22 => self.end_prepared(),
            _ if self.random.chance(1, 3) => session = self.roll_back(session),
            _ => {}
        }
        self.sessions[at] = session;
    }

    /// Ends all that is open.
    pub(super) fn finish(&mut self) {
        for mut session in std::mem::take(&mut self.sessions) {
            while !session.levels.is_empty() {
                session = self.end(session);
            }
        }
        while !self.prepared.is_empty() {
            self.end_prepared();
        }
    }

    /// Where a record of eight bytes starts.
    fn lsn(&mut self) -> Lsn {
        self.next_lsn += 8;
        Lsn(self.next_lsn - 8)
    }

    /// The xid of the innermost level, given to those around it first.
    fn xid(&mut self, session: &mut Session) -> u32 {
        for level in session.levels.iter_mut().filter(|level| level.xid.is_none()) {
            level.xid = Some(self.next_xid);
            self.next_xid = self.next_xid.wrapping_add(1).max(3);
        }
        session.levels.last().unwrap().xid.unwrap()
    }

    fn version(&self, session: &Session, oid: u32) -> u32 {
        session.own.get(&oid).copied().unwrap_or_else(|| self.versions[&oid])
    }

    fn write(&mut self, session: &mut Session) {
        let oid = 1 + self.random.below(3) as u32;
        if self.locked.contains(&oid) && !session.own.contains_key(&oid) {
            return;
        }
        let xid = self.xid(session);
        session.touched.insert(oid);
        self.next_id += 1;
        let (id, version) = (self.next_id, self.version(session, oid));
        let new = tuple(version, id);
        let message = match self.random.below(4) {
            0 => Message::Update(Update { relation: oid, old: Some(Old::Key(tuple(version, 0))), new }),
            1 => Message::Delete(Delete { relation: oid, old: Old::Full(new) }),
            _ => Message::Insert(Insert { relation: oid, new }),
        };
        session.deeds.push(Deed::Row { id, version });
        session.decoded.push(Decoded { xid, message: Some((message, Some((oid, version)))) });
    }

    /// A change of a table that is not published.
    fn filtered(&mut self, session: &mut Session) {
        let xid = self.xid(session);
        session.decoded.push(Decoded { xid, message: None });
    }

    /// A transactional message, where its level has written a row before: else a client can't tell whose it is.
    fn message(&mut self, session: &mut Session) {
        let level = session.levels.last().unwrap();
        let own = session.deeds[level.start..].iter().any(|deed| matches!(deed, Deed::Row { .. }));
        if !own && session.levels.len() > 1 {
            return;
        }
        let xid = self.xid(session);
        self.next_id += 1;
        let content = self.next_id.to_string();
        session.decoded.push(Decoded { xid, message: Some((message(&content), None)) });
        session.deeds.push(Deed::Text(content));
    }

    fn outside(&mut self) {
        // The next record starts where this one ends.
        let lsn = Lsn(self.lsn().0 + 8);
        let content = Bytes::from_static(b"outside");
        let message = LogicalMessage { transactional: false, lsn, prefix: "p".into(), content };
        self.put(None, &Message::LogicalMessage(message));
    }

    fn alter(&mut self, session: &mut Session) {
        let oid = 1 + self.random.below(3) as u32;
        let others = self.prepared.iter().map(|held| &held.session).chain(&self.sessions);
        if others.into_iter().any(|other| other.touched.contains(&oid)) {
            return;
        }
        self.xid(session);
        let before = self.version(session, oid);
        session.touched.insert(oid);
        self.locked.insert(oid);
        session.levels.last_mut().unwrap().undo.push((oid, before));
        self.next_id += 1;
        session.own.insert(oid, self.next_id);
    }

    fn roll_back_to(&mut self, session: &mut Session) {
        if session.levels.len() < 2 {
            return;
        }
        let mut level = session.levels.pop().unwrap();
        session.deeds.truncate(level.start);
        for (oid, version) in level.undo.iter().rev() {
            session.own.insert(*oid, *version);
        }
        level.children.sort_by_key(|xid| xid.wrapping_sub(1000));
        self.abort(session, &level);
    }

    /// The abort record of a level: those released into it, then itself.
    fn abort(&mut self, session: &mut Session, level: &Level) {
        let top = session.levels.first().unwrap_or(level).xid;
        for xid in level.children.iter().chain(&level.xid).copied() {
            session.decoded.retain(|decoded| decoded.xid != xid);
            if session.sent.contains(&xid) {
                let abort = StreamAbort { xid: top.unwrap(), subxid: xid, aborted: None };
                self.put(None, &Message::StreamAbort(abort));
                session.told.clear();
            }
        }
    }

    fn roll_back(&mut self, mut session: Session) -> Session {
        while session.levels.len() > 1 {
            release(&mut session);
        }
        let level = session.levels.pop().unwrap();
        self.abort(&mut session, &level);
        self.locked.retain(|oid| !session.own.contains_key(oid));
        Session::default()
    }

    /// Sends what has not been sent, while the transaction runs.
    fn stream(&mut self, session: &mut Session) {
        if session.decoded.is_empty() {
            return;
        }
        let top = session.levels[0].xid.unwrap();
        self.put(None, &Message::StreamStart(StreamStart { xid: top, first_segment: !session.streamed }));
        session.streamed = true;
        session.sent.insert(top);
        self.in_stream = true;
        for Decoded { xid, message } in std::mem::take(&mut session.decoded) {
            session.sent.insert(xid);
            if let Some((message, table)) = message {
                if let Some((oid, version)) = table
                    && (session.told.insert(oid, version) != Some(version) || self.random.chance(1, 10))
                {
                    self.put(Some(xid), &relation(oid, version));
                    if self.versions[&oid] != version {
                        // It was changed here, which has invalidated what the server remembered of it.
                        self.told.remove(&oid);
                    }
                }
                let carried = if matches!(message, Message::LogicalMessage(_)) { top } else { xid };
                self.put(Some(carried), &message);
            }
        }
        self.in_stream = false;
        self.put(None, &Message::StreamStop);
    }

    /// Sends a transaction at its end.
    fn send_whole(&mut self, session: &mut Session) {
        for Decoded { message, .. } in std::mem::take(&mut session.decoded) {
            if let Some((message, table)) = message {
                if let Some((oid, version)) = table
                    && (self.told.insert(oid, version) != Some(version) || self.random.chance(1, 10))
                {
                    self.put(None, &relation(oid, version));
                }
                self.put(None, &message);
            }
        }
    }

    /// Commits or prepares.
    fn end(&mut self, mut session: Session) -> Session {
        while session.levels.len() > 1 {
            release(&mut session);
        }
        let Some(xid) = session.levels[0].xid else { return Session::default() };
        let lsn = self.lsn();
        if self.random.chance(1, 4) {
            self.prepare(session, xid, lsn);
            return Session::default();
        }
        if session.streamed {
            self.stream(&mut session);
            self.put(None, &Message::StreamCommit(StreamCommit { xid, commit: commit(lsn.0) }));
            self.told.extend(&session.told);
            self.commit(&session, lsn);
        } else if session.decoded.iter().any(|decoded| decoded.message.is_some()) {
            self.put(None, &Message::Begin(Begin { final_lsn: lsn, commit_time: NOW, xid }));
            self.send_whole(&mut session);
            self.put(None, &Message::Commit(commit(lsn.0)));
            self.commit(&session, lsn);
        } else {
            self.forget(&session);
        }
        Session::default()
    }

    fn prepare(&mut self, mut session: Session, xid: u32, lsn: Lsn) {
        let end = prepare(xid, lsn.0);
        if session.streamed {
            self.stream(&mut session);
            self.put(None, &Message::StreamPrepare(StreamPrepare(end)));
        } else {
            let Prepare { prepare_lsn, end_lsn, prepare_time, xid, gid } = end.clone();
            self.put(None, &Message::BeginPrepare(BeginPrepare { prepare_lsn, end_lsn, prepare_time, xid, gid }));
            self.send_whole(&mut session);
            self.put(None, &Message::Prepare(end));
        }
        self.prepared.push(Held { session, prepare_lsn: lsn });
    }

    fn end_prepared(&mut self) {
        if self.prepared.is_empty() {
            return;
        }
        let at = self.random.below(self.prepared.len() as u64) as usize;
        let Held { session, prepare_lsn } = self.prepared.swap_remove(at);
        let xid = session.levels[0].xid.unwrap();
        let (lsn, gid) = (self.lsn(), prepare(xid, prepare_lsn.0).gid);
        if self.random.chance(2, 3) {
            let end = CommitPrepared { commit_lsn: lsn, end_lsn: Lsn(lsn.0 + 8), commit_time: NOW, xid, gid };
            self.put(None, &Message::CommitPrepared(end));
            self.commit(&session, lsn);
        } else {
            let (prepare_time, rollback_time) = (NOW, NOW);
            let end =
                RollbackPrepared { prepare_end_lsn: prepare_lsn, rollback_end_lsn: lsn, prepare_time, rollback_time, xid, gid };
            self.put(None, &Message::RollbackPrepared(end));
            self.locked.retain(|oid| !session.own.contains_key(oid));
        }
    }

    fn commit(&mut self, session: &Session, lsn: Lsn) {
        let mut seen = Seen::new(lsn);
        for deed in &session.deeds {
            match deed {
                Deed::Row { id, version } => seen.rows.push((*id, *version)),
                Deed::Text(content) => seen.texts.push(content.clone()),
            }
        }
        self.committed.push(seen);
        self.forget(session);
    }

    fn forget(&mut self, session: &Session) {
        self.versions.extend(&session.own);
        self.locked.retain(|oid| !session.own.contains_key(oid));
    }

    fn put(&mut self, xid: Option<u32>, message: &Message) {
        assert_eq!(xid.is_some(), self.in_stream);
        let mut payload = Vec::new();
        message.encode(xid, &mut payload);
        self.sent.push(payload.into());
    }
}

/// The innermost level becomes part of the one around it.
fn release(session: &mut Session) {
    if session.levels.len() < 2 {
        return;
    }
    let inner = session.levels.pop().unwrap();
    let outer = session.levels.last_mut().unwrap();
    outer.children.extend(inner.children);
    outer.children.extend(inner.xid);
    outer.undo.extend(inner.undo);
}
