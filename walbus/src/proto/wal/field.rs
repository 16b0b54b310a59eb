//! Little-endian fields at fixed places, as a C struct of Postgres has them in memory and on disk.

/// The `N` bytes at `at`, `None` where `bytes` ends before.
#[inline]
pub(in crate::proto) fn array_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk::<N>().copied()
}

/// The byte at `at`.
#[inline]
pub(in crate::proto) fn u8_at(bytes: &[u8], at: usize) -> Option<u8> {
    bytes.get(at).copied()
}

/// The 16 bits at `at`.
#[inline]
pub(in crate::proto) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    array_at(bytes, at).map(u16::from_le_bytes)
}

/// The 32 bits at `at`.
#[inline]
pub(in crate::proto) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array_at(bytes, at).map(u32::from_le_bytes)
}

/// The 64 bits at `at`.
#[inline]
pub(in crate::proto) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    array_at(bytes, at).map(u64::from_le_bytes)
}

/// The signed 64 bits at `at`.
#[inline]
pub(in crate::proto) fn i64_at(bytes: &[u8], at: usize) -> Option<i64> {
    array_at(bytes, at).map(i64::from_le_bytes)
}

/// A number of bytes as an offset in the WAL.
#[inline]
pub(in crate::proto) fn wide(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// A 32-bit length as a number of bytes in memory. Saturates where addresses are narrower than that.
#[inline]
pub(in crate::proto) fn length(bytes: u32) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
