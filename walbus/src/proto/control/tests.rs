use super::*;
use proptest::prelude::*;

/// A file of that version: all zeros but for what must not be.
fn file(control: u32, catalog: u32, crc_at: usize) -> Vec<u8> {
    let mut file = vec![0; CONTROL_FILE_BYTES];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &7_100_000_000_000_000_001_u64.to_le_bytes());
    put(8, &control.to_le_bytes());
    put(12, &catalog.to_le_bytes());
    put(16, &6_u32.to_le_bytes());
    put(40, &0x300_0028_u64.to_le_bytes());
    put(48, &2_u32.to_le_bytes());
    put(52, &1_u32.to_le_bytes());
    put(228, &(64_u32 << 20).to_le_bytes());
    seal(&mut file, crc_at);
    file
}

fn seal(file: &mut [u8], crc_at: usize) {
    let crc = crc_fast::crc32_iscsi(&file[..crc_at]);
    file[crc_at..crc_at + 4].copy_from_slice(&crc.to_le_bytes());
}

#[test]
fn each_version_has_its_place_for_the_crc() {
    for (control, catalog, crc_at, version) in [
        (1300, 202_209_061, 288, WalVersion::V15),
        (1300, 202_307_071, 288, WalVersion::V16),
        (1700, 202_406_281, 288, WalVersion::V17),
        (1800, 202_506_291, 292, WalVersion::V18),
    ] {
        let read = Control::parse(&file(control, catalog, crc_at)).unwrap();
        assert_eq!((read.version, read.state, read.redo), (version, DbState::InProduction, Lsn(0x300_0028)));
        assert_eq!((read.timeline.get(), read.previous_timeline.get(), read.segment.bytes()), (2, 1, 64 << 20));
        assert_eq!(read.min_recovery_timeline, None);
    }
}

#[test]
fn a_file_that_cannot_be_used_is_named() {
    let good = file(1800, 202_506_291, 292);
    assert_eq!(Control::parse(&good[..295]), Err(ControlError::Size { found: 295 }));
    let mut damaged = good.clone();
    damaged[41] ^= 1;
    assert!(matches!(Control::parse(&damaged), Err(ControlError::Crc { .. })));
    let version = |control, catalog| Err(ControlError::Version { control, catalog });
    assert_eq!(Control::parse(&file(1300, 202_107_181, 288)), version(1300, 202_107_181), "Postgres 14");
    assert_eq!(Control::parse(&file(1900, 1, 292)), version(1900, 1));
    assert_eq!(Control::parse(&file(1800_u32.swap_bytes(), 0, 292)), Err(ControlError::ByteOrder));
    for (at, value, error) in [
        (16, 7_u32, ControlError::Field("state")),
        (48, 0, ControlError::Field("timeline")),
        (56, 2, ControlError::Field("full_page_writes")),
        (228, 5 << 20, ControlError::SegmentSize(SegmentSizeError(5 << 20))),
    ] {
        let mut wrong = good.clone();
        wrong[at..at + 4].copy_from_slice(&value.to_le_bytes());
        seal(&mut wrong, 292);
        assert_eq!(Control::parse(&wrong), Err(error));
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..400), version in prop::sample::select(vec![1300_u32, 1700, 1800])) {
        if bytes.len() >= 12 {
            bytes[8..12].copy_from_slice(&version.to_le_bytes());
        }
        if bytes.len() >= 296 {
            seal(&mut bytes, if version == 1800 { 292 } else { 288 });
        }
        if let Ok(control) = Control::parse(&bytes) {
            prop_assert!(bytes.len() >= 296 && control.control_version == version);
        }
    }
}
