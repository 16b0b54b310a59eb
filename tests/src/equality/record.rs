//! What transactions did, in few words: how many changes of which kind to which table, one after the other.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use beyond_cdc_client::{Change, Operation};

use super::sql::plain_identifier;

/// The changes of one transaction, in their order; equal ones in a row are counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Summary {
    runs: Vec<(String, u64)>,
}

impl Summary {
    /// One more change.
    pub(super) fn push(&mut self, what: String) {
        match self.runs.last_mut() {
            Some((last, count)) if *last == what => *count += 1,
            _ => self.runs.push((what, 1)),
        }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// How many changes there are.
    pub(super) fn changes(&self) -> u64 {
        self.runs.iter().map(|(_, count)| count).sum()
    }

    /// The changes that have this in them are left out.
    pub(super) fn without(self, word: &str) -> Self {
        let mut rest = Self::default();
        for (what, count) in self.runs.into_iter().filter(|(what, _)| !what.contains(word)) {
            match rest.runs.last_mut() {
                Some((last, before)) if *last == what => *before += count,
                _ => rest.runs.push((what, count)),
            }
        }
        rest
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: String = self.runs.iter().take(40).fold(String::new(), |mut shown, (what, count)| {
            write!(shown, "[{count} {what}] ").unwrap_or_default();
            shown
        });
        write!(f, "{}{}", shown.trim_end(), if self.runs.len() > 40 { " …" } else { "" })
    }
}

/// What a change is called here: the same whichever decoder it comes from.
pub(super) fn name_of(change: &Change) -> String {
    let tables = || {
        let names: Vec<String> = change
            .tables()
            .iter()
            .map(|schema| format!("{}.{}", plain_identifier(&schema.schema), plain_identifier(&schema.table)))
            .collect();
        names.join(", ")
    };
    match change.operation() {
        Operation::Delete => format!("DELETE {}", tables()),
        Operation::Insert => format!("INSERT {}", tables()),
        Operation::Message => message_name(change.message().map_or("", |message| message.prefix.as_str())),
        Operation::Truncate => format!("TRUNCATE {}", tables()),
        Operation::Unspecified => "unknown".to_owned(),
        Operation::Update => format!("UPDATE {}", tables()),
    }
}

pub(super) fn message_name(prefix: &str) -> String {
    format!("MESSAGE {prefix}")
}

/// All transactions that a subscriber was given, by their commits' positions.
#[derive(Debug, Clone, Default)]
pub(super) struct Received {
    pub(super) transactions: BTreeMap<u64, (u32, Summary)>,
}

impl Received {
    /// Takes a transaction: one that came before has to be the same.
    pub(super) fn take(&mut self, commit_lsn: u64, xid: u32, summary: Summary) -> Result<(), String> {
        match self.transactions.get(&commit_lsn) {
            None => {
                if xid != 0
                    && let Some((at, _)) = self.transactions.iter().rev().find(|(_, (known, _))| *known == xid)
                {
                    return Err(format!("transaction {xid} came at {at:X} and again at {commit_lsn:X}"));
                }
                self.transactions.insert(commit_lsn, (xid, summary));
                Ok(())
            }
            Some((known, before)) if *known == xid && *before == summary => Ok(()),
            Some((known, before)) => Err(format!(
                "at {commit_lsn:X} there was transaction {known} with {before}, and when it came again it was transaction {xid} with {summary}"
            )),
        }
    }

    pub(super) fn changes(&self) -> u64 {
        self.transactions.values().map(|(_, summary)| summary.changes()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(of: &[&str]) -> Summary {
        let mut summary = Summary::default();
        of.iter().for_each(|what| summary.push((*what).to_owned()));
        summary
    }

    #[test]
    fn equal_changes_in_a_row_are_counted() {
        let made = summary(&["a", "a", "b", "a"]);
        assert_eq!((made.to_string().as_str(), made.changes()), ("[2 a] [1 b] [1 a]", 4));
        assert_eq!(made.without("b"), summary(&["a", "a", "a"]));
    }

    #[test]
    fn a_transaction_may_come_again_if_it_is_the_same() {
        let mut received = Received::default();
        received.take(16, 7, summary(&["a"])).unwrap();
        received.take(16, 7, summary(&["a"])).unwrap();
        assert!(received.take(16, 7, summary(&["b"])).unwrap_err().contains("came again"));
        assert!(received.take(17, 7, summary(&["a"])).unwrap_err().contains("and again"), "one xid, two commits");
    }
}
