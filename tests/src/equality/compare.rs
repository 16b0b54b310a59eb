//! Whether two databases hold the same.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail, ensure};
use tokio_postgres::{Client, NoTls};

use super::sql::{identifier, literal};
use super::stats::Asides;
use crate::postgres::rows;

/// What was compared, all of it being equal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Compared {
    /// Tables.
    pub tables: u64,
    /// Rows in them.
    pub rows: u64,
}

/// All tables that hold rows themselves, and those that are only made of others.
const TABLES: &str = "SELECT format('%I.%I', n.nspname, c.relname), c.relkind::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                      WHERE c.relkind IN ('r', 'p') AND n.nspname IN ('public', 'other') ORDER BY 1";

/// Compares all tables of a database with those of the other, row by row, as text and in order.
///
/// # Errors
/// Where they differ: names the table and the first row.
pub(super) async fn compare(source: &Client, mirror: &Client) -> Result<Compared> {
    let (ours, theirs) = (rows(source, TABLES).await?, rows(mirror, TABLES).await?);
    let known: BTreeSet<&str> = ours.iter().filter_map(|row| row.first()).map(String::as_str).collect();
    for table in theirs.iter().filter_map(|row| row.first()) {
        ensure!(known.contains(table.as_str()), "{table} is in the mirror and not in the source");
    }
    let mut compared = Compared::default();
    for row in &ours {
        let [table, kind] = row.as_slice() else { bail!("a table has a name and a kind: {row:?}") };
        if kind == "r" {
            compared.rows += compare_table(source, mirror, table).await.with_context(|| format!("table {table}"))?;
            compared.tables += 1;
        }
    }
    Ok(compared)
}

async fn compare_table(source: &Client, mirror: &Client, table: &str) -> Result<u64> {
    // A domain travels as the type below it.
    let columns = format!(
        "SELECT a.attname, CASE t.typtype WHEN 'd' THEN format_type(t.typbasetype, t.typtypmod) ELSE format_type(a.atttypid, a.atttypmod) END \
         FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid \
         WHERE a.attrelid = {}::regclass AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' ORDER BY a.attnum",
        literal(table)
    );
    let exists = format!("SELECT to_regclass({}) IS NOT NULL", literal(table));
    if rows(mirror, &exists).await? == [["f"]] {
        let first = rows(source, &format!("SELECT * FROM {table} LIMIT 1")).await?;
        // A table of which no change has come yet.
        ensure!(first.is_empty(), "it is not in the mirror");
        return Ok(0);
    }
    let (ours, theirs) = (rows(source, &columns).await?, rows(mirror, &columns).await?);
    ensure!(ours == theirs, "the columns are {theirs:?} in the mirror, in the source {ours:?}");
    let names: Vec<String> = ours.iter().filter_map(|row| row.first()).map(|name| format!("{}::text", identifier(name))).collect();
    // COLLATE "C": ordered by bytes, in both.
    let content = format!("SELECT ROW({})::text COLLATE \"C\" FROM {table} ORDER BY 1", names.join(", "));
    let (ours, theirs) = (rows(source, &content).await?, rows(mirror, &content).await?);
    if ours == theirs {
        return Ok(ours.len() as u64);
    }
    let (only_ours, only_theirs) = (first_missing(&ours, &theirs), first_missing(&theirs, &ours));
    bail!(
        "{} rows in the mirror, {} in the source; first one only in the source: {only_ours:?}; first one only in the mirror: {only_theirs:?}",
        theirs.len(),
        ours.len()
    )
}

/// The first of `of` that is not in `there` as often; both are in order.
fn first_missing(of: &[Vec<String>], there: &[Vec<String>]) -> Option<String> {
    let mut there = there.iter().peekable();
    for row in of {
        while there.peek().is_some_and(|other| *other < row) {
            there.next();
        }
        if there.peek() == Some(&row) {
            there.next();
        } else {
            return Some(row.concat().chars().take(1000).collect());
        }
    }
    None
}

/// Compares what was said with what was heard. Of what was said in transactions, each exactly once; of the rest, what is certain, and nothing
/// twice.
pub(super) async fn compare_messages(source: &Client, mirror: &Client, asides: &Asides) -> Result<u64> {
    let said = rows(source, "SELECT n FROM said ORDER BY n").await?;
    let heard = |prefix: &str| format!("SELECT n FROM subscriber.heard WHERE prefix = '{prefix}' ORDER BY n");
    let heard_said = rows(mirror, &heard("said")).await?;
    if said != heard_said {
        let (unheard, unsaid) = (first_missing(&said, &heard_said), first_missing(&heard_said, &said));
        bail!(
            "{} messages said, {} heard; first unheard: {unheard:?}; first that was rolled back, or came twice: {unsaid:?}",
            said.len(),
            heard_said.len()
        );
    }
    let mut heard_asides = BTreeSet::new();
    for row in rows(mirror, &heard("aside")).await? {
        let n: u64 = row.concat().parse()?;
        ensure!(heard_asides.insert(n), "message {n} outside of transactions came twice");
        ensure!(asides.possible.contains(&n), "message {n} was never written");
    }
    if let Some(missing) = asides.certain.difference(&heard_asides).next() {
        bail!("message {missing} outside of transactions did not come, of {}", asides.certain.len());
    }
    Ok((said.len() + heard_asides.len()) as u64)
}

/// A session that shows values as the other one does.
pub(super) async fn connect(config: &tokio_postgres::Config) -> Result<Client> {
    let (client, connection) = config.connect(NoTls).await.context("connect to compare")?;
    tokio::spawn(async move { drop(connection.await) });
    Ok(client)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_is_missing_is_found() {
        let list = |of: &[&str]| -> Vec<Vec<String>> { of.iter().map(|text| vec![(*text).to_owned()]).collect() };
        let (a, b) = (list(&["a", "b", "b", "d"]), list(&["a", "b", "c", "d"]));
        assert_eq!(first_missing(&a, &b).as_deref(), Some("b"), "one of two that are equal");
        assert_eq!(first_missing(&b, &a).as_deref(), Some("c"));
        assert_eq!(first_missing(&a, &a), None);
    }
}
