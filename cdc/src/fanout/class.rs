//! Subscriptions that get the same bytes: one encoding for all of them.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use beyond_cdc_proto::json::Renderer;
use beyond_cdc_proto::prost::Message;
use beyond_cdc_proto::v1::{Batch, Encoding, JsonBatch, JsonTransaction, Schema, Transaction};
use bytes::{BufMut, Bytes, BytesMut};
use walbus::Position;

use super::select::{Selection, cut};
use crate::log::{Entry, SchemaSet};

/// How large a batch of definitions alone may get, in bytes.
const DEFINITIONS_BYTES_MAX: usize = 512 << 10;

/// How many definitions more than twice those of the log may be kept.
const LEARNED_MORE: usize = 100;

/// A batch, ready to be written: its length, then its bytes.
pub type Frame = [Bytes; 3];

/// Why a batch of the log can't be given out: the log is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the batch at {at} can't be given out: {reason}")]
pub struct EncodeError {
    /// The batch's first position.
    pub at: Position,
    /// What is wrong with it.
    pub reason: String,
}

/// All classes that somebody has subscribed to.
#[derive(Debug)]
pub struct Classes {
    live: Mutex<HashMap<(Selection, Encoding), Weak<Class>>>,
    cached: Arc<Budget>,
}

/// What all classes together may keep.
#[derive(Debug)]
struct Budget {
    bytes: AtomicUsize,
    bytes_max: usize,
}

/// One way to encode batches.
///
/// What is encoded of a batch in the ring is kept for the others that are there too, as far as the budget of all classes goes, and the last
/// one always.
#[derive(Debug)]
pub struct Class {
    selection: Selection,
    encoding: Encoding,
    cache: Mutex<VecDeque<Cached>>,
    budget: Arc<Budget>,
    renderer: Mutex<Learned>,
}

#[derive(Debug)]
struct Cached {
    last: Position,
    slot: Arc<OnceLock<Result<Bytes, EncodeError>>>,
    bytes: usize,
}

#[derive(Debug, Default)]
struct Learned {
    renderer: Renderer,
    /// Ids are unique in the epoch: what was learned once stays so.
    ids: HashSet<u32>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Classes {
    /// No classes yet, which may keep that many bytes of encoded batches together.
    #[must_use]
    pub fn new(cache_bytes_max: usize) -> Self {
        let cached = Arc::new(Budget { bytes: AtomicUsize::new(0), bytes_max: cache_bytes_max });
        Self { live: Mutex::default(), cached }
    }

    /// The class of a selection and an encoding: the same for all who ask for the same.
    pub fn class(&self, selection: Selection, encoding: Encoding) -> Arc<Class> {
        let mut live = lock(&self.live);
        let key = (selection, encoding);
        if let Some(class) = live.get(&key).and_then(Weak::upgrade) {
            return class;
        }
        live.retain(|_, class| class.strong_count() > 0);
        let class = Arc::new(Class {
            selection: key.0.clone(),
            encoding,
            cache: Mutex::default(),
            budget: Arc::clone(&self.cached),
            renderer: Mutex::default(),
        });
        live.insert(key, Arc::downgrade(&class));
        class
    }

    /// How many bytes are kept.
    #[must_use]
    pub fn cached_bytes(&self) -> usize {
        self.cached.bytes.load(Ordering::Relaxed)
    }
}

impl Class {
    /// The frame of a batch. With `shared`, what had to be encoded is kept for others.
    ///
    /// # Errors
    /// See [`EncodeError`].
    pub fn frame(&self, entry: &Entry, shared: bool) -> Result<Frame, EncodeError> {
        if self.encoding == Encoding::Typed && self.selection.is_all() {
            return Ok(as_it_is(entry));
        }
        if !shared {
            return Ok(framed(self.encode(entry, None)?));
        }
        let slot = self.slot(entry.meta.last);
        let encoded = slot.get_or_init(|| {
            let encoded = self.encode(entry, None);
            if let Ok(bytes) = &encoded {
                self.account(entry.meta.last, bytes.len());
            }
            encoded
        });
        encoded.clone().map(framed)
    }

    /// The frame of what is behind `after` in a batch.
    ///
    /// # Errors
    /// See [`EncodeError`].
    pub fn frame_after(&self, entry: &Entry, after: Position) -> Result<Frame, EncodeError> {
        self.encode(entry, Some(after)).map(framed)
    }

    /// The frames of all definitions that may be used by batches behind them, and are not in them.
    #[must_use]
    pub fn definitions(&self, schemas: &SchemaSet) -> Vec<Frame> {
        // JSON has the tables' names in each change.
        if self.encoding == Encoding::Json {
            return Vec::new();
        }
        let mut frames = Vec::new();
        let mut batch = Batch::default();
        let mut bytes = 0;
        for schema in schemas.iter().filter(|schema| self.selection.has_table(schema)) {
            bytes += schema.encoded_len();
            batch.schemas.push(Schema::clone(schema));
            if bytes >= DEFINITIONS_BYTES_MAX {
                frames.push(framed(std::mem::take(&mut batch).encode_to_vec().into()));
                bytes = 0;
            }
        }
        if !batch.schemas.is_empty() {
            frames.push(framed(batch.encode_to_vec().into()));
        }
        frames
    }

