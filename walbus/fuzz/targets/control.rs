//! pg_control, its CRC put right so that what is behind it is reached.
#![no_main]

use libfuzzer_sys::fuzz_target;
use walbus::proto::control::Control;

fuzz_target!(|data: &[u8]| {
    drop(Control::parse(data));
    let mut sealed = data.to_vec();
    let crc_at = if sealed.get(8..12) == Some(&1800_u32.to_le_bytes()) { 292 } else { 288 };
    if sealed.len() < crc_at + 4 {
        return;
    }
    let crc = crc_fast::crc32_iscsi(&sealed[..crc_at]).to_le_bytes();
    sealed[crc_at..crc_at + 4].copy_from_slice(&crc);
    if let Ok(control) = Control::parse(&sealed) {
        assert_eq!(control.segment.bytes(), u64::from(u32::from_le_bytes(sealed[228..232].try_into().unwrap())));
    }
});
