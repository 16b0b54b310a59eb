//! `backup_label`: where recovery of a base backup starts.

use crate::ident::Timeline;
use crate::lsn::Lsn;
use crate::segment::SegmentName;

/// What a `backup_label` says of recovery. As `read_backup_label` in Postgres' xlogrecovery.c reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupLabel {
    /// Where replay starts.
    pub start: Lsn,
    /// The checkpoint that recovery reads first.
    pub checkpoint: Lsn,
    /// The timeline of both.
    pub timeline: Timeline,
    /// Whether only a record of the backup's end makes the folder consistent.
    pub needs_end_record: bool,
    /// Whether the backup was taken of a standby: then `pg_control` tells where it ends.
    pub from_standby: bool,
}

/// What a backup history file says: `SEGMENT.OFFSET.backup`, archived when a base backup has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupHistory {
    /// What the backup's `backup_label` says.
    pub label: BackupLabel,
    /// The backup's end: from here on its copy is consistent.
    pub stop: Lsn,
    /// The timeline of that.
    pub stop_timeline: Timeline,
    /// The backup's name, as it was given.
    pub name: String,
    /// When it began, in the server's words and `log_timezone`.
    pub start_time: String,
    /// When it ended, likewise.
    pub stop_time: String,
}

/// A text that is no label that Postgres 15 to 18 would start from.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    /// It belongs to an incremental backup, which is no data folder.
    #[error("it is of an incremental backup, which is no data folder yet: make one of it with pg_combinebackup")]
    Incremental,
    /// A line is missing or can't be read.
    #[error("its line {0:?} is missing or can't be read: restore the base backup again")]
    Line(&'static str),
}

impl BackupLabel {
    /// Reads the file's text.
    ///
    /// # Errors
    /// Where Postgres would not start from it.
    pub fn parse(text: &str) -> Result<Self, LabelError> {
        let field = |name| field(text, name);
        if field("INCREMENTAL FROM LSN").is_ok() {
            return Err(LabelError::Incremental);
        }
        let bad = |name| move || LabelError::Line(name);
        // START WAL LOCATION: 0/2000028 (file 000000010000000000000002)
        let (start, file) = field("START WAL LOCATION")?.split_once(" (file ").ok_or_else(bad("START WAL LOCATION"))?;
        let name: SegmentName = file.trim_end_matches(')').parse().map_err(|_invalid| LabelError::Line("START WAL LOCATION"))?;
        let of_name = name.as_str().get(..8).and_then(|digits| u32::from_str_radix(digits, 16).ok()).and_then(Timeline::new);
        let timeline = of_name.ok_or_else(bad("START WAL LOCATION"))?;
        if let Ok(said) = field("START TIMELINE")
            && said.parse() != Ok(timeline.get())
        {
            return Err(LabelError::Line("START TIMELINE"));
        }
        let lsn = |text: &str, name| text.parse::<Lsn>().map_err(|_invalid| LabelError::Line(name));
        Ok(Self {
            start: lsn(start, "START WAL LOCATION")?,
            checkpoint: lsn(field("CHECKPOINT LOCATION")?, "CHECKPOINT LOCATION")?,
            timeline,
            needs_end_record: field("BACKUP METHOD") == Ok("streamed"),
            from_standby: field("BACKUP FROM") == Ok("standby"),
        })
    }
}

impl BackupHistory {
    /// Reads the file's text.
    ///
    /// # Errors
    /// Where a line is missing or can't be read.
    pub fn parse(text: &str) -> Result<Self, LabelError> {
        const STOP: &str = "STOP WAL LOCATION";
        let label = BackupLabel::parse(text)?;
        let stop = field(text, STOP)?.split(' ').next().and_then(|lsn| lsn.parse().ok()).ok_or(LabelError::Line(STOP))?;
        let stop_timeline = match field(text, "STOP TIMELINE") {
            Ok(said) => said.parse().ok().and_then(Timeline::new).ok_or(LabelError::Line("STOP TIMELINE"))?,
            Err(_) => label.timeline,
        };
        let text_of = |name| field(text, name).unwrap_or_default().to_owned();
        Ok(Self {
            label,
            stop,
            stop_timeline,
            name: text_of("LABEL"),
            start_time: text_of("START TIME"),
            stop_time: text_of("STOP TIME"),
        })
    }
}

fn field<'a>(text: &'a str, name: &'static str) -> Result<&'a str, LabelError> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    value.map(str::trim).ok_or(LabelError::Line(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LABEL: &str = "START WAL LOCATION: 0/2000028 (file 000000030000000000000002)\nCHECKPOINT LOCATION: 0/2000060\n\
         BACKUP METHOD: streamed\nBACKUP FROM: primary\nSTART TIME: 2026-11-20 11:00:00 UTC\nLABEL: pg_basebackup base backup\n\
         START TIMELINE: 3\n";

    #[test]
    fn a_label_of_pg_basebackup() {
        let label = BackupLabel::parse(LABEL).unwrap();
        assert_eq!((label.start, label.checkpoint), (Lsn(0x200_0028), Lsn(0x200_0060)));
        assert_eq!((label.timeline.get(), label.needs_end_record, label.from_standby), (3, true, false));
        assert!(BackupLabel::parse(&LABEL.replace("FROM: primary", "FROM: standby")).unwrap().from_standby);
    }

    #[test]
    fn what_postgres_would_not_start_from() {
        assert_eq!(BackupLabel::parse(""), Err(LabelError::Line("START WAL LOCATION")));
        let contradicts = LABEL.replace("TIMELINE: 3", "TIMELINE: 2");
        assert_eq!(BackupLabel::parse(&contradicts), Err(LabelError::Line("START TIMELINE")));
        let incremental = format!("{LABEL}INCREMENTAL FROM LSN: 0/1000028\nINCREMENTAL FROM TLI: 1\n");
        assert_eq!(BackupLabel::parse(&incremental), Err(LabelError::Incremental));
        let no_lsn = LABEL.replace("0/2000060", "somewhere");
        assert_eq!(BackupLabel::parse(&no_lsn), Err(LabelError::Line("CHECKPOINT LOCATION")));
    }

    #[test]
    fn a_backup_history_of_postgres() {
        let text = "START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\n\
             STOP WAL LOCATION: 0/2000158 (file 000000010000000000000002)\nCHECKPOINT LOCATION: 0/2000080\n\
             BACKUP METHOD: streamed\nBACKUP FROM: primary\nSTART TIME: 2026-11-20 11:00:00 UTC\nLABEL: nightly\nSTART TIMELINE: 1\n\
             STOP TIME: 2026-11-20 11:05:00 UTC\nSTOP TIMELINE: 1\n";
        let history = BackupHistory::parse(text).unwrap();
        assert_eq!((history.label.start, history.stop, history.stop_timeline.get()), (Lsn(0x200_0028), Lsn(0x200_0158), 1));
        assert_eq!((history.name.as_str(), history.stop_time.as_str()), ("nightly", "2026-11-20 11:05:00 UTC"));
        assert_eq!(BackupHistory::parse(LABEL), Err(LabelError::Line("STOP WAL LOCATION")));
    }
}
