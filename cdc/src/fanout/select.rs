//! What of a batch passes: tables, operations, rows and columns, and what a principal may read. Pure.

use std::collections::{BTreeSet, HashMap};

use beyond_cdc_proto::v1::{Batch, Change, Filter, Operation, Part, Row, Schema, Transaction};
use walbus::{Lsn, Position};

use super::equals::Condition;
use super::pattern::{PatternError, TablePattern};
use crate::log::SchemaSet;

/// How many patterns of tables, columns, or conditions a filter may have.
pub const FILTER_ITEMS_MAX: usize = 256;

/// A filter, made normal: two that mean the same, written in another order, are equal.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Selection {
    /// What was asked for; empty for all.
    tables: BTreeSet<TablePattern>,
    /// What may be read at all; empty for nothing.
    permitted: BTreeSet<TablePattern>,
    /// Empty for all.
    operations: BTreeSet<i32>,
    /// Empty for all.
    columns: BTreeSet<String>,
    equals: BTreeSet<Condition>,
}

/// Why a filter is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectError {
    /// It asks for what the principal may not read.
    #[error("this principal may not read {0}: ask for what it may, or have the server's --principals changed")]
    Forbidden(TablePattern),
    /// It makes no sense.
    #[error("{0}")]
    Invalid(String),
}

impl From<PatternError> for SelectError {
    fn from(error: PatternError) -> Self {
        Self::Invalid(error.to_string())
    }
}

impl Selection {
    /// A filter as it was sent, for a principal that may read `permitted`. One without tables asks for all that may be read.
    ///
    /// # Errors
    /// See [`SelectError`].
    pub fn parse(filter: Filter, permitted: &[TablePattern]) -> Result<Self, SelectError> {
        let Filter { tables, operations, columns, equals } = filter;
        let most = tables.len().max(operations.len()).max(columns.len()).max(equals.len());
        if most > FILTER_ITEMS_MAX {
            return Err(SelectError::Invalid(format!(
                "a filter with {most} items of a kind, where {FILTER_ITEMS_MAX} are the most"
            )));
        }
        let tables = tables.iter().map(|text| TablePattern::parse(text)).collect::<Result<BTreeSet<_>, _>>()?;
        let mut permitted: BTreeSet<TablePattern> = permitted.iter().cloned().collect();
        if let Some(more) = tables.iter().find(|asked| !permitted.iter().any(|pattern| pattern.covers(asked))) {
            return Err(SelectError::Forbidden(more.clone()));
        }
        for operation in &operations {
            if matches!(Operation::try_from(*operation), Ok(Operation::Unspecified) | Err(_)) {
                return Err(SelectError::Invalid(format!("operation {operation} is not known")));
            }
        }
        let unnamed = columns.iter().chain(equals.iter().map(|condition| &condition.column)).any(String::is_empty);
        if unnamed {
            return Err(SelectError::Invalid("a column without a name".to_owned()));
        }
        if permitted.iter().any(TablePattern::is_all) {
            permitted.retain(TablePattern::is_all);
        }
        let tables = if tables.iter().any(TablePattern::is_all) && operations.is_empty() { BTreeSet::new() } else { tables };
        let (operations, columns) = (operations.into_iter().collect(), columns.into_iter().collect());
        Ok(Self { tables, permitted, operations, columns, equals: equals.into_iter().map(Condition::from).collect() })
    }

    /// Whether everything passes, so that batches can be sent as they are.
    #[must_use]
    pub fn is_all(&self) -> bool {
        let all_tables = self.tables.is_empty() || self.tables.iter().any(TablePattern::is_all);
        self.may_read_all() && all_tables && self.operations.is_empty() && self.columns.is_empty() && self.equals.is_empty()
    }

    /// Whether a table passes: what was asked for, of what may be read.
    #[must_use]
    pub fn has_table(&self, schema: &Schema) -> bool {
        let among =
            |patterns: &BTreeSet<TablePattern>| patterns.iter().any(|pattern| pattern.matches(&schema.schema, &schema.table));
        (self.tables.is_empty() || among(&self.tables)) && among(&self.permitted)
    }

