//! What a subscriber asks for, and what it must get: the contract's filter written a second time, as plainly as can be.

use beyond_cdc_proto::v1::{ColumnEquals, Filter, Operation};
use walbus::Position;
use walbus::logical::Definition;
use walbus::sim::Random;

use super::history::{Cell, Committed, Deed, History, TEXTS, text};

/// A filter, and what its principal may read.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub(super) permitted: &'static [&'static str],
    tables: Vec<&'static str>,
    operations: Vec<Operation>,
    columns: Vec<&'static str>,
    equals: Vec<(&'static str, Option<&'static str>)>,
}

/// A change, as a subscriber sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) at: Position,
    pub(super) time: i64,
    pub(super) xid: u32,
    pub(super) operation: Operation,
    /// Schema, name and columns of its table, or of all that were truncated.
    pub(super) tables: Vec<(String, String, Vec<String>)>,
    pub(super) new: Option<Vec<Cell>>,
    pub(super) old: Option<Vec<Cell>>,
    pub(super) old_is_key: bool,
    pub(super) message: Option<String>,
}

/// What somebody may read. The last may read all.
pub(super) const PRINCIPALS: [&[&str]; 3] = [&["public.*"], &["sales.*", "public.order*"], &["*.*"]];
const PATTERNS: [&str; 8] =
    ["public.*", "public.users", "*.orders", "public.order?items*", "sales.*", "*.*", "secret.keys", "nothing.*"];

