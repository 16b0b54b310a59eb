use super::*;

const HASH: ContentHash = ContentHash([0xAB; 32]);

fn header() -> Header {
    Header { codec: Codec::Zstd, encryption: Encryption::None, plain_bytes: 0x0102_0304, payload_bytes: 77, plain_sha256: HASH }
}

fn encrypted() -> Header {
    Header { encryption: Encryption::Aes256Gcm { key: KeyId([0xCD; 8]), salt: [0xEF; 32] }, ..header() }
}

/// The header with these bytes in place of its own, and its CRC put right.
fn patched(header: &Header, at: usize, bytes: &[u8]) -> Result<Option<Header>, HeaderError> {
    let mut encoded = header.encode();
    encoded[at..at + bytes.len()].copy_from_slice(bytes);
    let crc = crc_fast::crc32_iscsi(&encoded[8..116]);
    encoded[116..].copy_from_slice(&crc.to_le_bytes());
    Header::parse(&encoded)
}

#[test]
fn a_header_is_laid_out_as_it_is_drawn() {
    let bytes = encrypted().encode();
    assert_eq!(bytes[..16], *b"\x50\x2A\x4D\x18\x70\0\0\0bpgwal\0\x01");
    assert_eq!(bytes[16..24], [1, 1, 0, 0, 0, 0, 0x10, 0]);
    assert_eq!(bytes[24..40], [4, 3, 2, 1, 0, 0, 0, 0, 77, 0, 0, 0, 0, 0, 0, 0]);
    assert!(bytes[40..72].iter().all(|byte| *byte == 0xAB));
    assert!(bytes[72..80].iter().all(|byte| *byte == 0xCD) && bytes[80..112].iter().all(|byte| *byte == 0xEF));
    assert_eq!(bytes[112..116], [0; 4]);
    assert_eq!(Header::parse(&bytes), Ok(Some(encrypted())));
    assert_eq!(Header::parse(&header().encode()), Ok(Some(header())));
}

#[test]
fn a_header_that_has_not_come_whole_is_waited_for() {
    let bytes = encrypted().encode();
    for len in 0..bytes.len() {
        assert_eq!(Header::parse(&bytes[..len]), Ok(None), "{len}");
    }
}

#[test]
fn a_header_that_is_none_is_told_by_what_is_wrong() {
    let bytes = header().encode();
    for at in 0..bytes.len() {
        let mut bytes = bytes;
        bytes[at] ^= 0x20;
        let found = Header::parse(&bytes);
        match at {
            0..4 | 8..15 => assert_eq!(found, Err(HeaderError::Foreign), "{at}"),
            4..8 => assert_eq!(found, Err(HeaderError::Field("frame length")), "{at}"),
            15 => assert_eq!(found, Err(HeaderError::Version { found: 0x21 })),
            _ => assert!(matches!(found, Err(HeaderError::Crc { .. })), "{at}: {found:?}"),
        }
    }
    for (at, bytes, field) in [
        (16, &[2][..], "codec"),
        (17, &[2], "encryption"),
        (17, &[1], "encryption"),
        (19, &[1], "zeros"),
        (20, &[1], "encryption"),
        (31, &[1], "plain length"),
        (39, &[1], "payload length"),
        (72, &[1], "encryption"),
        (111, &[1], "encryption"),
        (115, &[1], "zeros"),
    ] {
        assert_eq!(patched(&header(), at, bytes), Err(HeaderError::Field(field)), "{at}");
    }
}

#[test]
fn a_hash_is_printed_and_read() {
    let text = HASH.to_string();
    assert_eq!((text.len(), text.parse()), (64, Ok(HASH)));
    for wrong in ["", "ab", &text[1..], &text.to_uppercase(), &format!("{text}ab"), &text.replace("ab", "xy")] {
        assert_eq!(wrong.parse::<ContentHash>(), Err(HashError((*wrong).to_owned())));
    }
}

#[cfg(feature = "archive")]
mod sealed {
    use proptest::prelude::*;

