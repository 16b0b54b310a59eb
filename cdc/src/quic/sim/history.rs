//! What the source committed, epoch by epoch: made by a seed as far as somebody asks, and never changed.

use std::sync::Arc;

use walbus::logical::{Body, Change, Definition, Transaction};
use walbus::proto::pgoutput::{Column, LogicalMessage, Old, Relation, ReplicaIdentity, Tuple, Value};
use walbus::sim::Random;
use walbus::{Lsn, PgTime, Position};

use crate::log::Epoch;

/// The tables that there are in the beginning.
const TABLES: [(&str, &str); 5] =
    [("public", "users"), ("public", "orders"), ("public", "order_items"), ("sales", "orders"), ("secret", "keys")];
/// Texts of which rows have some, so that conditions meet them.
pub(super) const TEXTS: [&str; 4] = ["red", "green", "blue", ""];
const INT8: u32 = 20;
const TEXT: u32 = 25;

/// A value, as a subscriber sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Cell {
    NotSent,
    Null,
    Number(i64),
    Text(String),
    Unchanged,
}

/// A change, as it was made.
#[derive(Debug, Clone)]
pub(super) enum Deed {
    Delete { table: Arc<Definition>, old: Vec<Cell>, key: bool },
    Insert { table: Arc<Definition>, new: Vec<Cell> },
    Message { content: String },
    Truncate { tables: Vec<Arc<Definition>> },
    Update { table: Arc<Definition>, new: Vec<Cell>, old: Option<(Vec<Cell>, bool)> },
}

/// A transaction that was committed. The ordinals of its changes are 1 to their number.
#[derive(Debug, Clone)]
pub(super) struct Committed {
    pub(super) lsn: Lsn,
    pub(super) end_lsn: Lsn,
    pub(super) time: i64,
    pub(super) xid: u32,
    pub(super) deeds: Vec<Deed>,
}

impl Committed {
    pub(super) fn at(&self, ordinal: u32) -> Position {
        Position { commit_lsn: self.lsn, ordinal }
    }

    /// The position of its last change.
    pub(super) fn end(&self) -> Position {
        self.at(u32::try_from(self.deeds.len()).unwrap())
    }

    /// As `walbus::logical` gives its end.
    pub(super) fn commit(&self) -> Transaction {
        let commit_time = PgTime::from_unix_micros(self.time);
        let (xid, commit_lsn, end_lsn) = (self.xid, self.lsn, self.end_lsn);
        Transaction { xid, commit_lsn, end_lsn, commit_time, origin: None, prepare_lsn: None, gid: None }
    }

    /// As `walbus::logical` gives a change of it.
    pub(super) fn change(&self, ordinal: u32) -> Change {
        let body = match &self.deeds[ordinal as usize - 1] {
            Deed::Delete { table, old, key } => Body::Delete { relation: Arc::clone(table), old: old_of(old, *key) },
            Deed::Insert { table, new } => Body::Insert { relation: Arc::clone(table), new: tuple(new, None) },
            Deed::Message { content } => {
                let content = content.clone().into_bytes().into();
                Body::Message(LogicalMessage { transactional: true, lsn: self.lsn, prefix: "sim".into(), content })
            }
            Deed::Truncate { tables } => Body::Truncate { relations: tables.clone(), cascade: false, restart_identity: false },
            Deed::Update { table, new, old } => {
                let full = old.as_ref().filter(|(_, key)| !key).map(|(old, _)| old.as_slice());
                let old = old.as_ref().map(|(old, key)| old_of(old, *key));
                Body::Update { relation: Arc::clone(table), old, new: tuple(new, full) }
            }
        };
        Change { position: self.at(ordinal), xid: self.xid, body }
    }
}

fn old_of(cells: &[Cell], key: bool) -> Old {
    if key { Old::Key(tuple(cells, None)) } else { Old::Full(tuple(cells, None)) }
}

