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

/// A message that `write` appends, with its length before it.
#[inline]
pub(super) fn nested(out: &mut Vec<u8>, field: u32, write: impl FnOnce(&mut Vec<u8>)) {
    tag(out, field, LENGTH);
    let at = out.len();
    // One byte is enough for most. What is longer moves on, so that nothing is gathered elsewhere first, however large it is.
    out.push(0);
    write(out);
    let len = out.len() - at - 1;
    match u8::try_from(len) {
        Ok(short @ 0..0x80) => out[at] = short,
        _ => {
            let mut head = Vec::with_capacity(10);
            varint(&mut head, len as u64);
            out.extend_from_slice(&head[1..]);
            out.copy_within(at + 1..at + 1 + len, at + head.len());
            out[at..at + head.len()].copy_from_slice(&head);
        }
    }
}

/// Puts something before what is there.
pub(super) fn prepend(out: &mut Vec<u8>, before: &[u8]) {
    let len = out.len();
    out.extend_from_slice(before);
    out.copy_within(..len, before.len());
    out[..before.len()].copy_from_slice(before);
}

/// The head of something whose `len` bytes follow.
#[inline]
pub(super) fn length(out: &mut Vec<u8>, field: u32, len: usize) {
    tag(out, field, LENGTH);
    varint(out, len as u64);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nested_message_has_its_length_before_it() {
        for len in [0, 1, 127, 128, 16_383, 16_384, 3_000_000] {
            let content: Vec<u8> = (0..len).map(|n| u8::try_from(n % 251).unwrap()).collect();
            let (mut nested_in, mut copied) = (vec![7], vec![7]);
            nested(&mut nested_in, 5, |out| nested(out, 300, |out| out.extend_from_slice(&content)));
            let mut inner = Vec::new();
            bytes(&mut inner, 300, &content);
            bytes(&mut copied, 5, &inner);
            assert!(nested_in == copied, "{len} bytes");
        }
    }

    #[test]
    fn what_is_put_before_moves_the_rest() {
        for (before, there) in [("", "abc"), ("x", ""), ("x", "abc"), ("longer", "abc")] {
            let mut out = there.as_bytes().to_vec();
            prepend(&mut out, before.as_bytes());
            assert_eq!(out, format!("{before}{there}").as_bytes());
        }
    }
}
