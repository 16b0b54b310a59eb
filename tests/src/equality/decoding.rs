//! The same WAL by another decoder: `test_decoding`, read by `pg_recvlogical`.
//!
//! What is compared: which transactions there are, in the order of their commits, and in each the kind of each change and its table, or
//! its tables where several were truncated together, in order; messages by their prefix; messages outside of transactions with what
//! is around them. What is not: values (that is what the second database is for), and partitioned tables in a TRUNCATE, which
//! `pgoutput` leaves out and which hold no rows themselves.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::record::{Received, Summary, message_name};
use crate::postgres::Postgres;
use crate::program;

/// The slot of the other decoder.
pub(super) const SLOT: &str = "other_decoder";

/// Makes the slot: it decodes what comes from then on.
pub(super) async fn make_slot(cluster: &Postgres) -> Result<()> {
    cluster.value(&format!("SELECT pg_create_logical_replication_slot('{SLOT}', 'test_decoding')")).await.map(drop)
}

/// Decodes all up to now, and compares; gives how many transactions there were.
pub(super) async fn compare(cluster: &Postgres, received: &Received, messages: bool) -> Result<u64> {
    let text = decode(cluster).await?;
    let partitioned = "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                       WHERE c.relkind = 'p'";
    let partitioned: BTreeSet<String> = cluster.rows(partitioned).await?.into_iter().map(|row| row.concat()).collect();
    let theirs = read(&text, &partitioned)?;
    let mut theirs: Vec<(u32, Summary)> =
        theirs.into_iter().map(|(xid, summary)| (xid, if messages { summary } else { summary.without("MESSAGE") })).collect();
    theirs.retain(|(_, summary)| !summary.is_empty());
    let ours: Vec<&(u32, Summary)> = received.transactions.values().collect();
    for (number, pair) in ours.iter().zip(&theirs).enumerate() {
        let ((our_xid, our), (their_xid, their)) = pair;
        if our_xid != their_xid || our != their {
            bail!("transaction {number} is {our_xid} with {our}, and by test_decoding {their_xid} with {their}");
        }
    }
    if ours.len() != theirs.len() {
        let next = theirs.get(ours.len()).map(|(xid, summary)| format!("{xid} with {summary}"));
        bail!("{} transactions came, and {} by test_decoding; the next of which is {next:?}", ours.len(), theirs.len());
    }
    Ok(theirs.len() as u64)
}

async fn decode(cluster: &Postgres) -> Result<String> {
    let end = cluster.flush_lsn().await?;
    let file = cluster.scratch().path().join("test_decoding.txt");
    let mut command = cluster.program("pg_recvlogical");
    command
        .args(["--dbname", "postgres", "--slot", SLOT, "--start", "--no-loop", "--endpos", &end.to_string(), "--file"])
        .arg(&file);
    program::run(command).await?;
    read_file(&file)
}

fn read_file(file: &Path) -> Result<String> {
    let bytes = std::fs::read(file).with_context(|| format!("read {}", file.display()))?;
    String::from_utf8(bytes).context("what test_decoding wrote is no UTF-8")
}

/// The transactions in what `test_decoding` wrote, in order; a message outside of them is one of its own, without a number.
fn read(text: &str, partitioned: &BTreeSet<String>) -> Result<Vec<(u32, Summary)>> {
    let mut transactions = Vec::new();
    let mut open: Option<(u32, Summary)> = None;
    for line in lines(text) {
        if let Some(xid) = line.strip_prefix("BEGIN ") {
            open = Some((xid.parse().with_context(|| line.to_owned())?, Summary::default()));
        } else if line.starts_with("COMMIT ") {
            transactions.push(open.take().context("a COMMIT without a BEGIN")?);
        } else if let Some(rest) = line.strip_prefix("message: transactional: 0 prefix: ") {
            let mut summary = Summary::default();
            summary.push(message_name(prefix(rest)));
            transactions.push((0, summary));
        } else {
            let (_, summary) = open.as_mut().with_context(|| format!("outside of a transaction: {line}"))?;
            if let Some(name) = name_of(line, partitioned)? {
                summary.push(name);
            }
        }
    }
    Ok(transactions)
}

fn prefix(rest: &str) -> &str {
    rest.split(", sz: ").next().unwrap_or_default()
}

/// What a line's change is called; `None` where nothing is left of it.
fn name_of(line: &str, partitioned: &BTreeSet<String>) -> Result<Option<String>> {
    if let Some(rest) = line.strip_prefix("message: transactional: 1 prefix: ") {
        return Ok(Some(message_name(prefix(rest))));
    }
    let rest = line.strip_prefix("table ").with_context(|| format!("not understood: {line}"))?;
    let (tables, rest) = rest.split_once(": ").with_context(|| format!("no kind: {line}"))?;
    let kind = rest.split(':').next().unwrap_or_default();
    if kind != "TRUNCATE" {
        return Ok(Some(format!("{kind} {tables}")));
    }
    let tables: Vec<&str> = tables.split(", ").filter(|table| !partitioned.contains(*table)).collect();
    Ok((!tables.is_empty()).then(|| format!("TRUNCATE {}", tables.join(", "))))
}

/// The lines, each with all that is in its quotes, line ends as well.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let mut quoted = false;
        let end = rest.bytes().position(|byte| {
            quoted ^= byte == b'\'';
            byte == b'\n' && !quoted
        });
        let (line, after) = match end {
            Some(end) => (&rest[..end], &rest[end + 1..]),
            None if rest.is_empty() => return None,
            None => (rest, ""),
        };
        rest = after;
        Some(line)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_test_decoding_writes_is_read() {
        let text = "BEGIN 7\ntable public.t: INSERT: a[text]:'it''s\nCOMMIT 7\n' b[integer]:1\ntable public.\"T\": DELETE: (no-tuple-data)\n\
                    table public.t, public.p: TRUNCATE: (no-flags)\nmessage: transactional: 1 prefix: said, sz: 2 content:12\nCOMMIT 7\n\
                    message: transactional: 0 prefix: aside, sz: 1 content:3\nBEGIN 8\nCOMMIT 8\n";
        let partitioned = BTreeSet::from(["public.p".to_owned()]);
        let read = read(text, &partitioned).unwrap();
        let shown: Vec<String> = read.iter().map(|(xid, summary)| format!("{xid} {summary}")).collect();
        assert_eq!(
            shown,
            ["7 [1 INSERT public.t] [1 DELETE public.\"T\"] [1 TRUNCATE public.t] [1 MESSAGE said]", "0 [1 MESSAGE aside]", "8 "]
        );
    }
}