/// As Postgres sends it: a text that is as in the full old row is not sent again, and a column outside of a key is NULL.
fn tuple(cells: &[Cell], full: Option<&[Cell]>) -> Tuple {
    let texts: Vec<Option<String>> = cells.iter().map(text).collect();
    let value = |at: usize| match &cells[at] {
        Cell::Text(_) if full.is_some_and(|full| full[at] == cells[at]) => Value::Unchanged,
        Cell::Unchanged => Value::Unchanged,
        _ => texts[at].as_ref().map_or(Value::Null, |text| Value::Text(text.as_bytes())),
    };
    Tuple::of(&(0..cells.len()).map(value).collect::<Vec<_>>()).unwrap()
}

/// As Postgres writes a value.
pub(super) fn text(cell: &Cell) -> Option<String> {
    match cell {
        Cell::NotSent | Cell::Null | Cell::Unchanged => None,
        Cell::Number(number) => Some(number.to_string()),
        Cell::Text(text) => Some(text.clone()),
    }
}

/// All transactions of an epoch.
#[derive(Debug)]
pub(super) struct History {
    pub(super) epoch: Epoch,
    pub(super) start_lsn: Lsn,
    random: Random,
    tables: Vec<Arc<Definition>>,
    committed: Vec<Arc<Committed>>,
}

impl History {
    pub(super) fn new(seed: u64, number: u8, start_lsn: Lsn) -> Self {
        let random = Random::new(seed ^ (u64::from(number) << 40) ^ 0x0DD);
        let tables = (0..).zip(TABLES).map(|(n, (schema, name))| table(16384 + n, schema, name, n == 2)).collect();
        Self { epoch: Epoch::new([number + 1; 16]), start_lsn, random, tables, committed: Vec::new() }
    }

    /// Before everything.
    pub(super) fn start(&self) -> Position {
        Position { commit_lsn: self.start_lsn, ordinal: 0 }
    }

    /// Transaction number `n`, from 0 on.
    pub(super) fn get(&mut self, n: usize) -> Arc<Committed> {
        while self.committed.len() <= n {
            let next = self.make();
            self.committed.push(Arc::new(next));
        }
        Arc::clone(&self.committed[n])
    }

    /// The number of the first transaction whose end the slot does not have as confirmed.
    pub(super) fn behind(&mut self, confirmed: Lsn) -> usize {
        let mut n = 0;
        while self.get(n).end_lsn <= confirmed {
            n += 1;
        }
        n
    }

    /// The transactions that end behind a position and begin before another one, or end there, among those that were asked for so far.
    pub(super) fn between(&self, after: Position, through: Position) -> impl Iterator<Item = &Arc<Committed>> {
        let from = self.committed.partition_point(|committed| committed.end() <= after);
        self.committed[from..].iter().take_while(move |committed| committed.at(0) < through || committed.end() == through)
    }

    /// The transaction committed there.
    pub(super) fn at(&self, lsn: Lsn) -> Option<&Arc<Committed>> {
        self.committed.binary_search_by_key(&lsn, |committed| committed.lsn).ok().map(|n| &self.committed[n])
    }

    /// Whether whole transactions end there, or the epoch begins.
    pub(super) fn is_boundary(&self, position: Position) -> bool {
        position == self.start() || self.at(position.commit_lsn).is_some_and(|committed| committed.end() == position)
    }

    fn make(&mut self) -> Committed {
        let n = self.committed.len() as u64;
        let before = self.committed.last().map_or(self.start_lsn, |last| last.end_lsn);
        let lsn = Lsn(before.0 + 1 + self.random.below(60));
        let count = match self.random.below(12) {
            0 => 20 + self.random.below(60),
            1 => 0,
            _ => 1 + self.random.below(5),
        };
        let deeds = (0..count).map(|_| self.deed()).collect();
        // Times go back a little now and then, as those of concurrent commits do.
        let time = i64::try_from(1_000_000 + n * 100).unwrap() - i64::try_from(self.random.below(250)).unwrap();
        Committed { lsn, end_lsn: Lsn(lsn.0 + 1 + self.random.below(9)), time, xid: 700 + u32::try_from(n).unwrap(), deeds }
    }

