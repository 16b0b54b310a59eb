//! The epoch: which life of the slot the positions are of, and whose log this is.

use std::fmt;
use std::io;
use std::str::FromStr;

use walbus::disk::{Disk, DiskFile, write_whole};
use walbus::{Lsn, SystemId};

use super::layout::{checksum, take, take_u32, take_u64};
use super::names::{EPOCH_FILE, file_of};
use super::{Damage, Identity, OpenError};

const MAGIC: [u8; 8] = *b"BYDCDCEP";
const VERSION: u32 = 1;
/// Magic, version, the slot's length, two epochs, system identifier, LSN, checksum.
const FIXED_BYTES: usize = 8 + 4 + 4 + 16 + 16 + 8 + 8 + 4;
/// The longest name of a slot (`NAMEDATALEN` and some more).
const SLOT_BYTES_MAX: usize = 256;

/// One life of a slot: positions of another epoch mean nothing in this one.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Epoch([u8; 16]);

impl Epoch {
    /// An epoch of these bytes, which should be random.
    #[must_use]
    pub const fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub const fn bytes(self) -> [u8; 16] {
        self.0
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A text that is no epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an epoch is 32 hexadecimal digits, as `log ls` and /v1/status print it")]
pub struct NoEpoch;

impl FromStr for Epoch {
    type Err = NoEpoch;

    fn from_str(text: &str) -> Result<Self, NoEpoch> {
        let plain = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        u128::from_str_radix(text, 16).ok().filter(|_| plain).map(|number| Self(number.to_be_bytes())).ok_or(NoEpoch)
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What the epoch's file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EpochFile {
    /// The epoch.
    pub epoch: Epoch,
    /// The one before, whose segments go; the same as `epoch` where there was none.
    pub retired: Epoch,
    /// Whose log it is.
    pub identity: Identity,
    /// Where the slot's changes begin.
    pub start_lsn: Lsn,
}

impl EpochFile {
    /// The file's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let slot = self.identity.slot.as_bytes();
        let mut to = Vec::with_capacity(FIXED_BYTES + slot.len());
        to.extend(MAGIC);
        to.extend(VERSION.to_le_bytes());
        to.extend(u32::try_from(slot.len()).unwrap_or(u32::MAX).to_le_bytes());
        to.extend(self.epoch.0);
        to.extend(self.retired.0);
        to.extend(self.identity.system_id.0.to_le_bytes());
        to.extend(self.start_lsn.0.to_le_bytes());
        to.extend(slot);
        to.extend(checksum(&to).to_le_bytes());
        to
    }

    /// Reads the file's bytes.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn parse(bytes: &[u8]) -> Result<Self, &'static str> {
        if !bytes.starts_with(&MAGIC) {
            return Err("it is no epoch file of an event log");
        }
        if bytes.len() < FIXED_BYTES || bytes.len() > FIXED_BYTES + SLOT_BYTES_MAX {
            return Err("its length can't be");
        }
        let mut rest = &bytes[MAGIC.len()..];
        if take_u32(&mut rest) != VERSION {
            return Err("its version is not known: a newer beyond-pg-cdc has written it");
        }
        let (checked, crc) = bytes.split_at(bytes.len() - 4);
        let slot_bytes = take_u32(&mut rest) as usize;
        if crc != checksum(checked).to_le_bytes() || slot_bytes != bytes.len() - FIXED_BYTES {
            return Err("its checksum is wrong");
        }
        let [epoch, retired] = [take(&mut rest), take(&mut rest)].map(Epoch);
        let system_id = SystemId(take_u64(&mut rest));
        let start_lsn = Lsn(take_u64(&mut rest));
        let slot = String::from_utf8(rest[..slot_bytes].to_vec()).map_err(|_| "its slot's name is no text")?;
        Ok(Self { epoch, retired, identity: Identity { system_id, slot }, start_lsn })
    }

    /// What the folder's epoch file says, `None` where there is none.
    ///
    /// # Errors
    /// Where it can't be read, or is damaged.
    pub fn read<D: Disk>(disk: &D) -> Result<Option<Self>, OpenError> {
        let failed = OpenError::io("read", EPOCH_FILE);
        let file = match disk.open(EPOCH_FILE) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        // One more than it may have, so that a longer one is noticed.
        let mut bytes = vec![0; FIXED_BYTES + SLOT_BYTES_MAX + 1];
        let len = file.read_at(&mut bytes, 0).map_err(failed)?;
        let parsed = Self::parse(&bytes[..len]);
        parsed.map(Some).map_err(|reason| Damage::new(EPOCH_FILE, 0, reason).into())
    }
}

/// Begins an epoch in a folder: its first one, or a new one, behind which nothing of the old one is left. Open the log afterwards.
///
/// Killed at any moment, either the old epoch is there or the new one, and [`super::EventLog::open`] removes what is left of the other.
///
/// # Errors
/// Where the folder's log is that of another cluster, or can't be written.
///
/// # Panics
/// Where `epoch` is the one that there is.
pub fn start_epoch<D: Disk>(disk: &D, identity: &Identity, epoch: Epoch, start_lsn: Lsn) -> Result<(), OpenError> {
    if identity.slot.len() > SLOT_BYTES_MAX {
        return Err(OpenError::SlotName(identity.slot.clone()));
    }
    let held = EpochFile::read(disk)?;
    if let Some(held) = &held {
        assert_ne!(held.epoch, epoch, "a new epoch is another one");
        if held.identity.system_id != identity.system_id {
            return Err(OpenError::OtherCluster { held: held.identity.system_id, wanted: identity.system_id });
        }
        // Those of an epoch before the one that is retired now: its file could not name both.
        remove_segments(disk, |of| of == Some(held.retired) && held.retired != held.epoch)?;
    }
    let retired = held.map_or(epoch, |held| held.epoch);
    let file = EpochFile { epoch, retired, identity: identity.clone(), start_lsn };
    write_whole(disk, EPOCH_FILE, &file.encode()).map_err(OpenError::io("write", EPOCH_FILE))?;
    // Whatever they hold: an epoch is also begun to get rid of a log that is damaged.
    remove_segments(disk, |of| of != Some(epoch))
}

/// Removes an epoch that was begun and holds nothing, with the first segment where that was made: there is no log then.
///
/// # Errors
/// Of the operating system.
pub fn remove_epoch<D: Disk>(disk: &D) -> Result<(), OpenError> {
    let Some(held) = EpochFile::read(disk)? else { return Ok(()) };
    remove_segments(disk, |of| of == Some(held.epoch))?;
    disk.remove(EPOCH_FILE).map_err(OpenError::io("remove", EPOCH_FILE))?;
    disk.sync_dir().map_err(OpenError::io("sync", "the folder"))
}

/// Removes the segments of which `goes` says so, told the epoch of each, or `None` where its header can't be read.
pub(super) fn remove_segments<D: Disk>(disk: &D, goes: impl Fn(Option<Epoch>) -> bool) -> Result<(), OpenError> {
    let files = disk.list().map_err(OpenError::io("list", "the folder"))?;
    let mut removed = false;
    for number in files.iter().filter_map(|(name, _)| super::names::segment_number(name)) {
        let name = file_of(number);
        let of = match super::scan::read_header(disk, number) {
            Ok((_, header)) => Some(header.epoch),
            Err(OpenError::Damaged(_)) => None,
            Err(error) => return Err(error),
        };
        if goes(of) {
            disk.remove(&name).map_err(OpenError::io("remove", &name))?;
            removed = true;
        }
    }
    if removed { disk.sync_dir().map_err(OpenError::io("sync", "the folder")) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> EpochFile {
        EpochFile {
            epoch: Epoch([1; 16]),
            retired: Epoch([2; 16]),
            identity: Identity { system_id: SystemId(3), slot: "a_slot".into() },
            start_lsn: Lsn(4),
        }
    }

    #[test]
    fn written_and_read_back_and_every_flip_is_noticed() {
        let bytes = file().encode();
        assert_eq!(EpochFile::parse(&bytes), Ok(file()));
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(EpochFile::parse(&damaged).is_err(), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert!(EpochFile::parse(&bytes[..len]).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn printed_as_digits_and_read_back() {
        assert_eq!(Epoch([0xAB; 16]).to_string(), "ab".repeat(16));
        assert_eq!("0Ab1".repeat(8).parse(), Ok(Epoch([[0x0A, 0xB1]; 8].concat().try_into().unwrap())));
        for wrong in ["", "ab", &"ab".repeat(17), &format!("+{}", "a".repeat(31)), &"xy".repeat(16)] {
            assert_eq!(wrong.parse::<Epoch>(), Err(NoEpoch), "{wrong}");
        }
    }
}
