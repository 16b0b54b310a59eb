//! Changes as SQL for the second database. Pure.

use beyond_cdc_client::proto::v1::value::Kind;
use beyond_cdc_client::proto::v1::{Column, Row, Schema, Value};
use beyond_cdc_client::{Change, Operation};

use super::sql::{identifier, literal, literal_or_null};
use super::text;

/// A statement, and how many rows it has to find.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Statement {
    pub(super) sql: String,
    pub(super) rows: Option<u64>,
}

impl Statement {
    /// One that may find any number of rows.
    pub(super) const fn free(sql: String) -> Self {
        Self { sql, rows: None }
    }

    const fn one_row(sql: String) -> Self {
        Self { sql, rows: Some(1) }
    }
}

/// What a change of a row or a truncate does.
///
/// # Errors
/// Where the change lacks what a subscriber needs.
pub(super) fn statement(change: &Change) -> Result<Statement, String> {
    let schema = change.table().ok_or("a change without a table")?;
    let wrong = |problem: &str| format!("{:?} of {}: {problem}", change.operation(), table_name(schema));
    let wire = change.wire();
    let new = || wire.new.as_ref().ok_or_else(|| wrong("there is no new row"));
    match change.operation() {
        Operation::Delete => {
            let old = wire.old.as_ref().ok_or_else(|| wrong("there is no old row"))?;
            let place = place(schema, old, !change.old_is_key()).map_err(|problem| wrong(&problem))?;
            Ok(Statement::one_row(format!("DELETE FROM {} WHERE {place}", table_name(schema))))
        }
        Operation::Insert => insert(schema, new()?).map_err(|problem| wrong(&problem)),
        Operation::Truncate => {
            let tables: Vec<String> = change.tables().iter().map(|schema| table_name(schema)).collect();
            Ok(Statement::free(format!("TRUNCATE {}", tables.join(", "))))
        }
        Operation::Update => {
            let new = new()?;
            let (old, whole) = wire.old.as_ref().map_or((new, false), |old| (old, !change.old_is_key()));
            update(schema, new, old, whole).map_err(|problem| wrong(&problem))
        }
        Operation::Message | Operation::Unspecified => Err(wrong("it is about no table")),
    }
}

/// A table's name as SQL has it.
pub(super) fn table_name(schema: &Schema) -> String {
    format!("{}.{}", identifier(&schema.schema), identifier(&schema.table))
}

/// A type's name as `regtype` reads it.
pub(super) fn type_name(column: &Column) -> String {
    let (schema, name) = column.type_name.split_once('.').unwrap_or(("pg_catalog", &column.type_name));
    format!("{}.{}", identifier(schema), identifier(name))
}

fn columns<'a>(schema: &'a Schema, row: &'a Row) -> Result<impl Iterator<Item = (&'a Column, &'a Value)>, String> {
    if schema.columns.len() == row.values.len() {
        Ok(schema.columns.iter().zip(&row.values))
    } else {
        Err(format!("{} values for {} columns", row.values.len(), schema.columns.len()))
    }
}

fn value(column: &Column, value: &Value) -> Result<Option<String>, String> {
    text::of(value).map_err(|problem| format!("column {:?}: {problem}", column.name))
}

fn insert(schema: &Schema, row: &Row) -> Result<Statement, String> {
    let (mut names, mut values) = (Vec::new(), Vec::new());
    for (column, sent) in columns(schema, row)? {
        names.push(identifier(&column.name));
        values.push(literal_or_null(value(column, sent)?.as_deref()));
    }
    Ok(Statement::one_row(format!("INSERT INTO {} ({}) VALUES ({})", table_name(schema), names.join(", "), values.join(", "))))
}

fn update(schema: &Schema, new: &Row, old: &Row, whole: bool) -> Result<Statement, String> {
    let mut set = Vec::new();
    for (column, sent) in columns(schema, new)? {
        if !matches!(sent.kind, Some(Kind::Unchanged(_))) {
            set.push(format!("{} = {}", identifier(&column.name), literal_or_null(value(column, sent)?.as_deref())));
        }
    }
    let place = place(schema, old, whole)?;
    Ok(Statement::one_row(format!("UPDATE {} SET {} WHERE {place}", table_name(schema), set.join(", "))))
}

/// The row that was: by its key, or by all of it.
fn place(schema: &Schema, old: &Row, whole: bool) -> Result<String, String> {
    let mut conditions = Vec::new();
    for (column, sent) in columns(schema, old)?.filter(|(column, _)| whole || column.key) {
        let name = identifier(&column.name);
        conditions.push(match value(column, sent)? {
            None => format!("{name} IS NULL"),
            Some(text) if whole => format!("{name}::text = ({}::{})::text", literal(&text), type_name(column)),
            Some(text) => format!("{name} = {}", literal(&text)),
        });
    }
    if conditions.is_empty() {
        return Err("there is nothing to find the row by".to_owned());
    }
    let conditions = conditions.join(" AND ");
    // Where all of it is all there is, another row may be the same.
    Ok(if whole { format!("ctid = (SELECT ctid FROM {} WHERE {conditions} LIMIT 1)", table_name(schema)) } else { conditions })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema() -> Schema {
        let column =
            |name: &str, type_name: &str, key| Column { name: name.into(), type_name: type_name.into(), key, ..Column::default() };
        Schema {
            schema: "public".into(),
            table: "t".into(),
            columns: vec![column("k", "int4", true), column("c", "public.mood", false)],
            ..Schema::default()
        }
    }

    fn row(values: Vec<Option<Kind>>) -> Row {
        Row { values: values.into_iter().map(|kind| Value { kind }).collect() }
    }

    #[test]
    fn a_row_is_found_by_its_key_and_unchanged_stays() {
        let new = row(vec![Some(Kind::Integer(2)), Some(Kind::Unchanged(true))]);
        let old = row(vec![Some(Kind::Integer(1)), None]);
        let made = update(&schema(), &new, &old, false).unwrap();
        assert_eq!(made.sql, r#"UPDATE "public"."t" SET "k" = '2' WHERE "k" = '1'"#);
        assert_eq!(made.rows, Some(1));
    }

    #[test]
    fn a_row_without_a_key_is_found_by_all_of_it() {
        let old = row(vec![Some(Kind::Null(true)), Some(Kind::Text("it's".into()))]);
        let found = place(&schema(), &old, true).unwrap();
        assert!(found.contains(r#""k" IS NULL AND "c"::text = ('it''s'::"public"."mood")::text LIMIT 1"#), "{found}");
        assert!(place(&schema(), &row(vec![None, None]), false).is_err(), "a key that was not sent finds nothing");
    }
}
