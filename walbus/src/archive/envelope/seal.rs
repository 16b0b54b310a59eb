//! Plain content into an object, and back.

use std::borrow::Cow;
use std::io::{Read, Write};

use aws_lc_rs::digest;

use super::{Codec, ContentHash, Encryption, HEADER_BYTES, Header, HeaderError, KeyId, PLAIN_BYTES_MAX, cipher, codec};
use crate::archive::key::{Key, Keys};

/// How an object is made.
#[derive(Debug, Clone, Copy)]
pub struct Sealing<'a> {
    /// zstd's level, `None` to store the content as it is.
    pub level: Option<i32>,
    /// The key to encrypt with, and 32 bytes of chance that are used for this object alone; `None` not to encrypt.
    pub key: Option<(&'a Key, [u8; 32])>,
}

/// How much is unpacked at once: a zstd block.
const PIECE_BYTES: usize = 128 << 10;

/// An object that can't be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The content is not what the header says.
    #[error("it is damaged: {0}")]
    Damaged(String),
    /// The header can't be gone by.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// It is encrypted with a key that is not there.
    #[error("it is encrypted with key {key}, which is not among those given ({given}): name its file with --key-file")]
    Key {
        /// The key's id.
        key: KeyId,
        /// The ids of the keys that are there.
        given: String,
    },
    /// It is not encrypted, where all has to be.
    #[error(
        "it is not encrypted, and with a key only what is encrypted is believed: whoever may write to the store could have put it there. If \
         it was archived before there was a key, say --allow-plain until none of these is left"
    )]
    Plain,
}

/// Why [`unpack`] did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The object can't be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// What it was to be written to failed.
    #[error("write what is unpacked: {0}")]
    Write(#[source] std::io::Error),
}

/// The hash by which contents are compared.
#[must_use]
pub fn sha256(plain: &[u8]) -> ContentHash {
    content_hash(&digest::digest(&digest::SHA256, plain))
}

fn content_hash(digest: &digest::Digest) -> ContentHash {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest.as_ref());
    ContentHash(hash)
}

/// The object that holds `plain`, and its header.
///
/// # Errors
/// Where the content is longer than [`PLAIN_BYTES_MAX`], or zstd knows no such level.
pub fn seal(plain: &[u8], sealing: &Sealing<'_>) -> std::io::Result<(Header, Vec<u8>)> {
    if plain.len() as u64 > PLAIN_BYTES_MAX {
        return Err(std::io::Error::other(format!("{} bytes are more than the largest segment", plain.len())));
    }
    let (codec, level) = sealing.level.map_or((Codec::Stored, 0), |level| (Codec::Zstd, level));
    let mut header = Header {
        codec,
        encryption: Encryption::None,
        plain_bytes: plain.len() as u64,
        payload_bytes: 0,
        plain_sha256: sha256(plain),
    };
    let mut object = vec![0; HEADER_BYTES];
    codec::encode(plain, codec, level, &mut object)?;
    if let Some((key, salt)) = &sealing.key {
        header.encryption = Encryption::Aes256Gcm { key: key.id(), salt: *salt };
        header.payload_bytes = cipher::sealed_bytes((object.len() - HEADER_BYTES) as u64);
        let frame = object.split_off(HEADER_BYTES);
        cipher::object_key(key.secret(), salt)
            .and_then(|key| cipher::seal(&key, &header.encode(), &frame, &mut object))
            .map_err(|_| std::io::Error::other("the library of cryptography failed to encrypt"))?;
    }
    header.payload_bytes = (object.len() - HEADER_BYTES) as u64;
    object[..HEADER_BYTES].copy_from_slice(&header.encode());
    Ok((header, object))
}

/// The plain content of an object. Its length and hash have been checked, and where it is encrypted, that nothing was changed.
///
/// # Errors
/// Where it is damaged, is none of this archive's, or its key is missing.
pub fn open(object: &[u8], keys: &Keys) -> Result<(Header, Vec<u8>), OpenError> {
    let bytes = Header::parse(object)?.map_or(0, |header| header.plain_bytes);
    let mut plain = Vec::with_capacity(usize::try_from(bytes).unwrap_or(0));
    match unpack(object, keys, &mut plain) {
        Ok(header) => Ok((header, plain)),
        Err(UnpackError::Open(error)) => Err(error),
        Err(UnpackError::Write(error)) => Err(OpenError::Damaged(error.to_string())),
    }
}

/// Writes the plain content of an object, piece by piece. Only when this has returned without an error has its length and hash been
/// checked: what was written until then is nobody's to use.
///
/// # Errors
/// Where it is damaged, is none of this archive's, or its key is missing; and where it can't be written.
pub fn unpack(object: &[u8], keys: &Keys, out: &mut impl Write) -> Result<Header, UnpackError> {
    let damaged = |problem: String| OpenError::Damaged(problem);
    let header = Header::parse(object).map_err(OpenError::from)?;
    let header = header.ok_or_else(|| damaged(format!("it is cut off after {} bytes, in its header", object.len())))?;
    let frame = frame(object, &header, keys)?;
    let unpacked = |error: std::io::Error| damaged(format!("its content can't be unpacked: {error}"));
    let mut decoder = codec::decoder(&frame).map_err(unpacked)?;
    let (mut hash, mut bytes, mut piece) = (digest::Context::new(&digest::SHA256), 0, vec![0; PIECE_BYTES]);
    loop {
        let taken = decoder.read(&mut piece).map_err(unpacked)?;
        if taken == 0 {
            break;
        }
        bytes += taken as u64;
        if bytes > header.plain_bytes {
            return Err(damaged(format!("its content has more than the {} bytes that its header says", header.plain_bytes)).into());
        }
        hash.update(&piece[..taken]);
        out.write_all(&piece[..taken]).map_err(UnpackError::Write)?;
    }
    if bytes != header.plain_bytes {
        return Err(damaged(format!("its content has {bytes} bytes, its header says {}", header.plain_bytes)).into());
    }
    let found = content_hash(&hash.finish());
    if found != header.plain_sha256 {
        return Err(damaged(format!("its content has SHA-256 {found}, its header says {}", header.plain_sha256)).into());
    }
    Ok(header)
}

/// The zstd frame in an object: its payload, decrypted where it is encrypted.
fn frame<'a>(object: &'a [u8], header: &Header, keys: &Keys) -> Result<Cow<'a, [u8]>, OpenError> {
    let payload = &object[HEADER_BYTES..];
    if payload.len() as u64 != header.payload_bytes {
        let problem = format!("it has {} bytes, its header says {}", object.len(), header.object_bytes());
        return Err(OpenError::Damaged(problem));
    }
    let (key, salt) = match &header.encryption {
        Encryption::Aes256Gcm { key, salt } => (key, salt),
        Encryption::None if keys.take_plain() => return Ok(Cow::Borrowed(payload)),
        Encryption::None => return Err(OpenError::Plain),
    };
    let found = keys.find(*key).ok_or_else(|| OpenError::Key { key: *key, given: keys.to_string() })?;
    cipher::object_key(found.secret(), salt)
        .and_then(|object_key| cipher::open(&object_key, &object[..HEADER_BYTES], payload.to_vec()))
        .map(Cow::Owned)
        .map_err(|_| OpenError::Damaged("its content was changed: it does not decrypt".to_owned()))
}
