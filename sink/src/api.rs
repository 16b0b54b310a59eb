//! The JSON of `/v1`, as the server writes it and every client of it reads it.
//!
//! LSNs are texts (`0/16B3740`), sizes are bytes, moments are microseconds since 1970-01-01 UTC unless a name says otherwise.
//! Fields are added, never changed: a reader ignores those it does not know.

use serde::{Deserialize, Serialize};

/// `GET /v1/status`: one stream, as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The version of the program that answers.
    pub version: String,
    /// What the stream is doing.
    pub state: State,
    /// What is wrong and what to do about it, where the state is none to be content with.
    pub problem: Option<String>,
    /// The cluster's system identifier, `None` before the first connection ever.
    pub system_id: Option<String>,
    /// Bytes a segment, `None` before the first connection ever.
    pub segment_size: Option<u64>,
    /// The timeline being received.
    pub timeline: Option<u32>,
    /// The slot on the primary.
    pub slot: String,
    /// The end of what has arrived.
    pub received: Option<String>,
    /// The end of what was written to files.
    pub written: Option<String>,
    /// The end of what is durable: all that is served lies below it.
    pub flushed: Option<String>,
    /// The end of the last complete, CRC-valid record that is durable: how far recovery can get.
    pub complete: Option<String>,
    /// The end of the primary's WAL, as it last said.
    pub server_end: Option<String>,
    /// How far `flushed` is behind `server_end`, in bytes.
    pub lag_bytes: u64,
    /// When the newest commit held was made, by the primary's clock.
    pub last_commit_time: Option<i64>,
    /// The first byte held without a gap behind it up to `flushed`.
    pub oldest: Option<String>,
    /// How many bytes of WAL files are held.
    pub held_bytes: u64,
    /// Whether anyone who depends on this sink is in danger: the states but connecting and streaming.
    pub alarm: bool,
}

/// What a stream is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// No connection yet, or lost: tried again by itself.
    Connecting,
    /// The disk is full: nothing more is acknowledged until there is room; goes on by itself.
    DiskFull,
    /// The primary's WAL contradicts records that are held: stopped for good, both kept.
    Diverged,
    /// The primary refuses in a way that waiting won't mend (a slot invalidated, WAL removed, a wrong password): tried again
    /// slowly.
    Refused,
    /// Shutting down.
    Stopping,
    /// Connected and receiving.
    Streaming,
    /// The primary's WAL ends before what is held: it lost WAL that was acknowledged. Run `recover` on it. Tried again by itself.
    UpstreamBehind,
}

/// `GET /v1/segments`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segments {
    /// The cluster's system identifier.
    pub system_id: String,
    /// Bytes a segment.
    pub segment_size: u64,
    /// All that is held, by number, then timeline.
    pub segments: Vec<SegmentEntry>,
    /// Ranges between the first and the last byte held that no file holds.
    pub gaps: Vec<Gap>,
    /// The timelines whose history is held, 1 never among them.
    pub histories: Vec<u32>,
}

/// One segment held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentEntry {
    /// Its name, without `.partial`: what `/v1/segments/{name}` takes.
    pub name: String,
    /// Its timeline.
    pub timeline: u32,
    /// Its first byte.
    pub start: String,
    /// The end of what it holds: of the segment when complete, else of what is flushed.
    pub end: String,
    /// Whether it holds all its bytes.
    pub complete: bool,
    /// The earliest and the latest commit or abort in it, `None` where it has none or was not indexed.
    pub commit_time_min: Option<i64>,
    /// See `commit_time_min`.
    pub commit_time_max: Option<i64>,
    /// Restore points in it.
    #[serde(default)]
    pub restore_points: Vec<RestorePoint>,
}

/// A named restore point (`pg_create_restore_point`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestorePoint {
    /// Its name.
    pub name: String,
    /// The end of its record: a target that includes it.
    pub lsn: String,
    /// When it was made, by the primary's clock.
    pub time: i64,
}

/// A range of WAL that is missing between held ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// The timeline.
    pub timeline: u32,
    /// Its first byte.
    pub from: String,
    /// The first byte behind it.
    pub to: String,
}

/// `GET /v1/wait?lsn=LSN`: the answer, when the LSN is flushed or the time is up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waited {
    /// Whether the LSN is flushed.
    pub reached: bool,
    /// The timeline being received.
    pub timeline: u32,
    /// The end of what is flushed.
    pub flushed: String,
}

/// Every answer that is no success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// A word for programs, such as `segment_not_held`.
    pub code: String,
    /// A sentence for people, with the way out.
    pub message: String,
    /// Where WAL was asked for that is not held: the first position that is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest: Option<String>,
}

/// The response header with the timeline whose bytes are sent, of `/v1/segments/{name}` and `/v1/wal`.
pub const TIMELINE_HEADER: &str = "x-beyond-timeline";

/// The response header with the LSN up to which the bytes of a segment, or of a range, are WAL; what a segment has behind it is
/// zeros.
pub const FLUSHED_HEADER: &str = "x-beyond-flushed";

/// The response header that is `true` where a segment holds all its bytes, `false` where it is a tail padded with zeros.
pub const COMPLETE_HEADER: &str = "x-beyond-complete";