    use super::*;
    use crate::archive::key::{Key, Keys};

    fn key(byte: u8) -> Key {
        Key::new([byte; 32])
    }

    fn sealed(plain: &[u8], level: Option<i32>, key: Option<&Key>) -> Vec<u8> {
        let key = key.map(|key| (key, [9; 32]));
        let (header, object) = seal(plain, &Sealing { level, key }).unwrap();
        assert_eq!((Header::parse(&object), header.object_bytes()), (Ok(Some(header)), object.len() as u64));
        object
    }

    /// Bytes that can't be compressed, always the same.
    fn noise(len: usize) -> Vec<u8> {
        let mut state = 1_u64;
        let step = |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        (0..len).map(step).collect()
    }

    /// The header's payload length set to what is there, and its CRC put right: as one would who wants a cut not to be seen.
    fn relabelled(mut object: Vec<u8>) -> Vec<u8> {
        let payload = (object.len() - HEADER_BYTES) as u64;
        object[32..40].copy_from_slice(&payload.to_le_bytes());
        let crc = crc_fast::crc32_iscsi(&object[8..116]);
        object[116..120].copy_from_slice(&crc.to_le_bytes());
        object
    }

    #[test]
    fn zstd_alone_gives_the_plain_file() {
        for plain in [Vec::new(), noise(1), noise(128 << 10), noise((128 << 10) + 1), vec![7; 3 << 20]] {
            for level in [None, Some(1), Some(3)] {
                let object = sealed(&plain, level, None);
                assert!(zstd::stream::decode_all(&object[..]).unwrap() == plain, "{} at {level:?}", plain.len());
            }
            assert!(zstd::stream::decode_all(&sealed(&plain, Some(1), Some(&key(1)))[..]).is_err(), "what is encrypted is refused");
        }
    }

    #[test]
    fn each_flipped_bit_of_an_encrypted_object_is_seen() {
        let keys = Keys::new(vec![key(1)]);
        let object = sealed(b"a little WAL", Some(1), Some(&key(1)));
        for at in 0..object.len() {
            let mut object = object.clone();
            object[at] ^= 1;
            assert!(open(&object, &keys).is_err(), "{at}");
            // With the CRC put right as well, the tags of the chunks still cover the header.
            if (16..HEADER_BYTES).contains(&at) {
                assert!(open(&relabelled(object), &keys).is_err() || (32..40).contains(&at) || at >= 116, "{at}");
            }
        }
    }

    #[test]
    fn a_flipped_bit_never_gives_other_content() {
        for level in [None, Some(1)] {
            let plain = vec![3; 500];
            let object = sealed(&plain, level, None);
            for at in 0..object.len() {
                let mut object = object.clone();
                object[at] ^= 1;
                // zstd has bits that do not matter to the content.
                assert!(
                    open(&object, &Keys::none()).is_ok_and(|(_, found)| found == plain) || open(&object, &Keys::none()).is_err()
                );
            }
        }
    }

    #[test]
    fn a_cut_object_is_damaged() {
        for key in [None, Some(key(1))] {
            let keys = Keys::new(key.iter().cloned().collect());
            let object = sealed(&noise(5000), Some(1), key.as_ref());
            for len in (0..object.len()).step_by(7) {
                assert!(matches!(open(&object[..len], &keys), Err(OpenError::Damaged(_))), "{len}");
                if len >= HEADER_BYTES {
                    assert!(matches!(open(&relabelled(object[..len].to_vec()), &keys), Err(OpenError::Damaged(_))), "{len}");
                }
            }
        }
    }

