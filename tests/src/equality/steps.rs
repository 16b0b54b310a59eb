//! Single steps of transactions, as SQL.

use std::fmt::Write as _;

use walbus::sim::Random;

use super::sql::{copy_field, literal, literal_or_null};
use super::tables::{Column, Table, any_column, renamed};
use super::types::{ColumnType, noise, pick};

/// What a type becomes when it is changed. Nothing is lost on any way through these, so that it makes no difference how many steps are taken.
const TYPE_CHANGES: &[(&str, &str)] = &[
    ("smallint", "integer"),
    ("integer", "bigint"),
    ("bigint", "numeric"),
    ("character varying(40)", "text"),
    ("numeric(12,3)", "numeric"),
    ("numeric", "text"),
    ("date", "timestamp without time zone"),
    ("json", "jsonb"),
    ("mood", "text"),
    ("uuid", "text"),
];

/// How wide the range of keys is: one that makes conflicts, and one that makes none.
fn key_range(random: &mut Random) -> u64 {
    if random.chance(1, 4) { 40 } else { 2_000_000_000 }
}

/// One key's value.
fn key_value(random: &mut Random, column: &Column) -> String {
    let range = key_range(random);
    match column.type_name.as_str() {
        "uuid" => {
            let digits = noise(random, 32);
            format!("{}-{}-{}-{}-{}", &digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..32])
        }
        "text" => format!("schlüssel {}", random.below(range)),
        _ => random.below(range).to_string(),
    }
}

/// An expression that gives each row another key.
fn key_expression(random: &mut Random, column: &Column) -> String {
    match column.type_name.as_str() {
        "uuid" => "md5(random()::text)::uuid".to_owned(),
        "text" => "md5(random()::text)".to_owned(),
        name => format!("floor(random() * {})::{name}", key_range(random)),
    }
}

/// Some row of the parent that a child may have.
const PARENT: &str = "(SELECT k0_0 FROM parent ORDER BY random() LIMIT 1)";

fn value(random: &mut Random, column: &Column) -> Option<String> {
    if column.key {
        return Some(key_value(random, column));
    }
    match ColumnType::named(&column.type_name) {
        Some(known) => known.value(random),
        None => None,
    }
}

fn expression(random: &mut Random, column: &Column) -> String {
    if column.name == "p_parent" { PARENT.to_owned() } else { literal_or_null(value(random, column).as_deref()) }
}

fn names(columns: &[Column]) -> String {
    columns.iter().map(Column::quoted).collect::<Vec<_>>().join(", ")
}

/// Rows, and what happens where one of their keys is there already.
pub(super) fn insert(random: &mut Random, table: &Table, columns: &[Column]) -> String {
    let count = 1 + random.below(4);
    let rows: Vec<String> = (0..count)
        .map(|_| {
            let values: Vec<String> = columns.iter().map(|column| expression(random, column)).collect();
            format!("({})", values.join(", "))
        })
        .collect();
    // A row may be updated once in a statement: only one goes in where it may be an update.
    let update = if count == 1 && random.chance(1, 2) { upsert(columns) } else { None };
    let conflict = update.unwrap_or_else(|| "DO NOTHING".to_owned());
    format!("INSERT INTO {} ({}) VALUES {} ON CONFLICT {conflict}", table.name, names(columns), rows.join(", "))
}

/// Where there is one key of one column, and something beside it.
fn upsert(columns: &[Column]) -> Option<String> {
    let mut keys = columns.iter().filter(|column| column.key);
    let (key, None) = (keys.next()?, keys.next()) else { return None };
    let others: Vec<String> =
        columns.iter().filter(|column| !column.key).map(|column| format!("{0} = excluded.{0}", column.quoted())).collect();
    (!others.is_empty()).then(|| format!("({}) DO UPDATE SET {}", key.quoted(), others.join(", ")))
}

/// Some of the rows. By place and partition, so that a table without a key will do.
fn some_rows(table: &Table, most: u64) -> String {
    format!("(tableoid, ctid) IN (SELECT tableoid, ctid FROM {} ORDER BY random() LIMIT {most})", table.name)
}

/// An update of some rows: of a few columns, so that what is TOASTed in others stays; now and then of the key.
pub(super) fn update(random: &mut Random, table: &Table, columns: &[Column]) -> String {
    let mut set = Vec::new();
    for column in columns {
        let wanted = if column.key { random.chance(1, 6) } else { random.chance(2, 2 + columns.len() as u64) };
        if wanted {
            let value = if column.key { key_expression(random, column) } else { expression(random, column) };
            set.push(format!("{} = {value}", column.quoted()));
        }
    }
    if let ([], Some(column)) = (set.as_slice(), columns.last()) {
        // Nothing but another version of the row.
        set.push(format!("{0} = {0}", column.quoted()));
    }
    let most = 1 + random.below(4);
    format!("UPDATE {} SET {} WHERE {}", table.name, set.join(", "), some_rows(table, most))
}

pub(super) fn delete(random: &mut Random, table: &Table) -> String {
    let most = 1 + random.below(4);
    format!("DELETE FROM {} WHERE {}", table.name, some_rows(table, most))
}

