//! Tables of the second database, from the definitions that travel. Pure.

use beyond_cdc_client::proto::v1::{Column, ReplicaIdentity, Schema};

use super::apply::{table_name, type_name};
use super::sql::{identifier, literal};
use super::tables::stem;

/// A query for the types of all columns, as SQL declares a column of them, in one row.
pub(super) fn types_query(schema: &Schema) -> String {
    let types: Vec<String> = schema
        .columns
        .iter()
        .map(|column| format!("format_type({}::regtype, {})", literal(&type_name(column)), column.type_modifier))
        .collect();
    format!("SELECT {}", types.join(", "))
}

/// What makes a table of the definition: anew where it is not known (any other of that name is gone then), else out of what it was. `types`
/// are what [`types_query`] gave.
pub(super) fn statements(old: Option<&Schema>, new: &Schema, types: &[String]) -> Vec<String> {
    let table = table_name(new);
    let mut made = match old {
        None => {
            let columns: Vec<String> =
                new.columns.iter().zip(types).map(|(column, made)| format!("{} {made}", identifier(&column.name))).collect();
            vec![
                format!("CREATE SCHEMA IF NOT EXISTS {}", identifier(&new.schema)),
                format!("DROP TABLE IF EXISTS {table}"),
                format!("CREATE TABLE {table} ({})", columns.join(", ")),
            ]
        }
        Some(old) => changes(old, new, types),
    };
    made.extend(index(new));
    made
}

/// Dropped first, so that a name may be given again.
fn changes(old: &Schema, new: &Schema, types: &[String]) -> Vec<String> {
    let table = table_name(new);
    let mut made = Vec::new();
    for column in old.columns.iter().filter(|column| find(new, column).is_none()) {
        made.push(format!("ALTER TABLE {table} DROP COLUMN {}", identifier(&column.name)));
    }
    for (column, type_sql) in new.columns.iter().zip(types) {
        let name = identifier(&column.name);
        let Some(before) = find(old, column) else {
            made.push(format!("ALTER TABLE {table} ADD COLUMN {name} {type_sql}"));
            continue;
        };
        if before.name != column.name {
            made.push(format!("ALTER TABLE {table} RENAME COLUMN {} TO {name}", identifier(&before.name)));
        }
        if (&before.type_name, before.type_modifier) != (&column.type_name, column.type_modifier) {
            made.push(format!("ALTER TABLE {table} ALTER COLUMN {name} TYPE {type_sql}"));
        }
    }
    made
}

/// The same column, whatever it is called by now.
fn find<'a>(schema: &'a Schema, column: &Column) -> Option<&'a Column> {
    schema.columns.iter().find(|other| stem(&other.name) == stem(&column.name))
}

/// So that rows are found quickly by their key.
fn index(schema: &Schema) -> Option<String> {
    let keys: Vec<&Column> = schema.columns.iter().filter(|column| column.key).collect();
    if keys.is_empty() || schema.replica_identity() == ReplicaIdentity::Full {
        return None;
    }
    let stems: Vec<&str> = keys.iter().map(|column| stem(&column.name)).collect();
    let names: Vec<String> = keys.iter().map(|column| identifier(&column.name)).collect();
    let index = identifier(&format!("{} {} {}", schema.table, schema.oid, stems.join(" ")));
    Some(format!("CREATE INDEX IF NOT EXISTS {index} ON {} ({})", table_name(schema), names.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(columns: &[(&str, &str)]) -> Schema {
        let column = |(name, type_name): &(&str, &str)| Column {
            name: (*name).into(),
            type_name: (*type_name).into(),
            type_modifier: -1,
            ..Column::default()
        };
        Schema { schema: "s".into(), table: "t".into(), columns: columns.iter().map(column).collect(), ..Schema::default() }
    }

    #[test]
    fn a_rename_is_told_from_a_drop() {
        let old = schema(&[("k0_0", "int4"), ("c1_0", "int4"), ("c2_0", "int4")]);
        let new = schema(&[("k0_0", "int8"), ("c2_x", "int4"), ("c3_0", "text")]);
        let types = ["bigint", "integer", "text"].map(str::to_owned);
        assert_eq!(
            statements(Some(&old), &new, &types),
            [
                r#"ALTER TABLE "s"."t" DROP COLUMN "c1_0""#,
                r#"ALTER TABLE "s"."t" ALTER COLUMN "k0_0" TYPE bigint"#,
                r#"ALTER TABLE "s"."t" RENAME COLUMN "c2_0" TO "c2_x""#,
                r#"ALTER TABLE "s"."t" ADD COLUMN "c3_0" text"#,
            ]
        );
    }

    #[test]
    fn types_are_asked_for_by_their_schema() {
        let asked = types_query(&schema(&[("a", "char"), ("b", "public._mood")]));
        assert_eq!(
            asked,
            r#"SELECT format_type('"pg_catalog"."char"'::regtype, -1), format_type('"public"."_mood"'::regtype, -1)"#
        );
    }
}
