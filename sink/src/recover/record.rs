//! `DIR/beyond-pg-recover.json`: what a recovery must reach, for `recover --verify`.
//!
//! Postgres ignores the file. `pg_basebackup` copies it along, as it does every file that it does not know; it stays true of the copy.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use walbus::Lsn;
use walbus::disk::{Disk, DiskFile, write_whole};

use super::error::RecoverError;
use super::folder::read_whole;
use super::job::Note;
use super::plan::Plan;

/// The file's name.
pub const FILE: &str = "beyond-pg-recover.json";

/// What was recovered, and what must be reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The version of the program that wrote it.
    pub version: String,
    /// The cluster's system identifier.
    pub system_id: String,
    /// The timeline that recovery follows.
    pub timeline: u32,
    /// Where replay starts.
    pub redo: String,
    /// The LSN that recovery must reach: the end of the last complete record.
    pub target: String,
    /// Where the WAL came from, without user and password.
    pub sink: String,
    /// When, in microseconds since 1970-01-01 UTC.
    pub time: i64,
    /// The last bytes below the target: a server that has written something else there has lost what was recovered.
    pub tail: Tail,
}

/// The bytes of one segment up to the target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tail {
    /// The segment's file.
    pub segment: String,
    /// Where the bytes start in it.
    pub offset: u64,
    /// How many.
    pub bytes: u64,
    /// Their SHA-256, in hexadecimal digits.
    pub sha256: String,
}

impl Record {
    pub(super) fn new<D: Disk>(wal: &D, plan: &Plan, end: Lsn, target: Lsn, note: &Note) -> Result<Self, RecoverError> {
        let segment = plan.segment_at(Lsn(end.0.saturating_sub(1)));
        let start = segment.start(plan.segment_size);
        // Replay of the segment's earlier part is proven by the chain; of the first one, only from where it starts.
        let offset = plan.redo.bytes_after(start).min(end.bytes_after(start));
        let bytes = end.bytes_after(start) - offset;
        let name = plan.name(segment);
        let doing = || RecoverError::folder(format!("read pg_wal/{name}"));
        let sha256 = hash(&wal.open(name.as_str()).map_err(doing())?, offset, bytes).map_err(doing())?;
        let sha256 =
            sha256.ok_or_else(|| RecoverError::NotUsable(format!("pg_wal/{name} ends before {end}: run recover again")))?;
        Ok(Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            system_id: plan.system_id.to_string(),
            timeline: plan.timeline.get(),
            redo: plan.redo.to_string(),
            target: target.to_string(),
            sink: note.sink.clone(),
            time: note.time,
            tail: Tail { segment: name.to_string(), offset, bytes, sha256 },
        })
    }

    /// Writes it into the data folder.
    ///
    /// # Errors
    /// Of the folder.
    pub(super) fn write<D: Disk>(&self, pgdata: &D) -> Result<(), RecoverError> {
        let mut text = serde_json::to_vec_pretty(self).unwrap_or_default();
        text.push(b'\n');
        write_whole(pgdata, FILE, &text).map_err(RecoverError::folder(format!("write {FILE}")))
    }

    /// Reads it from the data folder.
    ///
    /// # Errors
    /// [`RecoverError::NotUsable`] where there is none, or it can't be read.
    pub(super) fn read<D: Disk>(pgdata: &D) -> Result<Self, RecoverError> {
        let text = read_whole(pgdata, FILE)?.ok_or_else(|| {
            RecoverError::NotUsable(format!(
                "there is no {FILE} in the folder: no recover has come to its end there. Check --pgdata"
            ))
        })?;
        serde_json::from_slice(&text).map_err(|error| {
            RecoverError::NotUsable(format!("{FILE} can't be read ({error}): run recover --from again to have it made anew"))
        })
    }
}

impl Tail {
    /// Whether `pg_wal` still has these bytes; `None` where Postgres has removed or reused the segment since.
    pub(super) fn is_in<D: Disk>(&self, wal: &D) -> Result<Option<bool>, RecoverError> {
        let doing = || RecoverError::folder(format!("read pg_wal/{}", self.segment));
        let file = match wal.open(&self.segment) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(doing()(error)),
        };
        let found = hash(&file, self.offset, self.bytes).map_err(doing())?;
        Ok(Some(found.as_ref() == Some(&self.sha256)))
    }
}

/// The SHA-256 of a file's bytes, `None` where it ends before.
fn hash<F: DiskFile>(file: &F, offset: u64, bytes: u64) -> std::io::Result<Option<String>> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 256 * 1024];
    let mut done = 0;
    while done < bytes {
        let want = usize::try_from(bytes - done).map_or(buffer.len(), |left| left.min(buffer.len()));
        let read = file.read_at(&mut buffer[..want], offset + done)?;
        if read == 0 {
            return Ok(None);
        }
        hasher.update(&buffer[..read]);
        done += read as u64;
    }
    Ok(Some(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()))
}
