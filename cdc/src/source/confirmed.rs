//! What was confirmed beyond the log, and on which timeline: where no published table changes, the slot still has to move.
//!
//! The slot's position after a restart tells whether it is still ours: one that is ahead of everything that was ever confirmed was moved by
//! somebody else, or made anew, and changes are missing. So what is confirmed without an event in the log is written down before it is said.
//!
//! The timeline tells whether a primary that was promoted has all that the log has: what it never received is no part of its history.

use std::io;
use std::sync::Arc;

use walbus::disk::{Disk, DiskFile, write_whole};
use walbus::{Lsn, Timeline};

use crate::log::Epoch;

const FILE: &str = "confirmed";
const MAGIC: [u8; 8] = *b"BYDCDCCF";
const BYTES: usize = 8 + 16 + 4 + 8 + 4;

/// The position that is written down, of one epoch.
#[derive(Debug)]
pub(super) struct Confirmed<D: Disk> {
    disk: Arc<D>,
    epoch: [u8; 16],
    place: Place,
}

/// What is written down.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Place {
    /// `None` before the first session.
    timeline: Option<Timeline>,
    lsn: Lsn,
}

impl<D: Disk> Confirmed<D> {
    /// What the folder says; nothing where it is of another epoch.
    ///
    /// # Errors
    /// Where it can't be read, or is damaged.
    pub(super) fn read(disk: Arc<D>, epoch: [u8; 16]) -> io::Result<Self> {
        let place = match disk.open(FILE) {
            Ok(file) => {
                let mut bytes = [0; BYTES];
                let read = file.read_at(&mut bytes, 0)?;
                let damaged = || {
                    io::Error::new(
                        io::ErrorKind::InvalidData,
                        format!("{FILE} is damaged: remove it, and start with --new-epoch {}", Epoch::new(epoch)),
                    )
                };
                let (of, place) = parse(&bytes[..read]).ok_or_else(damaged)?;
                if of == epoch { place } else { Place::default() }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Place::default(),
            Err(error) => return Err(error),
        };
        Ok(Self { disk, epoch, place })
    }

    pub(super) const fn lsn(&self) -> Lsn {
        self.place.lsn
    }

    pub(super) const fn timeline(&self) -> Option<Timeline> {
        self.place.timeline
    }

    /// Writes down a later position: it may be said afterwards.
    pub(super) fn write(&mut self, lsn: Lsn) -> io::Result<()> {
        if lsn > self.place.lsn {
            self.replace(Place { lsn, ..self.place })?;
        }
        Ok(())
    }

    /// Writes down that the source is on this timeline, which begins at `switchpoint`: what was confirmed behind that was of another one.
    pub(super) fn follow(&mut self, timeline: Timeline, switchpoint: Lsn) -> io::Result<()> {
        self.replace(Place { timeline: Some(timeline), lsn: self.place.lsn.min(switchpoint) })
    }

    fn replace(&mut self, place: Place) -> io::Result<()> {
        write_whole(&*self.disk, FILE, &encode(self.epoch, place))?;
        self.place = place;
        Ok(())
    }
}

fn encode(epoch: [u8; 16], place: Place) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(BYTES);
    bytes.extend(MAGIC);
    bytes.extend(epoch);
    bytes.extend(place.timeline.map_or(0, Timeline::get).to_le_bytes());
    bytes.extend(place.lsn.0.to_le_bytes());
    bytes.extend(checksum(&bytes).to_le_bytes());
    bytes
}

fn parse(bytes: &[u8]) -> Option<([u8; 16], Place)> {
    let (checked, crc) = bytes.split_last_chunk::<4>()?;
    let (magic, rest) = checked.split_first_chunk::<8>()?;
    let (epoch, rest) = rest.split_first_chunk::<16>()?;
    let (timeline, rest) = rest.split_first_chunk::<4>()?;
    let lsn = Lsn(u64::from_le_bytes(rest.try_into().ok()?));
    let place = Place { timeline: Timeline::new(u32::from_le_bytes(*timeline)), lsn };
    (*magic == MAGIC && u32::from_le_bytes(*crc) == checksum(checked)).then_some((*epoch, place))
}

fn checksum(bytes: &[u8]) -> u32 {
    // The algorithm has 32 bits.
    u32::try_from(crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use walbus::disk::OsDisk;

    #[test]
    fn what_was_written_is_found_again_in_its_epoch_alone() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Arc::new(OsDisk::open(folder.path()).unwrap());
        let mut confirmed = Confirmed::read(Arc::clone(&disk), [1; 16]).unwrap();
        assert_eq!(confirmed.lsn(), Lsn::INVALID);
        confirmed.write(Lsn(77)).unwrap();
        confirmed.write(Lsn(5)).unwrap();
        assert_eq!(Confirmed::read(Arc::clone(&disk), [1; 16]).unwrap().lsn(), Lsn(77));
        confirmed.follow(Timeline::FIRST, Lsn(60)).unwrap();
        let again = Confirmed::read(Arc::clone(&disk), [1; 16]).unwrap();
        assert_eq!((again.lsn(), again.timeline()), (Lsn(60), Some(Timeline::FIRST)));
        assert_eq!(Confirmed::read(Arc::clone(&disk), [2; 16]).unwrap().lsn(), Lsn::INVALID);
        std::fs::write(folder.path().join(FILE), b"BYDCDCCF").unwrap();
        assert_eq!(Confirmed::read(disk, [1; 16]).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn every_flip_is_noticed() {
        let place = Place { timeline: Some(Timeline::FIRST), lsn: Lsn(0xDEAD_BEEF) };
        let bytes = encode([3; 16], place);
        assert_eq!(parse(&bytes), Some(([3; 16], place)));
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(parse(&damaged), None, "bit {bit}");
        }
    }
}