    fn encode(&self, entry: &Entry, after: Option<Position>) -> Result<Bytes, EncodeError> {
        let at = entry.meta.first;
        let mut batch = Batch::decode(entry.payload.clone()).map_err(|error| EncodeError { at, reason: error.to_string() })?;
        // Looked up before the definitions are filtered: JSON needs them all the same.
        let json = (self.encoding == Encoding::Json).then(|| self.learn(entry, &batch));
        // Before anything is left out: what is cut off tells what a transaction's part becomes.
        if let Some(after) = after {
            cut(&mut batch, after);
        }
        let mut batch = self.selection.apply(batch, &entry.schemas);
        batch.through = Some(entry.meta.last.into());
        match json {
            None => Ok(batch.encode_to_vec().into()),
            Some(learned) => json_batch(learned, batch).map_err(|reason| EncodeError { at, reason }),
        }
    }

    fn learn(&self, entry: &Entry, batch: &Batch) -> MutexGuard<'_, Learned> {
        let mut learned = lock(&self.renderer);
        // The log forgets definitions: what it has forgotten goes here as well, by and by.
        if learned.ids.len() > 2 * (entry.schemas.len() + batch.schemas.len()) + LEARNED_MORE {
            *learned = Learned::default();
        }
        let Learned { renderer, ids } = &mut *learned;
        for schema in entry.schemas.iter().map(|schema| &**schema).chain(&batch.schemas) {
            if ids.insert(schema.id) {
                renderer.learn(schema);
            }
        }
        learned
    }

    /// Where a batch's encoding is, or will be.
    fn slot(&self, last: Position) -> Arc<OnceLock<Result<Bytes, EncodeError>>> {
        let mut cache = lock(&self.cache);
        if let Some(cached) = cache.iter().rev().find(|cached| cached.last == last) {
            return Arc::clone(&cached.slot);
        }
        let slot = Arc::new(OnceLock::new());
        cache.push_back(Cached { last, slot: Arc::clone(&slot), bytes: 0 });
        slot
    }

    fn account(&self, last: Position, bytes: usize) {
        let mut cache = lock(&self.cache);
        // What was dropped in between counts no more.
        let Some(cached) = cache.iter_mut().find(|cached| cached.last == last) else { return };
        cached.bytes = bytes;
        self.budget.bytes.fetch_add(bytes, Ordering::Relaxed);
        while cache.len() > 1 && (self.budget.is_spent() || cache.len() > CACHED_MAX) {
            let Some(oldest) = cache.pop_front() else { break };
            self.budget.bytes.fetch_sub(oldest.bytes, Ordering::Relaxed);
        }
    }
}

/// How many batches a class keeps at most, however small.
const CACHED_MAX: usize = 1024;

impl Budget {
    fn is_spent(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) > self.bytes_max
    }
}

impl Drop for Class {
    fn drop(&mut self) {
        let bytes: usize = lock(&self.cache).iter().map(|cached| cached.bytes).sum();
        self.budget.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// A batch as the log has it. Its `through` comes behind it: a message that follows another one in the same bytes is merged into it.
fn as_it_is(entry: &Entry) -> Frame {
    let through = Batch { through: Some(entry.meta.last.into()), ..Batch::default() }.encode_to_vec();
    let payload = entry.payload.clone();
    [length(payload.len() + through.len()), payload, through.into()]
}

fn framed(bytes: Bytes) -> Frame {
    [length(bytes.len()), bytes, Bytes::new()]
}

/// A frame's length as it stands before it.
fn length(len: usize) -> Bytes {
    let mut bytes = BytesMut::with_capacity(4);
    // Batches are bounded far below 4 GiB by the log.
    bytes.put_u32(u32::try_from(len).unwrap_or(u32::MAX));
    bytes.freeze()
}

fn json_batch(mut learned: MutexGuard<'_, Learned>, batch: Batch) -> Result<Bytes, String> {
    let transactions = batch
        .transactions
        .iter()
        .map(|transaction| json_transaction(&mut learned.renderer, transaction))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(JsonBatch { transactions, through: batch.through }.encode_to_vec().into())
}

fn json_transaction(renderer: &mut Renderer, transaction: &Transaction) -> Result<JsonTransaction, String> {
    let render = |change| {
        let mut text = String::new();
        renderer.change(&mut text, transaction, change).map(|()| text)
    };
    let changes = transaction.changes.iter().map(render).collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())?;
    let Transaction { commit_lsn, end_lsn, commit_time, xid, part, .. } = *transaction;
    Ok(JsonTransaction { commit_lsn, end_lsn, commit_time, xid, part, changes })
}

#[cfg(test)]
mod tests;
