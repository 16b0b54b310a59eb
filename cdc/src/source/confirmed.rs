//! What was confirmed beyond the log: where no published table changes, the slot still has to move.
//!
//! The slot's position after a restart tells whether it is still ours: one that is ahead of everything that was ever confirmed was moved by
//! somebody else, or made anew, and changes are missing. So what is confirmed without an event in the log is written down before it is said.

use std::io;
use std::sync::Arc;

use walbus::Lsn;
use walbus::disk::{Disk, DiskFile, write_whole};

const FILE: &str = "confirmed";
const MAGIC: [u8; 8] = *b"BYDCDCCF";
const BYTES: usize = 8 + 16 + 8 + 4;

/// The position that is written down, of one epoch.
#[derive(Debug)]
pub(super) struct Confirmed<D: Disk> {
    disk: Arc<D>,
    epoch: [u8; 16],
    written: Lsn,
}

impl<D: Disk> Confirmed<D> {
    /// What the folder says; nothing where it is of another epoch.
    ///
    /// # Errors
    /// Where it can't be read, or is damaged.
    pub(super) fn read(disk: Arc<D>, epoch: [u8; 16]) -> io::Result<Self> {
        let written = match disk.open(FILE) {
            Ok(file) => {
                let mut bytes = [0; BYTES];
                let read = file.read_at(&mut bytes, 0)?;
                let damaged = || {
                    io::Error::new(io::ErrorKind::InvalidData, format!("{FILE} is damaged: remove it, and start with --new-epoch"))
                };
                let (of, lsn) = parse(&bytes[..read]).ok_or_else(damaged)?;
                if of == epoch { lsn } else { Lsn::INVALID }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Lsn::INVALID,
            Err(error) => return Err(error),
        };
        Ok(Self { disk, epoch, written })
    }

    pub(super) const fn lsn(&self) -> Lsn {
        self.written
    }

    /// Writes down a later position: it may be said afterwards.
    pub(super) fn write(&mut self, lsn: Lsn) -> io::Result<()> {
        if lsn > self.written {
            write_whole(&*self.disk, FILE, &encode(self.epoch, lsn))?;
            self.written = lsn;
        }
        Ok(())
    }
}

fn encode(epoch: [u8; 16], lsn: Lsn) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(BYTES);
    bytes.extend(MAGIC);
    bytes.extend(epoch);
    bytes.extend(lsn.0.to_le_bytes());
    bytes.extend(checksum(&bytes).to_le_bytes());
    bytes
}

fn parse(bytes: &[u8]) -> Option<([u8; 16], Lsn)> {
    let (checked, crc) = bytes.split_last_chunk::<4>()?;
    let (magic, rest) = checked.split_first_chunk::<8>()?;
    let (epoch, rest) = rest.split_first_chunk::<16>()?;
    let lsn = u64::from_le_bytes(rest.try_into().ok()?);
    (*magic == MAGIC && u32::from_le_bytes(*crc) == checksum(checked)).then_some((*epoch, Lsn(lsn)))
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
        assert_eq!(Confirmed::read(Arc::clone(&disk), [2; 16]).unwrap().lsn(), Lsn::INVALID);
        std::fs::write(folder.path().join(FILE), b"BYDCDCCF").unwrap();
        assert_eq!(Confirmed::read(disk, [1; 16]).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn every_flip_is_noticed() {
        let bytes = encode([3; 16], Lsn(0xDEAD_BEEF));
        assert_eq!(parse(&bytes), Some(([3; 16], Lsn(0xDEAD_BEEF))));
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(parse(&damaged), None, "bit {bit}");
        }
    }
}
