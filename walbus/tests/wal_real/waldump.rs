//! What `pg_waldump` prints, as far as it can be compared.

use walbus::PgTime;
use walbus::proto::wal::{Record, WalEvent, rmgr_name};

/// A line of `pg_waldump`, with all that is compared: manager, length, transaction, position, the one before, what it says.
pub(crate) fn lines(printed: &str) -> Vec<String> {
    printed.lines().filter_map(line).collect()
}

/// `rmgr: Heap  len (rec/tot):  54/  150, tx:  735, lsn: 0/01525D40, prev 0/01525D08, desc: INSERT off 3, blkref #0: ...`
fn line(printed: &str) -> Option<String> {
    let (rmgr, rest) = printed.strip_prefix("rmgr: ")?.split_once("len (rec/tot):")?;
    let (_, rest) = rest.split_once('/')?;
    let (total, rest) = rest.split_once(", tx:")?;
    let (xid, rest) = rest.split_once(", lsn: ")?;
    let (lsn, rest) = rest.split_once(", prev ")?;
    let (prev, desc) = rest.split_once(", desc: ")?;
    let lsn: walbus::Lsn = lsn.parse().unwrap();
    let prev: walbus::Lsn = prev.parse().unwrap();
    let said = said(rmgr.trim(), desc);
    Some(format!("{} {} tx {} {lsn} prev {prev} {said}", rmgr.trim(), total.trim(), xid.trim()))
}

/// What a record says, in one form for both sides.
fn said(rmgr: &str, desc: &str) -> String {
    let (operation, rest) = desc.split_once(' ').unwrap_or((desc, ""));
    let until = |text: &str, end: &str| text.split(end).next().unwrap().trim().to_owned();
    match (rmgr, operation) {
        ("Transaction", "COMMIT" | "ABORT") => format!("{operation} {}", until(rest, " UTC")),
        ("Transaction", "COMMIT_PREPARED" | "ABORT_PREPARED") => {
            let (xid, time) = rest.split_once(": ").unwrap();
            format!("{operation} {xid} {}", until(time, " UTC"))
        }
        ("XLOG", "BACKUP_END" | "RESTORE_POINT" | "SWITCH" | "OVERWRITE_CONTRECORD" | "CHECKPOINT_REDO") => {
            let rest = rest.strip_prefix("lsn ").map_or_else(|| rest.to_owned(), |rest| until(rest, ";"));
            let rest = if operation == "CHECKPOINT_REDO" { String::new() } else { rest };
            format!("{operation} {}", rest.parse::<walbus::Lsn>().map_or(rest, |lsn| lsn.to_string())).trim_end().to_owned()
        }
        ("XLOG", "CHECKPOINT_ONLINE" | "CHECKPOINT_SHUTDOWN") => {
            let redo: walbus::Lsn = until(rest.strip_prefix("redo ").unwrap(), ";").parse().unwrap();
            let field = |name: &str| until(rest.split_once(name).unwrap().1, ";");
            match operation {
                "CHECKPOINT_ONLINE" => format!("{operation} {redo} tli {}", field("; tli ")),
                _ => format!("{operation} {redo} tli {} prev {}", field("; tli "), field("; prev tli ")),
            }
        }
        ("XLOG", "END_OF_RECOVERY") => {
            let field = |name: &str| until(rest.split_once(name).unwrap().1, ";");
            format!("{operation} tli {} prev {} {}", field("tli "), field("prev tli "), until(&field("time "), " UTC"))
        }
        ("XLOG", "PARAMETER_CHANGE") => {
            let is_minimal = rest.contains("wal_level=minimal");
            format!("{operation} {} {is_minimal}", until(rest, " wal_level="))
        }
        _ => String::new(),
    }
}

/// A decoded record in the same form.
pub(crate) fn decoded(record: &Record) -> String {
    let Record { lsn, prev, total_bytes, xid, rmid, .. } = record;
    let rmgr = rmgr_name(*rmid).unwrap();
    let said = record.event.as_ref().map_or_else(String::new, event);
    format!("{rmgr} {total_bytes} tx {xid} {lsn} prev {prev} {said}")
}

fn event(event: &WalEvent) -> String {
    match event {
        WalEvent::Abort { time } => format!("ABORT {}", civil(*time)),
        WalEvent::AbortPrepared { time, xid } => format!("ABORT_PREPARED {} {}", xid.unwrap_or_default(), civil(*time)),
        WalEvent::BackupEnd { start } => format!("BACKUP_END {start}"),
        WalEvent::CheckpointOnline { redo, timeline } => format!("CHECKPOINT_ONLINE {redo} tli {timeline}"),
        WalEvent::CheckpointRedo => "CHECKPOINT_REDO".to_owned(),
        WalEvent::CheckpointShutdown { redo, timeline, previous } => {
            format!("CHECKPOINT_SHUTDOWN {redo} tli {timeline} prev {previous}")
        }
        WalEvent::Commit { time } => format!("COMMIT {}", civil(*time)),
        WalEvent::CommitPrepared { time, xid } => format!("COMMIT_PREPARED {} {}", xid.unwrap_or_default(), civil(*time)),
        WalEvent::EndOfRecovery { time, timeline, previous } => {
            format!("END_OF_RECOVERY tli {timeline} prev {previous} {}", civil(*time))
        }
        WalEvent::OverwriteContrecord { overwritten, .. } => format!("OVERWRITE_CONTRECORD {overwritten}"),
        WalEvent::ParameterChange { parameters, is_minimal } => format!(
            "PARAMETER_CHANGE max_connections={} max_worker_processes={} max_wal_senders={} max_prepared_xacts={} max_locks_per_xact={} \
             {is_minimal}",
            parameters.max_connections,
            parameters.max_worker_processes,
            parameters.max_wal_senders,
            parameters.max_prepared_transactions,
            parameters.max_locks_per_transaction,
        ),
        WalEvent::RestorePoint { name, .. } => format!("RESTORE_POINT {name}"),
        WalEvent::Switch => "SWITCH".to_owned(),
    }
}

/// A moment as `pg_waldump` prints it, `2026-05-01 10:00:00.123456`, in UTC. Days to dates as in the Gregorian calendar.
pub(crate) fn civil(time: PgTime) -> String {
    let micros = time.to_unix_micros();
    let (seconds, micros) = (micros.div_euclid(1_000_000), micros.rem_euclid(1_000_000));
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let is_leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let (mut year, mut day) = (1970, days);
    while day >= 365 + i64::from(is_leap(year)) {
        day -= 365 + i64::from(is_leap(year));
        year += 1;
    }
    let lengths = [31, 28 + i64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while day >= lengths[month] {
        day -= lengths[month];
        month += 1;
    }
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year}-{:02}-{:02} {hour:02}:{minute:02}:{second:02}.{micros:06}", month + 1, day + 1)
}
