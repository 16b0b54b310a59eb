//! What follows a record's header: block headers, block data, main data. Source: `DecodeXLogRecord` in `xlogreader.c`.

use super::field::{length, u8_at, u16_at, u32_at};
use super::record::RECORD_HEADER_BYTES;

/// `XLR_MAX_BLOCK_ID`.
const MAX_BLOCK_ID: u8 = 32;
/// `XLR_BLOCK_ID_TOPLEVEL_XID`: a subtransaction's top-level transaction, 4 bytes.
const ID_TOPLEVEL_XID: u8 = 252;
/// `XLR_BLOCK_ID_ORIGIN`: a replication origin, 2 bytes.
const ID_ORIGIN: u8 = 253;
/// `XLR_BLOCK_ID_DATA_LONG`: main data, its length in 4 bytes.
const ID_DATA_LONG: u8 = 254;
/// `XLR_BLOCK_ID_DATA_SHORT`: main data, its length in 1 byte.
const ID_DATA_SHORT: u8 = 255;

/// `BKPBLOCK_HAS_IMAGE`.
const BLOCK_HAS_IMAGE: u8 = 0x10;
/// `BKPBLOCK_HAS_DATA`.
const BLOCK_HAS_DATA: u8 = 0x20;
/// `BKPBLOCK_SAME_REL`: no [`RELATION_BYTES`].
const BLOCK_SAME_REL: u8 = 0x80;
/// `BKPIMAGE_HAS_HOLE`.
const IMAGE_HAS_HOLE: u8 = 0x01;
/// `BKPIMAGE_COMPRESS_PGLZ`, `_LZ4` and `_ZSTD`.
const IMAGE_COMPRESSED: u8 = 0x04 | 0x08 | 0x10;
/// `RelFileLocator`: tablespace, database, relation.
const RELATION_BYTES: usize = 12;

/// How a record's body is laid out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Body {
    /// The replication origin that the change came from.
    pub origin: Option<u16>,
    /// The top-level transaction, where a subtransaction's first record says so.
    pub toplevel_xid: Option<u32>,
    /// How many blocks it refers to.
    pub blocks: u8,
    /// How many of them come with a full-page image.
    pub images: u8,
    /// Where the main data starts, in bytes from the record's start.
    pub main_at: usize,
    /// The main data's length in bytes; it ends where the record does.
    pub main_bytes: u32,
}

/// A body that is not laid out as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BodyError(pub &'static str);

impl Body {
    /// Walks the block headers of a record of `total_bytes`, of which `bytes` is the start, the record's header included. No more
    /// is needed of it than goes up to the block headers' end.
    ///
    /// # Errors
    /// Where the headers contradict each other or the record's length, or `bytes` ends within them.
    pub fn walk(bytes: &[u8], total_bytes: u32) -> Result<Self, BodyError> {
        let mut walk = Walk { bytes, at: length(RECORD_HEADER_BYTES), data: 0, last_block: None, has_relation: false };
        let end = length(total_bytes);
        let mut body = Self::default();
        // What is left is data alone once it is no more than the headers so far have announced.
        while end.saturating_sub(walk.at) > walk.data {
            match walk.u8()? {
                id @ (ID_DATA_SHORT | ID_DATA_LONG) => {
                    body.main_bytes = if id == ID_DATA_SHORT { u32::from(walk.u8()?) } else { walk.u32()? };
                    walk.data = walk.data.saturating_add(length(body.main_bytes));
                    break;
                }
                ID_ORIGIN => body.origin = Some(walk.u16()?),
                ID_TOPLEVEL_XID => body.toplevel_xid = Some(walk.u32()?),
                id if id <= MAX_BLOCK_ID => {
                    body.images += u8::from(walk.block(id)?);
                    body.blocks += 1;
                }
                _ => return Err(BodyError("a block has an unknown id")),
            }
        }
        if end.checked_sub(walk.at) != Some(walk.data) {
            return Err(BodyError("its headers do not add up to its length"));
        }
        body.main_at = end.saturating_sub(length(body.main_bytes));
        Ok(body)
    }
}

/// A place among the block headers.
struct Walk<'a> {
    bytes: &'a [u8],
    /// The next header byte.
    at: usize,
    /// The bytes of data announced so far.
    data: usize,
    last_block: Option<u8>,
    has_relation: bool,
}

impl Walk<'_> {
    fn u8(&mut self) -> Result<u8, BodyError> {
        self.next(1, u8_at)
    }

    fn u16(&mut self) -> Result<u16, BodyError> {
        self.next(2, u16_at)
    }

    fn u32(&mut self) -> Result<u32, BodyError> {
        self.next(4, u32_at)
    }

    fn next<T>(&mut self, bytes: usize, read: fn(&[u8], usize) -> Option<T>) -> Result<T, BodyError> {
        let value = read(self.bytes, self.at).ok_or(BodyError("its headers run past its end"))?;
        self.at += bytes;
        Ok(value)
    }

    /// Reads a block's header behind its id, and says whether the block comes with an image.
    fn block(&mut self, id: u8) -> Result<bool, BodyError> {
        if self.last_block.is_some_and(|last| id <= last) {
            return Err(BodyError("its blocks are out of order"));
        }
        self.last_block = Some(id);
        let flags = self.u8()?;
        let data = self.u16()?;
        if (flags & BLOCK_HAS_DATA != 0) != (data != 0) {
            return Err(BodyError("a block's data and the flag for it contradict each other"));
        }
        self.data = self.data.saturating_add(usize::from(data));
        let has_image = flags & BLOCK_HAS_IMAGE != 0;
        if has_image {
            self.image()?;
        }
        if flags & BLOCK_SAME_REL == 0 {
            self.at += RELATION_BYTES;
            self.has_relation = true;
        } else if !self.has_relation {
            return Err(BodyError("a block is of the same relation as one before it, and there is none"));
        }
        self.u32()?; // the block's number
        Ok(has_image)
    }

    /// Reads the header of a full-page image. What depends on the size of data pages is not checked: it may be another one.
    fn image(&mut self) -> Result<(), BodyError> {
        let stored = self.u16()?;
        let hole_offset = self.u16()?;
        let info = self.u8()?;
        let has_hole = info & IMAGE_HAS_HOLE != 0;
        let is_compressed = info & IMAGE_COMPRESSED != 0;
        let has_empty_hole = has_hole && is_compressed && self.u16()? == 0;
        if has_empty_hole || has_hole != (hole_offset != 0) {
            return Err(BodyError("an image's hole and the flag for it contradict each other"));
        }
        self.data = self.data.saturating_add(usize::from(stored));
        Ok(())
    }
}
