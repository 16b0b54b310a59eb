//! The payload encrypted in chunks. Each has a nonce of its own, and the last one's says so: chunks can't be moved, left out or cut off
//! without being noticed.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};

use super::CHUNK_BYTES;

/// The length of the authentication tag behind each chunk.
const TAG_BYTES: u64 = 16;

/// What the derived key is for.
const INFO: &[u8] = b"beyond-pg-archive object v1";

/// How long the ciphertext of so many bytes is.
pub(super) const fn sealed_bytes(bytes: u64) -> u64 {
    bytes + chunks(bytes) * TAG_BYTES
}

/// At least one, so that the end of an empty content is proven as well.
const fn chunks(bytes: u64) -> u64 {
    let chunks = bytes.div_ceil(CHUNK_BYTES as u64);
    if chunks == 0 { 1 } else { chunks }
}

/// The key of one object.
pub(super) fn object_key(secret: &[u8; 32], salt: &[u8; 32]) -> Result<LessSafeKey, Unspecified> {
    let derived = Salt::new(HKDF_SHA256, salt).extract(secret);
    let key: UnboundKey = derived.expand(&[INFO], &AES_256_GCM)?.into();
    Ok(LessSafeKey::new(key))
}

/// Encrypts `plain`, and appends it to `out`.
pub(super) fn seal(key: &LessSafeKey, header: &[u8], plain: &[u8], out: &mut Vec<u8>) -> Result<(), Unspecified> {
    let last = chunks(plain.len() as u64) - 1;
    for number in 0..=last {
        let chunk = chunk_of(plain, number, CHUNK_BYTES as usize);
        let start = out.len();
        out.extend(chunk);
        let tag = key.seal_in_place_separate_tag(nonce(number, number == last), Aad::from(header), &mut out[start..])?;
        out.extend(tag.as_ref());
    }
    Ok(())
}

/// Decrypts what [`seal`] made; fails where a bit of it or of the header has changed.
pub(super) fn open(key: &LessSafeKey, header: &[u8], mut sealed: Vec<u8>) -> Result<Vec<u8>, Unspecified> {
    let (whole, tag) = (CHUNK_BYTES as usize + TAG_BYTES as usize, TAG_BYTES as usize);
    let last = (sealed.len().div_ceil(whole).max(1) - 1) as u64;
    let mut end = 0;
    for number in 0..=last {
        let start = number as usize * whole;
        let stop = sealed.len().min(start + whole);
        let plain = key.open_in_place(nonce(number, number == last), Aad::from(header), &mut sealed[start..stop])?.len();
        debug_assert_eq!(plain + tag, stop - start);
        sealed.copy_within(start..start + plain, end);
        end += plain;
    }
    sealed.truncate(end);
    Ok(sealed)
}

fn chunk_of(bytes: &[u8], number: u64, size: usize) -> &[u8] {
    let start = number as usize * size;
    &bytes[start..bytes.len().min(start + size)]
}

/// The chunk's number in 8 bytes, three zeros, and whether it is the last. The key is the object's own, so no nonce is used twice.
fn nonce(number: u64, is_last: bool) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    nonce[..8].copy_from_slice(&number.to_le_bytes());
    nonce[NONCE_LEN - 1] = u8::from(is_last);
    Nonce::assume_unique_for_key(nonce)
}
