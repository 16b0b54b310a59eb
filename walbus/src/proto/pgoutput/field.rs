//! The fields of a message, one after the other.

use bytes::{BufMut, Bytes};

use super::{GID_BYTES_MAX, NAME_BYTES_MAX, PgoutputError};
use crate::ident::PgTime;
use crate::lsn::Lsn;

/// What is left to read of one message.
pub(super) struct Fields<'a> {
    message: &'static str,
    payload: &'a Bytes,
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    /// The fields behind the type byte.
    #[inline]
    pub(super) fn new(message: &'static str, payload: &'a Bytes) -> Self {
        Self { message, payload, rest: payload.get(1..).unwrap_or_default() }
    }

    #[cold]
    pub(super) const fn malformed(&self, problem: &'static str) -> PgoutputError {
        PgoutputError::Malformed { message: self.message, problem }
    }

    #[cold]
    pub(super) const fn too_many(&self, what: &'static str, count: usize, limit: usize) -> PgoutputError {
        PgoutputError::TooMany { message: self.message, what, count, limit }
    }

    #[cold]
    pub(super) const fn unknown_kind(&self, kind: u8) -> PgoutputError {
        PgoutputError::UnknownColumnKind { message: self.message, kind }
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], PgoutputError> {
        match self.rest.split_first_chunk::<N>() {
            Some((field, rest)) => {
                self.rest = rest;
                Ok(*field)
            }
            None => Err(self.malformed("it ends early")),
        }
    }

    #[inline]
    pub(super) fn u8(&mut self) -> Result<u8, PgoutputError> {
        self.array::<1>().map(|[byte]| byte)
    }

    #[inline]
    pub(super) fn u16(&mut self) -> Result<u16, PgoutputError> {
        self.array().map(u16::from_be_bytes)
    }

    #[inline]
    pub(super) fn u32(&mut self) -> Result<u32, PgoutputError> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn i32(&mut self) -> Result<i32, PgoutputError> {
        self.array().map(i32::from_be_bytes)
    }

    pub(super) fn time(&mut self) -> Result<PgTime, PgoutputError> {
        self.array().map(|field| PgTime(i64::from_be_bytes(field)))
    }

    /// A position, `0/0` where there may be none.
    pub(super) fn lsn_or_none(&mut self) -> Result<Lsn, PgoutputError> {
        self.array().map(|field| Lsn(u64::from_be_bytes(field)))
    }

    /// A position that is not `0/0`.
    pub(super) fn lsn(&mut self) -> Result<Lsn, PgoutputError> {
        let lsn = self.lsn_or_none()?;
        if lsn.is_valid() { Ok(lsn) } else { Err(self.malformed("an LSN is 0/0")) }
    }

    /// A transaction's number, which is never 0.
    #[inline]
    pub(super) fn xid(&mut self) -> Result<u32, PgoutputError> {
        match self.u32()? {
            0 => Err(self.malformed("an xid is 0")),
            xid => Ok(xid),
        }
    }

    /// The flags that no version uses yet.
    pub(super) fn no_flags(&mut self) -> Result<(), PgoutputError> {
        if self.u8()? == 0 { Ok(()) } else { Err(self.malformed("flags that no version has are set")) }
    }

    /// A length of 32 bits, signed, as Postgres reads it.
    #[inline]
    pub(super) fn length(&mut self) -> Result<usize, PgoutputError> {
        usize::try_from(self.i32()?).map_err(|_| self.malformed("a length is negative"))
    }

    /// The next `length` bytes.
    #[inline]
    pub(super) fn bytes(&mut self, length: usize) -> Result<&'a [u8], PgoutputError> {
        match self.rest.split_at_checked(length) {
            Some((bytes, rest)) => {
                self.rest = rest;
                Ok(bytes)
            }
            None => Err(self.malformed("it ends early")),
        }
    }

    /// A text up to its zero byte. In a database in SQL_ASCII it may be of any bytes: see [`escaped`].
    pub(super) fn text(&mut self, what: &'static str, limit: usize) -> Result<String, PgoutputError> {
        let length =
            self.rest.iter().position(|byte| *byte == 0).ok_or_else(|| self.malformed("a text does not end with a zero byte"))?;
        if length > limit {
            return Err(self.too_many(what, length, limit));
        }
        let text = self.bytes(length)?;
        self.u8()?;
        Ok(str::from_utf8(text).map_or_else(|_| escaped(text), str::to_owned))
    }

    /// A name.
    pub(super) fn name(&mut self) -> Result<String, PgoutputError> {
        self.text("bytes of a name", NAME_BYTES_MAX)
    }

    /// A schema's name: nothing at all stands for `pg_catalog`.
    pub(super) fn schema(&mut self) -> Result<String, PgoutputError> {
        self.name().map(|name| if name.is_empty() { "pg_catalog".to_owned() } else { name })
    }

    /// The identifier of a prepared transaction.
    pub(super) fn gid(&mut self) -> Result<String, PgoutputError> {
        self.text("bytes of a gid", GID_BYTES_MAX)
    }

    /// How many bytes are left.
    #[inline]
    pub(super) const fn left(&self) -> usize {
        self.rest.len()
    }

    /// What was read since `left` bytes were left, in the payload's memory.
    #[inline]
    pub(super) fn since(&self, left: usize) -> Bytes {
        self.payload.slice(self.payload.len() - left..self.payload.len() - self.rest.len())
    }

    /// The end of the message.
    #[inline]
    pub(super) const fn end(&self) -> Result<(), PgoutputError> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.malformed("bytes are left behind it")) }
    }
}

/// A text that is not UTF-8, with nothing lost of it: bytes that are none of a character as `\xHH`, and for that a backslash as two.
fn escaped(text: &[u8]) -> String {
    let mut escaped = String::new();
    for chunk in text.utf8_chunks() {
        escaped.push_str(&chunk.valid().replace('\\', r"\\"));
        for byte in chunk.invalid() {
            escaped.push_str(&format!(r"\x{byte:02x}"));
        }
    }
    escaped
}

/// Appends a text and its zero byte.
pub(super) fn put_text(out: &mut impl BufMut, text: &str) {
    assert!(!text.as_bytes().contains(&0), "a zero byte in {text:?}");
    out.put_slice(text.as_bytes());
    out.put_u8(0);
}

/// Appends a schema's name.
pub(super) fn put_schema(out: &mut impl BufMut, schema: &str) {
    put_text(out, if schema == "pg_catalog" { "" } else { schema });
}

/// Appends the length of `what` in 32 bits.
pub(super) fn put_length(out: &mut impl BufMut, length: usize) {
    out.put_i32(i32::try_from(length).expect("a length fits 31 bits"));
}
