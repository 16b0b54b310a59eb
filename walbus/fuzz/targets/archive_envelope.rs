//! Objects of an archive, of any bytes: also with a header whose magic and checksum are put right, and as they are sealed, with some bytes
//! changed. What is opened has the hash that its header says; of what is encrypted, no bit can be changed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use walbus::archive::envelope::{Encryption, HEADER_BYTES, Header, Sealing, open, seal, sha256};
use walbus::archive::key::{Key, Keys};

/// No more is unpacked than this: a header may say up to 1 GiB, and the time is better spent.
const PLAIN_BYTES_MAX: u64 = 1 << 20;

fuzz_target!(|data: &[u8]| {
    let Some(([kind, at_high, at_low, flip], data)) = data.split_first_chunk::<4>() else { return };
    let keys = Keys::new(vec![Key::new([1; 32])]).allowing_plain(true);
    let at = usize::from(*at_high) << 8 | usize::from(*at_low);
    match kind % 4 {
        0 => opened(data, &keys),
        1 => opened(&patched(data), &keys),
        _ => sealed(data, kind % 4 == 3, at, *flip, &keys),
    }
});

fn opened(object: &[u8], keys: &Keys) {
    match Header::parse(object) {
        Ok(Some(header)) => {
            assert_eq!(header.encode()[..], object[..HEADER_BYTES]);
            if header.plain_bytes > PLAIN_BYTES_MAX {
                return;
            }
            // Nobody without the key makes what is believed with it.
            if header.encryption == Encryption::None {
                assert!(open(object, &keys.clone().allowing_plain(false)).is_err());
            }
            if let Ok((_, plain)) = open(object, keys) {
                assert_eq!((plain.len() as u64, sha256(&plain)), (header.plain_bytes, header.plain_sha256));
            }
        }
        Ok(None) => assert!(object.len() < HEADER_BYTES),
        Err(_) => assert!(open(object, keys).is_err()),
    }
}

/// The bytes as an object that has got through to its fields.
fn patched(data: &[u8]) -> Vec<u8> {
    let mut object = data.to_vec();
    object.resize(object.len().max(HEADER_BYTES), 0);
    object[..16].copy_from_slice(b"\x50\x2A\x4D\x18\x70\0\0\0bpgwal\0\x01");
    let payload = (object.len() - HEADER_BYTES) as u64;
    object[32..40].copy_from_slice(&payload.to_le_bytes());
    let crc = crc_fast::crc32_iscsi(&object[8..116]);
    object[116..120].copy_from_slice(&crc.to_le_bytes());
    object
}

fn sealed(plain: &[u8], encrypt: bool, at: usize, flip: u8, keys: &Keys) {
    let key = Key::new([1; 32]);
    let level = (at % 3 != 0).then_some(1);
    let (header, mut object) = seal(plain, &Sealing { level, key: encrypt.then_some((&key, [2; 32])) }).unwrap();
    assert_eq!(header.encryption != Encryption::None, encrypt);
    assert_eq!(open(&object, keys).unwrap(), (header, plain.to_vec()));
    let at = at % object.len();
    object[at] ^= flip;
    match open(&object, keys) {
        Ok((_, found)) => assert!(found == plain && (flip == 0 || !encrypt)),
        Err(_) => assert_ne!(flip, 0),
    }
}
