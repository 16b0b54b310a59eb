//! Protobuf by hand: what is written a million times a second is written once, straight from Postgres' bytes.
//!
//! Follows the manual's page "Encoding" of Protocol Buffers. Field numbers are those of `clients/proto/beyond_cdc.proto`; the tests decode what is
//! written here by the generated types.

const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const LENGTH: u32 = 2;

#[inline]
pub(super) fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

#[inline]
fn tag(out: &mut Vec<u8>, field: u32, kind: u32) {
    varint(out, u64::from(field << 3 | kind));
}

/// `uint32`, `uint64`, `bool` and enumerations. Zero, the default, is written too: inside of a `oneof` it has to be.
#[inline]
pub(super) fn unsigned(out: &mut Vec<u8>, field: u32, value: u64) {
    tag(out, field, VARINT);
    varint(out, value);
}

/// `int64`: negative numbers in their two's complement.
#[inline]
pub(super) fn signed(out: &mut Vec<u8>, field: u32, value: i64) {
    unsigned(out, field, value.cast_unsigned());
}

/// `sint32` and `sint64`: the sign in the lowest bit.
#[inline]
pub(super) fn zigzag(out: &mut Vec<u8>, field: u32, value: i64) {
    unsigned(out, field, ((value << 1) ^ (value >> 63)).cast_unsigned());
}

/// `double`.
#[inline]
pub(super) fn double(out: &mut Vec<u8>, field: u32, value: f64) {
    tag(out, field, FIXED64);
    out.extend_from_slice(&value.to_le_bytes());
}

/// `string`, `bytes`, and messages that are encoded already.
#[inline]
pub(super) fn bytes(out: &mut Vec<u8>, field: u32, content: &[u8]) {
    tag(out, field, LENGTH);
    varint(out, content.len() as u64);
    out.extend_from_slice(content);
}

/// The head of something whose `len` bytes follow.
#[inline]
pub(super) fn length(out: &mut Vec<u8>, field: u32, len: usize) {
    tag(out, field, LENGTH);
    varint(out, len as u64);
}
