//! A row as a type of the caller's, by serde.

use std::fmt;
use std::marker::PhantomData;

use beyond_cdc_proto::json;
use beyond_cdc_proto::v1::value::Kind;
use beyond_cdc_proto::v1::{self, Operation, Value};
use serde::de::value::{SeqDeserializer, StrDeserializer};
use serde::de::{Deserialize, DeserializeOwned, DeserializeSeed, Deserializer, Error as _, IntoDeserializer, MapAccess, Visitor};
use serde::forward_to_deserialize_any;

use crate::change::Row;

/// The name by which a [`Toast`] is known among new types.
const TOAST: &str = "$beyond_cdc_client::Toast";

/// Why a row does not fit a type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RowError {
    /// Such a change has no row.
    #[error("{0:?} has no row")]
    NoRow(Operation),
    /// The type wants what the row has not.
    #[error("{0}")]
    Type(String),
    /// The column was TOASTed and the update did not touch it, so Postgres did not send it.
    #[error(
        "column {0:?} is unchanged and was not sent: ask for it as Toast<T>, or set REPLICA IDENTITY FULL and look at the old row"
    )]
    Unchanged(String),
}

impl serde::de::Error for RowError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::Type(message.to_string())
    }
}

/// A value that may be TOASTed, in a type for [`crate::Change::row`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Toast<T> {
    /// The update did not touch it: it is what it was before.
    Unchanged,
    /// The value.
    Value(T),
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Toast<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visit<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Visit<T> {
            type Value = Toast<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value of a row")
            }

            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Toast::Unchanged)
            }

            fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
                T::deserialize(deserializer).map(Toast::Value)
            }
        }
        deserializer.deserialize_newtype_struct(TOAST, Visit(PhantomData))
    }
}

/// Reads a row.
pub(crate) fn from_row<T: DeserializeOwned>(row: Row<'_>) -> Result<T, RowError> {
    T::deserialize(Fields { row, next: 0 })
}

/// A row as a map of its columns, without those that were not sent.
struct Fields<'r> {
    row: Row<'r>,
    next: usize,
}

impl<'de> Deserializer<'de> for Fields<'_> {
    type Error = RowError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, RowError> {
        visitor.visit_map(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct newtype_struct seq
        tuple tuple_struct map struct enum identifier ignored_any
    }
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = RowError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, RowError> {
        while self.row.row.values.get(self.next).is_some_and(|value| value.kind.is_none()) {
            self.next += 1;
        }
        if self.next >= self.row.row.values.len() {
            return Ok(None);
        }
        let Some(column) = self.row.schema.columns.get(self.next) else { return Ok(None) };
        let name: StrDeserializer<'_, RowError> = column.name.as_str().into_deserializer();
        seed.deserialize(name).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, RowError> {
        let at = self.next;
        self.next += 1;
        let (Some(column), Some(value)) = (self.row.schema.columns.get(at), self.row.row.values.get(at)) else {
            return Err(RowError::custom("a value before its key"));
        };
        seed.deserialize(Field { column, value }).map_err(|error| match error {
            RowError::Type(problem) => RowError::Type(format!("column {:?}: {problem}", column.name)),
            other => other,
        })
    }
}

/// One value.
#[derive(Clone, Copy)]
struct Field<'r> {
    column: &'r v1::Column,
    value: &'r Value,
}

impl<'r> Field<'r> {
    fn kind(self) -> Result<&'r Kind, RowError> {
        match &self.value.kind {
            None => Err(RowError::custom("not sent")),
            Some(Kind::Unchanged(_)) => Err(RowError::Unchanged(self.column.name.clone())),
            Some(kind) => Ok(kind),
        }
    }

    /// What JSON has as a string.
    fn written(self) -> Result<String, RowError> {
        let mut text = String::new();
        json::value(&mut text, self.column, self.value).map_err(RowError::custom)?;
        serde_json::from_str(&text).map_err(RowError::custom)
    }

    /// A number, of what is one or counts something.
    fn integer(self) -> Result<Option<i64>, RowError> {
        Ok(match self.kind()? {
            Kind::Integer(value) | Kind::Time(value) | Kind::Timestamp(value) => Some(*value),
            Kind::Date(days) => Some(i64::from(*days)),
            Kind::Text(text) => text.parse().ok(),
            _ => None,
        })
    }

    #[expect(clippy::cast_precision_loss, reason = "who asks for a float gets one")]
    fn float(self) -> Result<Option<f64>, RowError> {
        Ok(match self.kind()? {
            Kind::Float(value) => Some(*value),
            Kind::Integer(value) => Some(*value as f64),
            Kind::Text(text) => text.parse().ok(),
            _ => None,
        })
    }

    fn array<'de, V: Visitor<'de>>(self, array: &v1::Array, visitor: V) -> Result<V::Value, RowError> {
        let lengths: Option<Vec<usize>> = array.dimensions.iter().map(|len| usize::try_from(*len).ok()).collect();
        let lengths = lengths.filter(|lengths| {
            let product = lengths.iter().try_fold(1_usize, |product, len| product.checked_mul(*len));
            if lengths.is_empty() { array.values.is_empty() } else { product == Some(array.values.len()) }
        });
        let lengths = lengths.ok_or_else(|| RowError::custom("an array whose lengths do not fit its values"))?;
        Part { column: self.column, lengths: &lengths, values: &array.values }.deserialize_any(visitor)
    }
}

