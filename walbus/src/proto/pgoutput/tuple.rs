//! Rows: `TupleData`.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};

use super::field::{Fields, put_length};
use super::{COLUMNS_MAX, PgoutputError};

/// The columns of a row, as they came and checked: one slice of the payload, whatever their number.
#[derive(Clone, PartialEq, Eq)]
pub struct Tuple {
    columns: u16,
    data: Bytes,
}

/// A column of a [`Tuple`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    /// As the type's send function writes it.
    Binary(&'a [u8]),
    /// NULL; in the key of an old row also: not sent, since it is no part of the key.
    Null,
    /// As the type's output function writes it.
    Text(&'a [u8]),
    /// Stored out of line and not changed by the update, so not sent: never NULL.
    Unchanged,
}

impl Tuple {
    /// The tuple of these columns, `None` where there are more than [`COLUMNS_MAX`] or one has 2 GiB.
    #[must_use]
    pub fn of(values: &[Value<'_>]) -> Option<Self> {
        let columns = u16::try_from(values.len()).ok().filter(|columns| *columns <= COLUMNS_MAX)?;
        let mut data = BytesMut::new();
        for value in values {
            let (kind, content) = match value {
                Value::Binary(content) => (b'b', Some(content)),
                Value::Null => (b'n', None),
                Value::Text(content) => (b't', Some(content)),
                Value::Unchanged => (b'u', None),
            };
            data.put_u8(kind);
            if let Some(content) = content {
                i32::try_from(content.len()).ok()?;
                put_length(&mut data, content.len());
                data.put_slice(content);
            }
        }
        Some(Self { columns, data: data.freeze() })
    }

    #[inline]
    pub(super) fn parse(fields: &mut Fields<'_>) -> Result<Self, PgoutputError> {
        let columns = fields.u16()?;
        if columns > COLUMNS_MAX {
            return Err(fields.too_many("columns", usize::from(columns), usize::from(COLUMNS_MAX)));
        }
        let start = fields.left();
        for _ in 0..columns {
            match fields.u8()? {
                b't' | b'b' => {
                    let length = fields.length()?;
                    fields.bytes(length)?;
                }
                b'n' | b'u' => {}
                kind => return Err(fields.unknown_kind(kind)),
            }
        }
        Ok(Self { columns, data: fields.since(start) })
    }

    pub(super) fn encode(&self, out: &mut impl BufMut) {
        out.put_u16(self.columns);
        out.put_slice(&self.data);
    }

    /// How many columns there are.
    #[must_use]
    pub const fn columns(&self) -> u16 {
        self.columns
    }

    /// How many bytes the columns take, their kinds and lengths included.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.data.len()
    }

    /// The columns in order, borrowed.
    #[inline]
    #[must_use]
    pub fn values(&self) -> Values<'_> {
        Values { left: self.columns, rest: &self.data }
    }

    /// The content of one of [`Tuple::values`] without its borrow: it shares the memory of the whole payload, and keeps it.
    ///
    /// # Panics
    /// Where `content` is not of this tuple.
    #[must_use]
    pub fn share(&self, content: &[u8]) -> Bytes {
        self.data.slice_ref(content)
    }
}

impl fmt::Debug for Tuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.values()).finish()
    }
}

/// The columns of a [`Tuple`] that are still to come.
#[derive(Debug, Clone)]
pub struct Values<'a> {
    left: u16,
    rest: &'a [u8],
}

impl<'a> Iterator for Values<'a> {
    type Item = Value<'a>;

    #[inline]
    fn next(&mut self) -> Option<Value<'a>> {
        let (kind, rest) = self.rest.split_first()?;
        self.left = self.left.saturating_sub(1);
        self.rest = rest;
        match kind {
            b'n' => return Some(Value::Null),
            b'u' => return Some(Value::Unchanged),
            _ => {}
        }
        let (length, rest) = rest.split_first_chunk()?;
        let (content, rest) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
        self.rest = rest;
        Some(if *kind == b'b' { Value::Binary(content) } else { Value::Text(content) })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (usize::from(self.left), Some(usize::from(self.left)))
    }
}

impl ExactSizeIterator for Values<'_> {}
