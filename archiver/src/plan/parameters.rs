//! What the server must be configured with to get through recovery: at least what the one that wrote the WAL had.
//!
//! Postgres compares with `pg_control` at the start, and with each record of a change that it replays; where it has less, a hot standby
//! pauses for good, and before that recovery ends with an error (`CheckRequiredParameterValues` in xlogrecovery.c, 15 to 18).

use walbus::Lsn;
use walbus::proto::wal::{Parameters, Record, WalEvent};

/// A change of settings on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParameterChange {
    /// Where its record starts.
    pub lsn: Lsn,
    /// The settings from there on.
    pub parameters: Parameters,
    /// Whether `wal_level` is `minimal` from there on.
    pub is_minimal: bool,
}

/// A setting of which recovery needs more than there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lack {
    /// Its name.
    pub name: &'static str,
    /// What recovery needs.
    pub needed: u32,
    /// What is configured; `None` where nothing is, or what is no number.
    pub configured: Option<u32>,
}

impl ParameterChange {
    /// What a record says.
    #[must_use]
    pub fn of(record: &Record) -> Option<Self> {
        match record.event {
            Some(WalEvent::ParameterChange { parameters, is_minimal }) => Some(Self { lsn: record.lsn, parameters, is_minimal }),
            _ => None,
        }
    }
}

/// What a server has without any configuration, 15 to 18.
const DEFAULTS: Parameters = Parameters {
    max_connections: 100,
    max_locks_per_transaction: 64,
    max_prepared_transactions: 0,
    max_wal_senders: 10,
    max_worker_processes: 8,
};

/// The settings of which less is configured than recovery needs that goes through these changes, from a folder whose `pg_control` says
/// `held`. `configured` gives a setting's value as it stands in the configuration.
pub fn lacking<'a>(held: Parameters, changes: &[ParameterChange], configured: impl Fn(&str) -> Option<&'a str>) -> Vec<Lack> {
    let needed = changes.iter().fold(held, |needed, change| needed.greatest(change.parameters));
    let pairs = needed.named().into_iter().zip(DEFAULTS.named());
    pairs
        .filter_map(|((name, needed), (_, default))| {
            let value = configured(name);
            let configured = value.and_then(number);
            // What can't be read is taken for too little: the needed value is right in any case.
            let has = if value.is_some() { configured.unwrap_or(0) } else { default };
            (has < needed).then_some(Lack { name, needed, configured })
        })
        .collect()
}

/// A whole number as Postgres takes it (`parse_int`): decimal, octal or hexadecimal.
fn number(value: &str) -> Option<u32> {
    let value = value.trim();
    if let Some(digits) = value.strip_prefix("0x").or_else(|| value.strip_prefix("0X")) {
        return u32::from_str_radix(digits, 16).ok();
    }
    match value.strip_prefix('0').filter(|digits| !digits.is_empty()) {
        Some(digits) => u32::from_str_radix(digits, 8).ok(),
        None => value.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(lsn: u64, max_connections: u32, max_worker_processes: u32) -> ParameterChange {
        let parameters = Parameters { max_connections, max_worker_processes, ..DEFAULTS };
        ParameterChange { lsn: Lsn(lsn), parameters, is_minimal: false }
    }

    fn names(lacks: &[Lack]) -> Vec<(&'static str, u32, Option<u32>)> {
        lacks.iter().map(|lack| (lack.name, lack.needed, lack.configured)).collect()
    }

    #[test]
    fn the_greatest_on_the_way_counts() {
        let changes = [change(1, 200, 8), change(2, 150, 9)];
        let unset = |_: &str| None;
        assert_eq!(lacking(DEFAULTS, &[], unset), []);
        let expected = [("max_connections", 200, None), ("max_worker_processes", 9, None)];
        assert_eq!(names(&lacking(DEFAULTS, &changes, unset)), expected);
        let held = Parameters { max_connections: 300, max_prepared_transactions: 5, ..DEFAULTS };
        let lacks = lacking(held, &changes, unset);
        assert_eq!((lacks.len(), lacks[0].needed, lacks[1].name), (3, 300, "max_prepared_transactions"));
    }

    #[test]
    fn what_is_configured_is_enough_where_it_is_as_much() {
        let changes = [change(1, 200, 8)];
        let with = |value: &'static str| lacking(DEFAULTS, &changes, |name| (name == "max_connections").then_some(value));
        for enough in ["200", "201", "0xC8", "0310", " 200 "] {
            assert_eq!(with(enough), [], "{enough}");
        }
        assert_eq!(names(&with("199")), [("max_connections", 200, Some(199))]);
        assert_eq!(names(&with("many")), [("max_connections", 200, None)]);
        // Less than the default is less than a server that had the default.
        assert_eq!(
            names(&lacking(DEFAULTS, &[], |name| (name == "max_wal_senders").then_some("2"))),
            [("max_wal_senders", 10, Some(2))]
        );
    }
}
