//! Why nothing is done.

use walbus::{Lsn, SegmentName, SegmentSize, SystemId, Timeline};

/// Why recovering would not be sure to lose nothing. The folder is as it was; the text says what is in the way and the way out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A base backup that is not complete.
    #[error(
        "backup_label says that the folder is a base backup, but its end is not in the WAL up to {end}: Postgres would refuse to start on \
         it. Take a base backup that came to its end before"
    )]
    BackupEndMissing {
        /// How far the WAL goes.
        end: Lsn,
    },
    /// The folder's last checkpoint is neither in its own WAL nor in the sink's.
    #[error(
        "the checkpoint at {checkpoint} that replay starts from is not in the WAL: the sink has complete records up to {sink}, pg_wal up \
         to {folder}. Put the missing segments into pg_wal (from an archive), or restore a base backup and run recover on that"
    )]
    CheckpointMissing {
        /// The checkpoint's record.
        checkpoint: Lsn,
        /// How far the folder's own WAL goes.
        folder: Lsn,
        /// How far the sink's goes.
        sink: Lsn,
    },
    /// What the sink has at the checkpoint's position is not the folder's checkpoint.
    #[error(
        "the sink's WAL holds no such checkpoint at {checkpoint} as pg_control says: this folder's history left the sink's before it (was \
         it started without recover?), so acknowledged commits are missing from it. Take an older copy of the folder, from before that \
         start, and run recover on it; or restore a base backup"
    )]
    CheckpointOther {
        /// Where the checkpoint should be.
        checkpoint: Lsn,
    },
    /// A record is damaged on both sides, or where only one side has it.
    #[error(
        "the records break off at {at}, below {complete} up to which the sink says they are complete: {what}. Run `beyond-pg-sink check` on \
         the sink's folder; segments that are damaged in pg_wal and no longer held by the sink must come from an archive"
    )]
    Broken {
        /// Where the records end.
        at: Lsn,
        /// How far they should go.
        complete: Lsn,
        /// What is wrong there.
        what: String,
    },
    /// Local records contradict the sink's.
    #[error(
        "divergence: from {at} on pg_wal holds other complete records (up to {folder}) than the sink (up to {sink}). This folder was \
         started without recover after WAL was lost, so it lacks commits that were acknowledged. Nothing was changed. Keep it aside, take \
         a copy of the folder from before that start and run recover on it; or restore a base backup"
    )]
    Contradicts {
        /// The first byte that differs.
        at: Lsn,
        /// The end of the local records.
        folder: Lsn,
        /// The end of the sink's.
        sink: Lsn,
    },
    /// The sink stopped because it saw a divergence.
    #[error(
        "the sink stopped at a divergence: {problem}. A primary wrote WAL that contradicts what was acknowledged. Decide which history is \
         to live; if it is the sink's, keep that primary down, start the sink again and run recover once more"
    )]
    Diverged {
        /// What the sink says.
        problem: String,
    },
    /// Segments are missing on both sides.
    #[error(
        "{count} segments that replay needs are neither held by the sink nor whole in pg_wal: {first} to {last} (the sink's oldest is {}). \
         Put them into pg_wal (from an archive) and run recover again, or restore a newer base backup. The sink's --keep-size and \
         --keep-age decide what it keeps", .oldest.as_ref().map_or("none", SegmentName::as_str)
    )]
    Gap {
        /// The first missing.
        first: SegmentName,
        /// The last missing.
        last: SegmentName,
        /// How many are missing.
        count: usize,
        /// The sink's first.
        oldest: Option<SegmentName>,
    },
    /// The folder's timeline is none that the sink's came from.
    #[error(
        "the folder is on timeline {folder}, from which the sink's timeline {sink} does not come: it is of another branch of this \
         cluster's history. Use the sink of that branch, or restore a base backup of the primary that the sink follows"
    )]
    NoAncestor {
        /// The folder's.
        folder: Timeline,
        /// The sink's.
        sink: Timeline,
    },
    /// The folder is of another cluster.
    #[error(
        "the folder is of another cluster: its system identifier is {folder}, the sink holds WAL of {sink}. Check --pgdata and --from"
    )]
    OtherCluster {
        /// The folder's.
        folder: SystemId,
        /// The sink's.
        sink: SystemId,
    },
    /// Both have that timeline, but it came about differently.
    #[error(
        "timeline {timeline} in pg_wal came about otherwise than the sink's timeline {timeline} (their history files differ): two servers \
         were promoted apart from each other. Use the sink of this one, or restore a base backup of the primary that the sink follows"
    )]
    OtherHistory {
        /// The timeline.
        timeline: Timeline,
    },
    /// The segment sizes differ.
    #[error(
        "the folder's WAL segments are of {folder}, the sink's of {sink}: it was initialised anew, or changed by pg_resetwal. Check \
         --pgdata and --from"
    )]
    OtherSegmentSize {
        /// The folder's.
        folder: SegmentSize,
        /// The sink's.
        sink: SegmentSize,
    },
    /// The folder is to be recovered in another way.
    #[error(
        "{file} is in the folder, so Postgres would get its WAL by restore_command or from primary_conninfo, and not stop where the sink's \
         ends. If the folder is to be the primary again, remove {file} and run recover again"
    )]
    Signal {
        /// `standby.signal` or `recovery.signal`.
        file: &'static str,
    },
    /// The sink holds nothing.
    #[error("the sink holds no WAL yet{}. Check --from", .problem.as_ref().map(|text| format!(" ({text})")).unwrap_or_default())]
    SinkEmpty {
        /// What it says is wrong.
        problem: Option<String>,
    },
    /// The sink's WAL went on to a newer timeline.
    #[error(
        "the folder is on timeline {folder}, the sink went on to timeline {sink}, which left {folder} at {at}: another server was promoted \
         since. Crash recovery never changes timelines, so this folder can't become that primary by it. Make it a standby of the new \
         primary (pg_rewind, or pg_basebackup anew)"
    )]
    SinkOnNewerTimeline {
        /// The folder's.
        folder: Timeline,
        /// The sink's.
        sink: Timeline,
        /// Where it left the folder's.
        at: Lsn,
    },
    /// The sink has WAL that it can't make durable.
    #[error(
        "the sink has written WAL up to {written} and flushed it up to {flushed}; what lies between it can't serve, and commits may have been \
         acknowledged with it (synchronous_commit = remote_write). Mend the sink{} and run recover again",
         .problem.as_ref().map(|text| format!(" ({text})")).unwrap_or_default()
    )]
    SinkNotFlushed {
        /// The end of what is written.
        written: Lsn,
        /// The end of what is flushed.
        flushed: Lsn,
        /// What it says is wrong.
        problem: Option<String>,
    },
    /// The sink never saw the folder's timeline.
    #[error(
        "the folder is on timeline {folder}, the sink only on {sink}: this server was promoted and the sink did not follow, so it holds \
         nothing that is newer. Start the server without recover, and point the sink at it"
    )]
    SinkOnOlderTimeline {
        /// The folder's.
        folder: Timeline,
        /// The sink's.
        sink: Timeline,
    },
    /// The sink's answer makes no sense.
    #[error("the sink's answer can't be used: {what}. Is it a beyond-pg-sink of this version?")]
    SinkUnreadable {
        /// What is wrong.
        what: String,
    },
    /// The checkpoint lies behind the point at which its timeline was left.
    #[error(
        "the folder's checkpoint {checkpoint} on timeline {timeline} lies behind {at}, where the sink's history left that timeline: the \
         folder went its own way. Make it a standby of the new primary (pg_rewind, or pg_basebackup anew)"
    )]
    StartBehindSwitch {
        /// The checkpoint.
        checkpoint: Lsn,
        /// Its timeline.
        timeline: Timeline,
        /// Where that was left.
        at: Lsn,
    },
}