impl Wanted {
    /// A filter of any kind. It may ask for what the principal may not read.
    pub(super) fn random(permitted: &'static [&'static str], random: &mut Random) -> Self {
        let mut wanted = Self { permitted, tables: vec![], operations: vec![], columns: vec![], equals: vec![] };
        if random.chance(1, 3) {
            return wanted;
        }
        let mut pick = |of: u64| usize::try_from(random.below(of)).unwrap();
        let few = [0, 0, 1, 2];
        wanted.tables = (0..few[pick(4)]).map(|_| PATTERNS[pick(8)]).collect();
        let operations = [Operation::Insert, Operation::Update, Operation::Delete, Operation::Truncate, Operation::Message];
        wanted.operations = (0..few[pick(4)]).map(|_| operations[pick(5)]).collect();
        wanted.columns = (0..few[pick(4)]).map(|_| ["note", "color", "extra3", "none"][pick(4)]).collect();
        if pick(4) == 0 {
            let value = if pick(4) == 0 { None } else { Some(TEXTS[pick(4)]) };
            wanted.equals.push((["color", "color", "extra3"][pick(3)], value));
        }
        wanted
    }

    /// As it is sent.
    pub(super) fn filter(&self) -> Filter {
        let equals =
            |(column, value): &(&str, Option<&str>)| ColumnEquals { column: (*column).to_owned(), value: value.map(str::to_owned) };
        Filter {
            tables: self.tables.iter().map(|&text| text.to_owned()).collect(),
            operations: self.operations.iter().map(|operation| (*operation).into()).collect(),
            columns: self.columns.iter().map(|&text| text.to_owned()).collect(),
            equals: self.equals.iter().map(equals).collect(),
        }
    }

    /// Whether it asks for more than the principal may read. Each of the patterns above is told by its own words.
    pub(super) fn is_forbidden(&self) -> bool {
        let all = self.permitted.contains(&"*.*");
        let covered = |pattern: &str| self.permitted.iter().any(|permitted| covers(permitted, pattern));
        !all && !self.tables.iter().all(|pattern| covered(pattern))
    }

    /// What must be seen of a span of positions, its start excluded.
    pub(super) fn of(&self, history: &History, after: Position, through: Position) -> Vec<Seen> {
        let mut seen = Vec::new();
        for committed in history.between(after, through) {
            for (ordinal, deed) in (1..).zip(&committed.deeds) {
                let at = committed.at(ordinal);
                if after < at && at <= through {
                    seen.extend(self.see(committed, at, deed));
                }
            }
        }
        seen
    }

    fn see(&self, committed: &Committed, at: Position, deed: &Deed) -> Option<Seen> {
        let mut seen = Seen {
            at,
            time: committed.time,
            xid: committed.xid,
            operation: operation(deed),
            tables: vec![],
            new: None,
            old: None,
            old_is_key: false,
            message: None,
        };
        if !self.operations.is_empty() && !self.operations.contains(&seen.operation) {
            return None;
        }
        match deed {
            Deed::Message { content } => {
                let any = (self.tables.is_empty() || self.tables.contains(&"*.*")) && self.equals.is_empty();
                let asked = !self.operations.is_empty() || any;
                seen.message = (asked && self.permitted.contains(&"*.*")).then(|| content.clone());
                seen.message.is_some().then_some(seen)
            }
            Deed::Truncate { tables } => {
                seen.tables = tables.iter().filter(|table| self.has_table(table)).map(|table| name(table)).collect();
                (!seen.tables.is_empty()).then_some(seen)
            }
            Deed::Delete { table, old, key } => self.see_row(seen, table, None, Some((old, *key))),
            Deed::Insert { table, new } => self.see_row(seen, table, Some(new), None),
            Deed::Update { table, new, old } => self.see_row(seen, table, Some(new), old.as_ref().map(|(old, key)| (old, *key))),
        }
    }

    fn see_row(
        &self,
        mut seen: Seen,
        table: &Definition,
        new: Option<&Vec<Cell>>,
        old: Option<(&Vec<Cell>, bool)>,
    ) -> Option<Seen> {
        let columns = &table.relation.columns;
        let holds = |(column, value): &(&str, Option<&str>)| {
            let Some(at) = columns.iter().position(|is| is.name == *column) else { return false };
            let of_old = old.map(|(old, _)| &old[at]);
            let cell = match new.map(|new| &new[at]) {
                Some(Cell::Unchanged) | None => of_old,
                new => new,
            };
            match cell {
                // It can't be told.
                None | Some(Cell::NotSent | Cell::Unchanged) => true,
                Some(Cell::Null) => value.is_none(),
                Some(cell) => value.is_some() && text(cell).as_deref() == *value,
            }
        };
        if !self.has_table(table) || !self.equals.iter().all(holds) {
            return None;
        }
        let sent = |cells: &Vec<Cell>| {
            let one = |(cell, column): (&Cell, &walbus::proto::pgoutput::Column)| {
                let wanted = self.columns.is_empty() || column.key || self.columns.contains(&column.name.as_str());
                if wanted { cell.clone() } else { Cell::NotSent }
            };
            cells.iter().zip(columns).map(one).collect()
        };
        (seen.new, seen.old) = (new.map(sent), old.map(|(old, _)| sent(old)));
        seen.old_is_key = old.is_some_and(|(_, key)| key);
        seen.tables = vec![name(table)];
        Some(seen)
    }

    fn has_table(&self, table: &Definition) -> bool {
        self.may_have(&table.relation.schema, &table.relation.name)
    }

    /// Whether a table is asked for and may be read.
    pub(super) fn may_have(&self, schema: &str, name: &str) -> bool {
        let full = format!("{schema}.{name}");
        let among = |patterns: &[&str]| patterns.iter().any(|pattern| matches(pattern.as_bytes(), full.as_bytes()));
        (self.tables.is_empty() || among(&self.tables)) && among(self.permitted)
    }
}

/// No name here has a dot, so that one text will do.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) => matches(rest, text) || text.split_first().is_some_and(|(_, text)| matches(pattern, text)),
        (Some((b'?', rest)), Some((_, text))) => matches(rest, text),
        (Some((wanted, rest)), Some((is, text))) => wanted == is && matches(rest, text),
        _ => false,
    }
}

/// Whether one of the principals' patterns has all that one of the filters' patterns can mean.
fn covers(permitted: &str, pattern: &str) -> bool {
    match permitted {
        "public.*" => pattern.starts_with("public."),
        "public.order*" => pattern.starts_with("public.order"),
        "sales.*" => pattern.starts_with("sales."),
        _ => false,
    }
}

fn name(table: &Definition) -> (String, String, Vec<String>) {
    let relation = &table.relation;
    let columns = relation.columns.iter().map(|column| column.name.clone()).collect();
    (relation.schema.clone(), relation.name.clone(), columns)
}

const fn operation(deed: &Deed) -> Operation {
    match deed {
        Deed::Delete { .. } => Operation::Delete,
        Deed::Insert { .. } => Operation::Insert,
        Deed::Message { .. } => Operation::Message,
        Deed::Truncate { .. } => Operation::Truncate,
        Deed::Update { .. } => Operation::Update,
    }
}