/// So many rows, all at once or changed or gone.
pub(super) fn many(random: &mut Random, table: &Table, columns: &[Column], rows: u64) -> String {
    match random.below(6) {
        0 => format!("DELETE FROM {} WHERE {}", table.name, some_rows(table, rows)),
        1 => {
            let set = columns.iter().filter(|column| !column.key).map(|column| {
                let value = literal_or_null(value(random, column).as_deref());
                format!("{} = {value}", column.quoted())
            });
            let set: Vec<String> = set.collect();
            if set.is_empty() {
                return format!("DELETE FROM {} WHERE {}", table.name, some_rows(table, rows / 2));
            }
            format!("UPDATE {} SET {} WHERE {}", table.name, set.join(", "), some_rows(table, rows))
        }
        _ => {
            let values: Vec<String> = columns
                .iter()
                .map(|column| match column.type_name.as_str() {
                    _ if column.key => key_expression(random, column),
                    "text" => "md5(random()::text)".to_owned(),
                    name => format!("{}::{name}", literal_or_null(short(random, column).as_deref())),
                })
                .collect();
            format!(
                "INSERT INTO {} ({}) SELECT {} FROM generate_series(1, {rows}) ON CONFLICT DO NOTHING",
                table.name,
                names(columns),
                values.join(", ")
            )
        }
    }
}

/// A value that may stand in thousands of rows.
fn short(random: &mut Random, column: &Column) -> Option<String> {
    value(random, column).filter(|value| value.len() < 100)
}

/// A COPY and its data: written to pages several rows at a time, so that many changes are at one place of the WAL.
pub(super) fn copy(random: &mut Random, table: &Table, columns: &[Column]) -> (String, String) {
    let mut data = String::new();
    for _ in 0..2 + random.below(60) {
        let fields: Vec<String> = columns
            .iter()
            .map(|column| copy_field(if column.name == "p_parent" { None } else { value(random, column) }.as_deref()))
            .collect();
        writeln!(data, "{}", fields.join("\t")).unwrap_or_default();
    }
    (format!("COPY {} ({}) FROM STDIN", table.name, names(columns)), data)
}

/// Rows that a subtransaction writes and takes back, without a savepoint's name.
pub(super) fn taken_back(random: &mut Random, table: &Table, columns: &[Column]) -> String {
    format!(
        "DO $taken$ BEGIN {}; RAISE EXCEPTION 'taken back' USING ERRCODE = 'P0002'; EXCEPTION WHEN no_data_found THEN END $taken$",
        insert(random, table, columns)
    )
}

pub(super) fn truncate(random: &mut Random, table: &Table, other: &Table) -> String {
    let identity = if random.chance(1, 2) { " RESTART IDENTITY" } else { "" };
    let cascade = if table.name == "parent" || other.name == "parent" || random.chance(1, 3) { " CASCADE" } else { "" };
    if random.chance(1, 2) || table.name == other.name {
        format!("TRUNCATE {}{identity}{cascade}", table.name)
    } else {
        format!("TRUNCATE {}, {}{identity}{cascade}", table.name, other.name)
    }
}

/// A change of a table's definition.
pub(super) fn ddl(random: &mut Random, table: &Table, columns: &[Column]) -> String {
    let name = table.name;
    let free: Vec<&Column> = columns.iter().filter(|column| !column.key).collect();
    match random.below(12) {
        0..4 => {
            let column = any_column(random);
            let (column_name, type_name) = column.split_once(' ').unwrap_or_default();
            let add = format!("ALTER TABLE {name} ADD COLUMN {column_name} {type_name}");
            // An UPDATE would need an identity, which each table that can be altered has.
            let value = ColumnType::named(type_name).and_then(|known| known.value(random));
            if random.chance(1, 2) {
                format!(
                    "{add}; UPDATE {name} SET {column_name} = {} WHERE {}",
                    literal_or_null(value.as_deref()),
                    some_rows(table, 50)
                )
            } else {
                add
            }
        }
        4..6 if free.len() > 1 => format!("ALTER TABLE {name} DROP COLUMN {}", pick(random, &free).quoted()),
        6..8 if !columns.is_empty() => {
            let column = pick(random, columns);
            let to = renamed(random, &column.name);
            format!("ALTER TABLE {name} RENAME COLUMN {} TO {}", column.quoted(), super::sql::identifier(&to))
        }
        8..10 => type_change(random, name, &free),
        10 => table.create_anew(random),
        // Not of one with a generated column: Postgres 18 takes no identity that does not travel.
        _ if name == "\"Größe\"" || name == "bulk" => {
            let identity = pick(random, &["FULL", "DEFAULT"]);
            format!("ALTER TABLE {name} REPLICA IDENTITY {identity}")
        }
        _ => type_change(random, name, &free),
    }
}

fn type_change(random: &mut Random, name: &str, free: &[&Column]) -> String {
    let possible: Vec<_> = free
        .iter()
        .filter_map(|column| TYPE_CHANGES.iter().find(|(from, _)| *from == column.type_name).map(|(_, to)| (column, to)))
        .collect();
    if possible.is_empty() {
        return format!("ALTER TABLE {name} ADD COLUMN {}", any_column(random));
    }
    let (column, to) = pick(random, &possible);
    format!("ALTER TABLE {name} ALTER COLUMN {} TYPE {to}", column.quoted())
}

/// A message that is part of its transaction: who sees it must see row `n` of `said` as well, and the other way round.
pub(super) fn say(random: &mut Random, n: u64) -> String {
    let content = if random.chance(1, 10) { format!("{n}:{}", noise(random, 9000)) } else { n.to_string() };
    let (message, row) = (message(true, "said", &content), format!("INSERT INTO said VALUES ({n})"));
    if random.chance(1, 2) { format!("{message}; {row}") } else { format!("{row}; {message}") }
}

/// A message that is seen whatever becomes of the transaction.
pub(super) fn aside(n: u64) -> String {
    message(false, "aside", &n.to_string())
}

fn message(transactional: bool, prefix: &str, content: &str) -> String {
    format!("SELECT pg_logical_emit_message({transactional}, {}, {})", literal(prefix), literal(content))
}