    #[test]
    fn what_is_unpacked_is_bounded_by_the_header() {
        let object = sealed(&noise(300_000), Some(1), None);
        for (says, expected) in [(299_999, "more than the 299999 bytes"), (300_001, "has 300000 bytes")] {
            let header = Header { plain_bytes: says, ..Header::parse(&object).unwrap().unwrap() };
            let object = [&header.encode()[..], &object[HEADER_BYTES..]].concat();
            let mut out = Vec::new();
            let error = unpack(&object, &Keys::none(), &mut out).unwrap_err();
            assert!(matches!(&error, UnpackError::Open(OpenError::Damaged(problem)) if problem.contains(expected)), "{error}");
            assert!(out.len() as u64 <= says);
        }
        let mut too_small = [0; 1000];
        assert!(matches!(unpack(&object, &Keys::none(), &mut &mut too_small[..]), Err(UnpackError::Write(_))));
    }

    #[test]
    fn chunks_can_be_neither_moved_nor_left_out() {
        let chunk = CHUNK_BYTES as usize;
        let (secret, aad) = (cipher::object_key(&[1; 32], &[2; 32]).unwrap(), b"header");
        let seal = |len| {
            let mut out = Vec::new();
            cipher::seal(&secret, aad, &noise(len), &mut out).unwrap();
            assert_eq!(out.len() as u64, cipher::sealed_bytes(len as u64));
            out
        };
        for len in [0, 1, chunk - 1, chunk, chunk + 1, 2 * chunk, 2 * chunk + 5] {
            let sealed = seal(len);
            assert!(cipher::open(&secret, aad, sealed.clone()).unwrap() == noise(len), "{len}");
            assert!(cipher::open(&secret, b"other", sealed.clone()).is_err());
            // Up to a chunk's end, so that each that is left is whole.
            if len > chunk {
                let last = (len - 1) / chunk * (chunk + 16);
                assert!(cipher::open(&secret, aad, sealed[..last].to_vec()).is_err(), "the last chunk is missing");
                assert!(cipher::open(&secret, aad, sealed[chunk + 16..].to_vec()).is_err(), "the first chunk is missing");
            }
        }
        let mut swapped = seal(2 * chunk);
        swapped.rotate_left(chunk + 16);
        assert!(cipher::open(&secret, aad, swapped).is_err());
    }

    #[test]
    fn the_right_key_is_found_and_a_missing_one_named() {
        let object = sealed(b"WAL", None, Some(&key(1)));
        let both = Keys::new(vec![key(2), key(1)]);
        assert_eq!(open(&object, &both).unwrap().1, b"WAL");
        let error = open(&object, &Keys::new(vec![key(2)])).unwrap_err();
        assert_eq!(error, OpenError::Key { key: key(1).id(), given: key(2).id().to_string() });
        assert!(error.to_string().contains("--key-file") && error.to_string().contains(&key(1).id().to_string()));
        assert!(matches!(open(&object, &Keys::none()), Err(OpenError::Key { .. })));
    }

    #[test]
    fn each_object_has_a_key_of_its_own() {
        let seal = |salt| seal(b"WAL", &Sealing { level: None, key: Some((&key(1), salt)) }).unwrap().1;
        assert_ne!(seal([1; 32])[HEADER_BYTES..], seal([2; 32])[HEADER_BYTES..]);
        assert_eq!(seal([1; 32]), seal([1; 32]));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn what_is_sealed_is_opened(
            unit in proptest::collection::vec(any::<u8>(), 0..200), times in 1usize..2000, level in proptest::option::of(1i32..5), with_key: bool,
        ) {
            let plain = unit.repeat(times);
            let key = with_key.then(|| key(4));
            let object = sealed(&plain, level, key.as_ref());
            let (header, opened) = open(&object, &Keys::new(key.into_iter().collect())).unwrap();
            prop_assert!(opened == plain);
            prop_assert_eq!((header.plain_bytes, header.plain_sha256), (plain.len() as u64, sha256(&plain)));
        }

        #[test]
        fn any_bytes_are_opened_or_refused(mut bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(open(&bytes, &Keys::none()).is_err());
            let head = sealed(b"", None, None);
            let len = bytes.len().min(head.len());
            bytes[..len].copy_from_slice(&head[..len]);
            drop(open(&bytes, &Keys::none()));
        }
    }
}