    fn deed(&mut self) -> Deed {
        let at = usize::try_from(self.random.below(TABLES.len() as u64)).unwrap();
        if self.random.chance(1, 40) {
            self.alter(at);
        }
        let table = Arc::clone(&self.tables[at]);
        let full = table.relation.replica_identity == ReplicaIdentity::Full;
        match self.random.below(20) {
            0 => Deed::Message { content: format!("message {}", self.random.below(1000)) },
            1 => {
                let mut tables = vec![table];
                if self.random.chance(1, 2) {
                    tables.push(Arc::clone(&self.tables[(at + 1) % TABLES.len()]));
                }
                Deed::Truncate { tables }
            }
            2..=5 => Deed::Delete { old: self.old(&table, full), table, key: !full },
            6..=10 => self.update(table, full),
            _ => Deed::Insert { new: self.row(&table), table },
        }
    }

    fn update(&mut self, table: Arc<Definition>, full: bool) -> Deed {
        let mut new = self.row(&table);
        let old = if full {
            let mut old = self.row(&table);
            let same = usize::try_from(self.random.below(new.len() as u64)).unwrap();
            old[same] = new[same].clone();
            Some((old, false))
        } else {
            if self.random.chance(1, 3) {
                new[1] = Cell::Unchanged;
            }
            self.random.chance(1, 3).then(|| (self.old(&table, false), true))
        };
        Deed::Update { table, new, old }
    }

    fn row(&mut self, table: &Definition) -> Vec<Cell> {
        let random = &mut self.random;
        let cell = |column: &Column| {
            if column.type_oid == INT8 {
                return Cell::Number(i64::try_from(random.below(9)).unwrap());
            }
            match random.below(5) {
                0 => Cell::Null,
                1 => Cell::Text("x".repeat(usize::try_from(random.below(40)).unwrap())),
                _ => Cell::Text(TEXTS[usize::try_from(random.below(4)).unwrap()].to_owned()),
            }
        };
        table.relation.columns.iter().map(cell).collect()
    }

    /// An old row: all of it, or its key.
    fn old(&mut self, table: &Definition, full: bool) -> Vec<Cell> {
        let row = self.row(table);
        let sent = |(cell, column): (Cell, &Column)| if full || column.key { cell } else { Cell::NotSent };
        row.into_iter().zip(&table.relation.columns).map(sent).collect()
    }

    /// Another version of a table: one column more or less, or another name.
    fn alter(&mut self, at: usize) {
        let mut relation = self.tables[at].relation.clone();
        match self.random.below(3) {
            0 if relation.columns.len() > 3 => drop(relation.columns.pop()),
            0 | 1 => relation.columns.push(column(&format!("extra{}", relation.columns.len()), TEXT, false)),
            // There and back: a definition that comes back has its old number.
            _ => match relation.name.strip_suffix("_old").map(str::to_owned) {
                Some(name) => relation.name = name,
                None => relation.name.push_str("_old"),
            },
        }
        let types = relation.columns.iter().map(|_| None).collect();
        self.tables[at] = Arc::new(Definition { relation, types });
    }
}

fn column(name: &str, type_oid: u32, key: bool) -> Column {
    Column { key, name: name.to_owned(), type_oid, type_modifier: -1 }
}

fn table(oid: u32, schema: &str, name: &str, full: bool) -> Arc<Definition> {
    // With the whole row as identity, every column counts as one of the key.
    let columns = vec![column("id", INT8, true), column("color", TEXT, full), column("note", TEXT, full)];
    let replica_identity = if full { ReplicaIdentity::Full } else { ReplicaIdentity::Default };
    let types = columns.iter().map(|_| None).collect();
    let relation = Relation { oid, schema: schema.to_owned(), name: name.to_owned(), replica_identity, columns };
    Arc::new(Definition { relation, types })
}
