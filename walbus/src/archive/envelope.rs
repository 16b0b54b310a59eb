//! The envelope of every object but the marker: a header of ours in a zstd *skippable frame*, then the content as a zstd frame, so that
//! `zstd -d` gives the plain file. Encrypted, what follows the header is ciphertext, which `zstd -d` refuses.
//!
//! ```text
//!   byte 0 0x184D2A50 (4) │ 4 length of the header, 112 (4) │ 8 "bpgwal\0" (7) │ 15 version (1) │ 16 codec (1) │ 17 encryption (1)
//!   18 zeros (2) │ 20 chunk bytes (4) │ 24 plain length (8) │ 32 payload length (8) │ 40 SHA-256 of the plain content (32)
//!   72 key id (8) │ 80 salt (32) │ 112 zeros (4) │ 116 CRC-32C of bytes 8 to 115 (4) │ 120 payload
//! ```
//!
//! All numbers are little-endian.

use std::fmt;

#[cfg(feature = "archive")]
mod cipher;
#[cfg(feature = "archive")]
mod codec;
#[cfg(feature = "archive")]
mod seal;

#[cfg(feature = "archive")]
pub use seal::{OpenError, Sealing, UnpackError, open, seal, sha256, unpack};

/// The length of an envelope's header with the skippable frame that it is in, in bytes: where the payload begins.
pub const HEADER_BYTES: usize = 120;
/// The length of what the skippable frame holds.
const FRAME_CONTENT_BYTES: u32 = 112;
/// A zstd skippable frame's magic number, the first of sixteen.
const SKIPPABLE_MAGIC: u32 = 0x184D_2A50;
const MAGIC: [u8; 7] = *b"bpgwal\0";
/// The only version there is.
const VERSION: u8 = 1;

/// The longest plain content in bytes: the largest segment that Postgres knows.
pub const PLAIN_BYTES_MAX: u64 = 1 << 30;
/// How much of the zstd frame is encrypted in one piece, in bytes.
pub const CHUNK_BYTES: u32 = 1 << 20;
/// How the content is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// As it is: a zstd frame of raw blocks.
    Stored,
    /// Compressed by zstd.
    Zstd,
}

/// What was done against being read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encryption {
    /// AES-256-GCM in chunks, its key derived from a key file's by HKDF-SHA256.
    Aes256Gcm {
        /// The file's key.
        key: KeyId,
        /// What the object's own key is derived with. Never used twice.
        salt: [u8; 32],
    },
    /// Nothing.
    None,
}

/// Which key it was: the first 8 bytes of the SHA-256 of the key.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyId(pub [u8; 8]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The SHA-256 of a content.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ContentHash(pub [u8; 32]);

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for ContentHash {
    type Err = HashError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || HashError(text.to_owned());
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        let mut hash = [0; 32];
        if pairs.len() != hash.len() || !rest.is_empty() {
            return Err(error());
        }
        for (byte, [high, low]) in hash.iter_mut().zip(pairs) {
            *byte = nibble(*high).zip(nibble(*low)).map(|(high, low)| high << 4 | low).ok_or_else(error)?;
        }
        Ok(Self(hash))
    }
}

/// The value of a lower-case hexadecimal digit.
const fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

/// A text that is no SHA-256.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no SHA-256: expected 64 lower-case hexadecimal digits")]
pub struct HashError(pub String);

/// What an object says of itself before its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// How the content is stored.
    pub codec: Codec,
    /// What was done against being read.
    pub encryption: Encryption,
    /// The plain content's length in bytes, at most [`PLAIN_BYTES_MAX`].
    pub plain_bytes: u64,
    /// The length in bytes of what follows the header.
    pub payload_bytes: u64,
    /// The plain content's hash.
    pub plain_sha256: ContentHash,
}

/// A header that can't be gone by.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// It is damaged.
    #[error("the header is damaged: its CRC is {found:#010X}, expected {expected:#010X}")]
    Crc {
        /// What the header says.
        expected: u32,
        /// What its bytes come to.
        found: u32,
    },
    /// Its CRC is right, but it makes no sense.
    #[error("the header has a right CRC but no valid {0}: it was written by a later version of this program, or by another one")]
    Field(&'static str),
    /// It is none.
    #[error("it does not begin as an object of this archive does: another program put it there, or it is damaged")]
    Foreign,
    /// A version that is not known.
    #[error("its format is version {found}; this program knows version {VERSION}: use a later one")]
    Version {
        /// What the header says.
        found: u8,
    },
}

