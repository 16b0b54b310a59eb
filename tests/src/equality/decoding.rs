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

/// What the other decoder has seen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Decoded {
    /// How many transactions, all of which were received in the same way.
    pub(super) transactions: u64,
    /// Whether the server crashed in `test_decoding` behind them. It does, on some transactions; what was decoded before is compared.
    pub(super) crashed: bool,
}

/// Decodes all up to now, and compares.
pub(super) async fn compare(cluster: &Postgres, received: &Received, messages: bool) -> Result<Decoded> {
    let partitioned = "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                       WHERE c.relkind = 'p'";
    let partitioned: BTreeSet<String> = cluster.rows(partitioned).await?.into_iter().map(|row| row.concat()).collect();
    let (text, crashed) = decode(cluster).await?;
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
    if ours.len() != theirs.len() && !(crashed && theirs.len() < ours.len()) {
        let next = theirs.get(ours.len()).map(|(xid, summary)| format!("{xid} with {summary}"));
        bail!("{} transactions came, and {} by test_decoding; the next of which is {next:?}", ours.len(), theirs.len());
    }
    Ok(Decoded { transactions: theirs.len() as u64, crashed })
}

/// What `test_decoding` writes of all up to now, and whether the server crashed in it.
async fn decode(cluster: &Postgres) -> Result<(String, bool)> {
    let end = cluster.flush_lsn().await?;
    let file = cluster.scratch().path().join("test_decoding.txt");
    let mut command = cluster.program("pg_recvlogical");
    command
        .args(["--dbname", "postgres", "--slot", SLOT, "--start", "--no-loop", "--endpos", &end.to_string(), "--file"])
        .arg(&file);
    let ended = program::run(command).await;
    let text = read_file(&file);
    match ended {
        Ok(_) => Ok((text?, false)),
        Err(_) if has_crashed(&cluster.log()) => Ok((whole_transactions(&text?).to_owned(), true)),
        Err(error) => Err(error),
    }
}

/// Whether the server says that it died of a signal of its own while it decoded for [`SLOT`].
fn has_crashed(log: &str) -> bool {
    let mut lines = log.lines();
    lines.by_ref().any(|line| line.contains("was terminated by signal 11"))
        && lines.next().is_some_and(|line| line.contains(&format!("START_REPLICATION SLOT \"{SLOT}\"")))
}

/// What comes up to the end of the last transaction that has one.
fn whole_transactions(text: &str) -> &str {
    let lines = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
    let end = lines.rfind("\nCOMMIT ").and_then(|at| Some(at + 2 + lines[at + 1..].find('\n')?));
    &lines[..end.unwrap_or(0)]
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
    fn a_crash_in_the_other_decoder_leaves_whole_transactions() {
        let log = "LOG:  x\nLOG:  client backend (PID 7) was terminated by signal 11: Segmentation fault\nDETAIL:  Failed process was running: \
                   START_REPLICATION SLOT \"other_decoder\" LOGICAL 0/0\nLOG:  terminating any other active server processes\n";
        assert!(has_crashed(log));
        assert!(!has_crashed(&log.replace("other_decoder", "equality")), "a crash in another decoder is a fault");
        assert!(!has_crashed(&log.replace("signal 11", "signal 9")), "and so is one that the round has made");
        assert_eq!(whole_transactions("BEGIN 7\nCOMMIT 7\nBEGIN 8\nCOMM"), "BEGIN 7\nCOMMIT 7\n");
        assert_eq!(whole_transactions("BEGIN 7\nCOMMIT 7\nBEGIN 8\nCOMMIT "), "BEGIN 7\nCOMMIT 7\n");
        assert_eq!(whole_transactions("BEGIN 7"), "");
    }

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
