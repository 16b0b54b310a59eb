//! The content as a zstd frame and back. Source: RFC 8878.

use std::io::Read;

use super::Codec;

/// The most that a block holds, `Block_Maximum_Size` for a window of 128 KiB or more.
const BLOCK_BYTES: usize = 128 << 10;
/// `Magic_Number`, then a descriptor that says "content size in 8 bytes, no checksum", then a window of 128 KiB. Without a window of its
/// own (`Single_Segment_flag`), a frame's window is its content, and `zstd -d` refuses one above 128 MB.
const STORED_HEADER: [u8; 6] = [0x28, 0xB5, 0x2F, 0xFD, 0xC0, 7 << 3];

/// The content as one zstd frame of that codec, appended to `out`.
pub(super) fn encode(plain: &[u8], codec: Codec, level: i32, out: &mut Vec<u8>) -> std::io::Result<()> {
    match codec {
        Codec::Stored => encode_stored(plain, out),
        Codec::Zstd => {
            let mut compressor = zstd::bulk::Compressor::new(level)?;
            compressor.set_parameter(zstd::zstd_safe::CParameter::ChecksumFlag(true))?;
            // Into a buffer that nobody fills with zeros first: most of it is never touched.
            out.extend(compressor.compress(plain)?);
        }
    }
    Ok(())
}

/// One zstd frame of raw blocks.
fn encode_stored(plain: &[u8], out: &mut Vec<u8>) {
    out.extend(STORED_HEADER);
    out.extend((plain.len() as u64).to_le_bytes());
    let last = plain.len().div_ceil(BLOCK_BYTES).max(1) - 1;
    for number in 0..=last {
        let start = number * BLOCK_BYTES;
        let block = &plain[start..plain.len().min(start + BLOCK_BYTES)];
        // Last_Block, Block_Type 0 (raw), Block_Size.
        let header = u32::from(number == last) | (block.len() as u32) << 3;
        out.extend(&header.to_le_bytes()[..3]);
        out.extend(block);
    }
}

/// Reads the content of a zstd frame piece by piece: each is still in the processor's cache when it is hashed and written.
pub(super) fn decoder(frame: &[u8]) -> std::io::Result<impl Read> {
    zstd::stream::read::Decoder::with_buffer(frame)
}