macro_rules! by_number {
    ($($method:ident $read:ident $visit:ident,)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, RowError> {
            match self.$read()? {
                Some(number) => visitor.$visit(number),
                None => self.deserialize_any(visitor),
            }
        }
    )*};
}

impl<'de> Deserializer<'de> for Field<'_> {
    type Error = RowError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, RowError> {
        match self.kind()? {
            Kind::Array(array) => self.array(array, visitor),
            Kind::Boolean(value) => visitor.visit_bool(*value),
            Kind::Bytes(bytes) => visitor.visit_bytes(bytes),
            Kind::Float(value) => visitor.visit_f64(*value),
            Kind::Integer(value) => visitor.visit_i64(*value),
            Kind::Json(json) => {
                // Read by copy: what is borrowed would have to live as long as the type.
                let mut inner = serde_json::Deserializer::from_reader(json.as_bytes());
                inner.deserialize_any(visitor).map_err(RowError::custom)
            }
            Kind::Null(_) | Kind::Unchanged(_) => visitor.visit_unit(),
            Kind::Text(text) => visitor.visit_str(text),
            Kind::Date(_) | Kind::Time(_) | Kind::Timestamp(_) | Kind::Uuid(_) => visitor.visit_string(self.written()?),
        }
    }

    by_number! {
        deserialize_i8 integer visit_i64,
        deserialize_i16 integer visit_i64,
        deserialize_i32 integer visit_i64,
        deserialize_i64 integer visit_i64,
        deserialize_u8 integer visit_i64,
        deserialize_u16 integer visit_i64,
        deserialize_u32 integer visit_i64,
        deserialize_u64 integer visit_i64,
        deserialize_f32 float visit_f64,
        deserialize_f64 float visit_f64,
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, RowError> {
        if matches!(self.kind()?, Kind::Null(_)) { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, RowError> {
        if name == TOAST && matches!(self.value.kind, Some(Kind::Unchanged(_))) {
            return visitor.visit_unit();
        }
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, RowError> {
        if let Kind::Uuid(bytes) = self.kind()? { visitor.visit_bytes(bytes) } else { self.deserialize_any(visitor) }
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, RowError> {
        self.deserialize_bytes(visitor)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, RowError> {
        if let Kind::Json(json) = self.kind()? { visitor.visit_str(json) } else { self.deserialize_any(visitor) }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, RowError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, RowError> {
        match self.kind()? {
            Kind::Text(text) => {
                let text: StrDeserializer<'_, RowError> = text.as_str().into_deserializer();
                text.deserialize_enum(name, variants, visitor)
            }
            Kind::Json(json) => serde_json::Deserializer::from_reader(json.as_bytes())
                .deserialize_enum(name, variants, visitor)
                .map_err(RowError::custom),
            _ => Err(RowError::custom(format!("a value that can be no {name}"))),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, RowError> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bool i128 u128 char unit unit_struct seq tuple tuple_struct map struct identifier
    }
}

impl<'de> IntoDeserializer<'de, RowError> for Field<'_> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

/// An array, or one of its rows. The lengths fit the values.
#[derive(Clone, Copy)]
struct Part<'r> {
    column: &'r v1::Column,
    lengths: &'r [usize],
    values: &'r [Value],
}

impl<'de> Deserializer<'de> for Part<'_> {
    type Error = RowError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, RowError> {
        let column = self.column;
        match self.lengths {
            [] | [_] => visitor.visit_seq(SeqDeserializer::new(self.values.iter().map(|value| Field { column, value }))),
            [len, lengths @ ..] => {
                let parts = self.values.chunks((self.values.len() / (*len).max(1)).max(1));
                visitor.visit_seq(SeqDeserializer::new(parts.map(|values| Part { column, lengths, values })))
            }
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct newtype_struct seq
        tuple tuple_struct map struct enum identifier ignored_any
    }
}

impl<'de> IntoDeserializer<'de, RowError> for Part<'_> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

#[cfg(test)]
mod tests;
