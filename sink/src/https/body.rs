//! Bodies of WAL, from files to the network.
//!
//! ```text
//!   file ──pread──▶ buffer ──▶ HTTP ──▶ TLS ──▶ socket
//!                     ▲ │
//!                     └─┘ one is read ahead while the one before is on its way out; then its memory is used again
//! ```
//!
//! Files are read on the runtime's blocking threads, one buffer at a time, so a slow client occupies no thread. The more bodies there
//! are, the smaller their buffers: [`MEMORY_BYTES`] bounds them all.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use hyper::body::{Body, Frame, SizeHint};
use prometheus_client::metrics::counter::Counter;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinHandle;
use walbus::SegmentSize;

use super::folder::Folder;
use super::holdings::Piece;

/// The most bytes that are read at once.
const CHUNK_BYTES_MAX: usize = 256 << 10;

/// The fewest, but at an end.
const CHUNK_BYTES_MIN: usize = 16 << 10;

/// How much the buffers of all bodies may hold together, as long as no more than `MEMORY_BYTES / BUFFERS / CHUNK_BYTES_MIN` are sent
/// at once.
const MEMORY_BYTES: usize = 96 << 20;

/// How many buffers a body uses: one being read, one on its way out, one just sent and to be used again.
const BUFFERS: usize = 3;

static ZEROS: [u8; CHUNK_BYTES_MAX] = [0; CHUNK_BYTES_MAX];

/// What all bodies share: how many there are.
#[derive(Debug, Default)]
pub(super) struct Bodies {
    count: AtomicUsize,
}

impl Bodies {
    fn chunk_bytes(&self) -> usize {
        let each = MEMORY_BYTES / BUFFERS / self.count.load(Ordering::Relaxed).max(1);
        each.clamp(CHUNK_BYTES_MIN, CHUNK_BYTES_MAX)
    }
}

/// A body among the others.
#[derive(Debug)]
struct Member(Arc<Bodies>);

impl Drop for Member {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a body is made of.
#[derive(Debug)]
pub(super) enum Part {
    /// A part of a file that is open already.
    File { file: File, offset: u64, len: u64 },
    /// A part of a segment that is opened when its turn comes.
    Segment(Piece),
    /// That many zeros.
    Zeros(u64),
}

impl Part {
    const fn len(&self) -> u64 {
        match self {
            Self::File { len, .. } | Self::Zeros(len) => *len,
            Self::Segment(piece) => piece.bytes.end - piece.bytes.start,
        }
    }
}

/// A body of known length, read as it is sent. Nothing is read before it is first asked for anything, so an answer to HEAD costs
/// nothing.
#[derive(Debug)]
pub(super) struct WalBody {
    stage: Stage,
    /// Bytes not handed out yet.
    left: u64,
}

#[derive(Debug)]
enum Stage {
    Done,
    Reading(JoinHandle<(Box<Reader>, io::Result<Bytes>)>),
    Waiting(Box<Reader>),
}

impl WalBody {
    pub(super) fn new(folder: Arc<Folder>, size: SegmentSize, bodies: &Arc<Bodies>, parts: Vec<Part>) -> Self {
        let left = parts.iter().map(Part::len).sum();
        bodies.count.fetch_add(1, Ordering::Relaxed);
        let member = Member(Arc::clone(bodies));
        let reader = Reader { folder, size, member, parts: parts.into(), sent: VecDeque::new() };
        Self { stage: Stage::Waiting(Box::new(reader)), left }
    }

    pub(super) const fn len(&self) -> u64 {
        self.left
    }
}

impl Body for WalBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        loop {
            match std::mem::replace(&mut self.stage, Stage::Done) {
                Stage::Done => return Poll::Ready(None),
                Stage::Waiting(_) if self.left == 0 => return Poll::Ready(None),
                Stage::Waiting(reader) => self.stage = Stage::Reading(reader.start()),
                Stage::Reading(mut task) => {
                    let Poll::Ready(done) = Pin::new(&mut task).poll(cx) else {
                        self.stage = Stage::Reading(task);
                        return Poll::Pending;
                    };
                    let (mut reader, read) = done.map_err(io::Error::other)?;
                    let bytes = read?;
                    self.left -= bytes.len() as u64;
                    if self.left > 0 {
                        reader.sent.push_back(bytes.clone());
                        self.stage = Stage::Reading(reader.start());
                    }
                    return Poll::Ready(Some(Ok(Frame::data(bytes))));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// What reads a body's bytes, on a blocking thread.
#[derive(Debug)]
struct Reader {
    folder: Arc<Folder>,
    size: SegmentSize,
    member: Member,
    parts: VecDeque<Part>,
    /// Handed out, the oldest first: once the network has let go of one, its memory is used again.
    sent: VecDeque<Bytes>,
}

impl Reader {
    fn start(mut self: Box<Self>) -> JoinHandle<(Box<Self>, io::Result<Bytes>)> {
        tokio::task::spawn_blocking(move || {
            let read = self.next();
            if let Err(error) = &read {
                // The client sees no more than a connection that breaks.
                tracing::error!(%error, part = ?self.parts.front(), "can't read WAL that is held; a download was cut");
            }
            (self, read)
        })
    }

    fn next(&mut self) -> io::Result<Bytes> {
        loop {
            let chunk = self.member.0.chunk_bytes();
            let wanted = |len: u64| usize::try_from(len).map_or(chunk, |len| len.min(chunk));
            match self.parts.pop_front() {
                None => return Err(io::Error::other("a body is longer than its parts")),
                Some(part) if part.len() == 0 => {}
                Some(Part::Segment(Piece { segment, bytes })) => {
                    let file = self.folder.open_segment(segment, self.size)?;
                    self.parts.push_front(Part::File { file, offset: bytes.start, len: bytes.end - bytes.start });
                }
                Some(Part::Zeros(len)) => {
                    let now = wanted(len);
                    self.parts.push_front(Part::Zeros(len - now as u64));
                    return Ok(Bytes::from_static(&ZEROS[..now]));
                }
                Some(Part::File { file, offset, len }) => {
                    let now = wanted(len);
                    let mut buffer = self.buffer(now);
                    file.read_exact_at(&mut buffer, offset)?;
                    self.parts.push_front(Part::File { file, offset: offset + now as u64, len: len - now as u64 });
                    return Ok(buffer.freeze());
                }
            }
        }
    }

    /// A buffer of that length: the oldest handed out, when nobody holds it any more.
    fn buffer(&mut self, len: usize) -> BytesMut {
        while self.sent.len() >= BUFFERS - 1 {
            let Some(oldest) = self.sent.pop_front() else { break };
            if let Ok(mut buffer) = oldest.try_into_mut()
                && buffer.len() >= len
            {
                buffer.truncate(len);
                return buffer;
            }
        }
        BytesMut::zeroed(len)
    }
}

/// An answer's body with what is given back when it has been sent, or its client has gone.
#[derive(Debug)]
pub(super) struct Permitted {
    inner: axum::body::Body,
    sent_bytes: Counter,
    _permit: OwnedSemaphorePermit,
}

impl Permitted {
    pub(super) const fn new(inner: axum::body::Body, permit: OwnedSemaphorePermit, sent_bytes: Counter) -> Self {
        Self { inner, sent_bytes, _permit: permit }
    }
}

impl Body for Permitted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
        {
            self.sent_bytes.inc_by(data.len() as u64);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
