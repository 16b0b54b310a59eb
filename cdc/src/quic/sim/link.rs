//! A connection as bytes: one way for control messages each, and one for each subscription.

use std::collections::{BTreeMap, VecDeque};

use bytes::{Buf, Bytes};
use walbus::sim::Random;

/// One direction of a stream. What was written arrives in any pieces; after a cut, some end of it never does.
#[derive(Debug)]
pub(super) struct Pipe {
    under_way: VecDeque<u8>,
    /// How much may be under way.
    window: usize,
    /// Nothing follows what is under way.
    finished: bool,
    cut: bool,
}

/// What a read gives.
#[derive(Debug)]
pub(super) enum Read {
    Bytes(Vec<u8>),
    /// Nothing follows.
    End,
    Nothing,
}

impl Pipe {
    const fn new(window: usize) -> Self {
        Self { under_way: VecDeque::new(), window, finished: false, cut: false }
    }

    /// Takes as much as there is room for.
    pub(super) fn write(&mut self, bytes: &mut Bytes) {
        if self.cut {
            // Nobody acknowledges it: it fills the window, and goes nowhere.
            let room = bytes.len().min(self.window);
            self.window -= room;
            bytes.advance(room);
            return;
        }
        let room = bytes.len().min(self.window.saturating_sub(self.under_way.len()));
        self.under_way.extend(&bytes[..room]);
        bytes.advance(room);
    }

    /// Reads what has arrived, up to `most` bytes.
    pub(super) fn read(&mut self, most: usize) -> Read {
        if self.under_way.is_empty() {
            return if self.finished || self.cut { Read::End } else { Read::Nothing };
        }
        let len = self.under_way.len().min(most.max(1));
        Read::Bytes(self.under_way.drain(..len).collect())
    }

    pub(super) const fn finish(&mut self) {
        self.finished = true;
    }

    /// What was not read is dropped.
    pub(super) fn reset(&mut self) {
        self.under_way.clear();
        self.finished = true;
    }

    fn cut(&mut self, random: &mut Random) {
        let arriving = usize::try_from(random.below(self.under_way.len() as u64 + 1)).unwrap();
        self.under_way.truncate(arriving);
        self.cut = true;
    }
}

/// A connection.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) to_server: Pipe,
    pub(super) to_client: Pipe,
    /// By subscription; one that has ended is replaced when its number is used again.
    pub(super) data: BTreeMap<u64, Pipe>,
    pub(super) window: usize,
    pub(super) lost: bool,
}

const CONTROL_WINDOW: usize = 1 << 20;

impl Link {
    pub(super) fn new(window: usize) -> Self {
        let (to_server, to_client) = (Pipe::new(CONTROL_WINDOW), Pipe::new(CONTROL_WINDOW));
        Self { to_server, to_client, data: BTreeMap::new(), window, lost: false }
    }

    /// Opens a data stream.
    pub(super) fn open(&mut self, stream: u64) {
        let mut pipe = Pipe::new(self.window);
        pipe.cut = self.lost;
        self.data.insert(stream, pipe);
    }

    /// Cuts it, anywhere in what is under way.
    pub(super) fn lose(&mut self, random: &mut Random) {
        self.lost = true;
        for pipe in [&mut self.to_server, &mut self.to_client].into_iter().chain(self.data.values_mut()) {
            pipe.cut(random);
        }
    }
}