impl Header {
    /// Reads the header at the start of an object; `None` where there are fewer than [`HEADER_BYTES`], and what there is may be the
    /// start of one.
    ///
    /// # Errors
    /// Where it is none, damaged, or of another version.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, HeaderError> {
        if !agrees(bytes, 0, &SKIPPABLE_MAGIC.to_le_bytes()) || !agrees(bytes, 8, &MAGIC) {
            return Err(HeaderError::Foreign);
        }
        if let Some(found) = bytes.get(15).filter(|found| **found != VERSION) {
            return Err(HeaderError::Version { found: *found });
        }
        // Looked at last, since another version may have another length.
        if bytes.len() > 15 && !agrees(bytes, 4, &FRAME_CONTENT_BYTES.to_le_bytes()) {
            return Err(HeaderError::Field("frame length"));
        }
        bytes.first_chunk::<HEADER_BYTES>().map(Self::fields).transpose()
    }

    fn fields(bytes: &[u8; HEADER_BYTES]) -> Result<Self, HeaderError> {
        let expected = u32::from_le_bytes(field(bytes, 116));
        let found = crc_fast::crc32_iscsi(&bytes[8..116]);
        if expected != found {
            return Err(HeaderError::Crc { expected, found });
        }
        let codec = match bytes[16] {
            0 => Codec::Stored,
            1 => Codec::Zstd,
            _ => return Err(HeaderError::Field("codec")),
        };
        let (key, salt, chunk) = (field(bytes, 72), field(bytes, 80), u32::from_le_bytes(field(bytes, 20)));
        let encryption = match (bytes[17], chunk) {
            (0, 0) if key == [0; 8] && salt == [0; 32] => Encryption::None,
            (1, CHUNK_BYTES) => Encryption::Aes256Gcm { key: KeyId(key), salt },
            _ => return Err(HeaderError::Field("encryption")),
        };
        if bytes[18..20] != [0; 2] || bytes[112..116] != [0; 4] {
            return Err(HeaderError::Field("zeros"));
        }
        let header = Self {
            codec,
            encryption,
            plain_bytes: u64::from_le_bytes(field(bytes, 24)),
            payload_bytes: u64::from_le_bytes(field(bytes, 32)),
            plain_sha256: ContentHash(field(bytes, 40)),
        };
        if header.plain_bytes > PLAIN_BYTES_MAX {
            return Err(HeaderError::Field("plain length"));
        }
        // Raw blocks and what zstd adds to what it can't compress are far below twice the content.
        if header.payload_bytes > 2 * PLAIN_BYTES_MAX {
            return Err(HeaderError::Field("payload length"));
        }
        Ok(header)
    }

    /// The header's bytes, the skippable frame included.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..4].copy_from_slice(&SKIPPABLE_MAGIC.to_le_bytes());
        bytes[4..8].copy_from_slice(&FRAME_CONTENT_BYTES.to_le_bytes());
        bytes[8..15].copy_from_slice(&MAGIC);
        bytes[15] = VERSION;
        bytes[16] = match self.codec {
            Codec::Stored => 0,
            Codec::Zstd => 1,
        };
        if let Encryption::Aes256Gcm { key, salt } = &self.encryption {
            bytes[17] = 1;
            bytes[20..24].copy_from_slice(&CHUNK_BYTES.to_le_bytes());
            bytes[72..80].copy_from_slice(&key.0);
            bytes[80..112].copy_from_slice(salt);
        }
        bytes[24..32].copy_from_slice(&self.plain_bytes.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.payload_bytes.to_le_bytes());
        bytes[40..72].copy_from_slice(&self.plain_sha256.0);
        let crc = crc_fast::crc32_iscsi(&bytes[8..116]);
        bytes[116..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The whole object's length in bytes.
    #[must_use]
    pub const fn object_bytes(&self) -> u64 {
        HEADER_BYTES as u64 + self.payload_bytes
    }

    /// Whether another object's content is the same as this one's, however it is stored.
    #[must_use]
    pub fn same_content(&self, other: &Self) -> bool {
        self.plain_bytes == other.plain_bytes && self.plain_sha256 == other.plain_sha256
    }
}

/// Whether `bytes` have this content at that offset, as far as they reach.
fn agrees(bytes: &[u8], at: usize, content: &[u8]) -> bool {
    bytes.iter().skip(at).zip(content).all(|(found, expected)| found == expected)
}

/// `N` bytes of a header at an offset that lies in it.
fn field<const N: usize>(bytes: &[u8; HEADER_BYTES], at: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&bytes[at..at + N]);
    field
}

#[cfg(test)]
mod tests;