    /// What of a batch passes. `schemas` are the definitions known before it.
    ///
    /// Of a transaction in parts the begin and the end stay, though nothing is left in them.
    #[must_use]
    pub fn apply(&self, batch: Batch, schemas: &SchemaSet) -> Batch {
        if self.is_all() {
            return batch;
        }
        let defined: HashMap<u32, Schema> = batch.schemas.into_iter().map(|schema| (schema.id, schema)).collect();
        let mut tables = Tables { selection: self, defined: &defined, known: schemas, views: HashMap::new() };
        let transactions = batch.transactions.into_iter().filter_map(|transaction| tables.transaction(transaction)).collect();
        let mut schemas: Vec<Schema> = defined.into_values().filter(|schema| self.has_table(schema)).collect();
        schemas.sort_by_key(|schema| schema.id);
        Batch { schemas, transactions, through: batch.through }
    }

    fn may_read_all(&self) -> bool {
        self.permitted.iter().any(TablePattern::is_all)
    }

    fn has_operation(&self, operation: i32) -> bool {
        self.operations.is_empty() || self.operations.contains(&operation)
    }

    /// Messages are of no table: they pass where they are asked for by name, or nothing is asked for by table or row. They may hold
    /// anything, so only who may read all tables gets them.
    fn has_messages(&self) -> bool {
        let asked = self.operations.contains(&Operation::Message.into());
        let any = self.tables.is_empty() && self.equals.is_empty() && self.operations.is_empty();
        self.may_read_all() && (asked || any)
    }
}

/// What of a table passes.
struct View<'s> {
    schema: &'s Schema,
    /// For each column whether it is sent; `None` for all.
    columns: Option<Vec<bool>>,
}

/// The tables of one batch.
struct Tables<'s> {
    selection: &'s Selection,
    defined: &'s HashMap<u32, Schema>,
    known: &'s SchemaSet,
    views: HashMap<u32, Option<View<'s>>>,
}

impl<'s> Tables<'s> {
    fn view(&mut self, id: u32) -> Option<&View<'s>> {
        let Self { selection, defined, known, views } = self;
        let make = || {
            let schema = defined.get(&id).or_else(|| known.by_id(id).map(|schema| &**schema))?;
            if !selection.has_table(schema) {
                return None;
            }
            let sent = |column: &beyond_cdc_proto::v1::Column| column.key || selection.columns.contains(&column.name);
            let columns = (!selection.columns.is_empty()).then(|| schema.columns.iter().map(sent).collect());
            Some(View { schema, columns })
        };
        views.entry(id).or_insert_with(make).as_ref()
    }

    fn transaction(&mut self, mut transaction: Transaction) -> Option<Transaction> {
        let changes = std::mem::take(&mut transaction.changes);
        transaction.changes = changes.into_iter().filter_map(|change| self.change(change)).collect();
        let stays = !transaction.changes.is_empty() || matches!(transaction.part(), Part::Begin | Part::End);
        stays.then_some(transaction)
    }

    fn change(&mut self, mut change: Change) -> Option<Change> {
        let selection = self.selection;
        if !selection.has_operation(change.operation) {
            return None;
        }
        match change.operation() {
            Operation::Message => selection.has_messages().then_some(change),
            Operation::Truncate => {
                let truncate = change.truncate.as_mut()?;
                truncate.schemas.retain(|id| self.view(*id).is_some());
                (!truncate.schemas.is_empty()).then_some(change)
            }
            Operation::Unspecified | Operation::Insert | Operation::Update | Operation::Delete => {
                let view = self.view(change.schema)?;
                if !selection.equals.iter().all(|condition| condition.holds(view.schema, &change)) {
                    return None;
                }
                if let Some(sent) = &view.columns {
                    for row in [&mut change.new, &mut change.old].into_iter().flatten() {
                        blank(row, sent);
                    }
                }
                Some(change)
            }
        }
    }
}

/// Takes out the values that are not sent.
fn blank(row: &mut Row, sent: &[bool]) {
    for (value, sent) in row.values.iter_mut().zip(sent) {
        if !sent {
            value.kind = None;
        }
    }
}

/// Takes out of a batch what is at or before `after`. The rest of a transaction that began before is no longer its begin.
pub fn cut(batch: &mut Batch, after: Position) {
    batch.transactions.retain_mut(|transaction| {
        let at = Lsn(transaction.commit_lsn);
        if at != after.commit_lsn {
            return at > after.commit_lsn;
        }
        let whole = transaction.changes.len();
        transaction.changes.retain(|change| change.ordinal > after.ordinal);
        if transaction.changes.len() == whole {
            return true;
        }
        let part = match transaction.part() {
            Part::Whole | Part::End => Part::End,
            Part::Begin | Part::Middle => Part::Middle,
        };
        transaction.set_part(part);
        !transaction.changes.is_empty()
    });
}

#[cfg(test)]
mod tests;
