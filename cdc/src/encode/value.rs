//! One value: from the text that Postgres writes to a `Value` of the contract.

use super::array;
use super::kind::{ColumnKind, Kind};
use super::{time, wire};

pub(super) const NULL: u32 = 1;
pub(super) const UNCHANGED: u32 = 2;
const BOOLEAN: u32 = 3;
const INTEGER: u32 = 4;
const FLOAT: u32 = 5;
const TEXT: u32 = 6;
const BYTES: u32 = 7;
const TIMESTAMP: u32 = 8;
const DATE: u32 = 9;
const TIME: u32 = 10;
const UUID: u32 = 11;
const JSON: u32 = 12;
const ARRAY: u32 = 13;

/// Appends the fields of the `Value` that `text` stands for. What can't be read as its type is given as the text that it is, so that nothing is
/// lost.
#[inline]
pub(super) fn encode(kind: ColumnKind, text: &[u8], out: &mut Vec<u8>) {
    match kind {
        ColumnKind::Array(element) => match array::encode(element, text) {
            Some(encoded) => wire::bytes(out, ARRAY, &encoded),
            None => plain(text, out),
        },
        ColumnKind::Scalar(kind) => scalar(kind, text, out),
    }
}

#[inline]
pub(super) fn scalar(kind: Kind, text: &[u8], out: &mut Vec<u8>) {
    let written = match kind {
        Kind::Boolean => boolean(text).map(|value| wire::unsigned(out, BOOLEAN, u64::from(value))),
        Kind::Bytes => hex(text, out),
        Kind::Date => time::date(text).map(|days| wire::zigzag(out, DATE, i64::from(days))),
        Kind::Float => ascii(text).and_then(|text| text.parse().ok()).map(|value| wire::double(out, FLOAT, value)),
        Kind::Integer => integer(text).map(|value| wire::zigzag(out, INTEGER, value)),
        Kind::Json => std::str::from_utf8(text).ok().map(|text| wire::bytes(out, JSON, text.as_bytes())),
        Kind::Text => None,
        Kind::Time => time::time(text).map(|micros| wire::signed(out, TIME, micros)),
        Kind::Timestamp => time::timestamp(text).map(|micros| wire::zigzag(out, TIMESTAMP, micros)),
        Kind::Uuid => uuid(text).map(|value| wire::bytes(out, UUID, &value)),
    };
    if written.is_none() {
        plain(text, out);
    }
}

/// A value in the form of its type's send function.
pub(super) fn binary(content: &[u8], out: &mut Vec<u8>) {
    wire::bytes(out, BYTES, content);
}

/// As text; a database in `SQL_ASCII` may hold what is none, and that goes as bytes.
fn plain(text: &[u8], out: &mut Vec<u8>) {
    let field = if std::str::from_utf8(text).is_ok() { TEXT } else { BYTES };
    wire::bytes(out, field, text);
}

fn ascii(text: &[u8]) -> Option<&str> {
    std::str::from_utf8(text).ok()
}

const fn boolean(text: &[u8]) -> Option<bool> {
    match text {
        b"t" => Some(true),
        b"f" => Some(false),
        _ => None,
    }
}

#[inline]
fn integer(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_i64, |value, digit| {
        let digit = digit.is_ascii_digit().then(|| i64::from(digit - b'0'))?;
        let value = value.checked_mul(10)?;
        // Counted downwards where it is negative: the smallest number has no positive counterpart.
        if negative { value.checked_sub(digit) } else { value.checked_add(digit) }
    })
}

const fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

fn byte(digits: &[u8]) -> Option<u8> {
    match digits {
        [high, low] => Some(nibble(*high)? << 4 | nibble(*low)?),
        _ => None,
    }
}

/// `\x00ff`: `bytea_output = hex`. Appends nothing where it is none.
fn hex(text: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let digits = text.strip_prefix(b"\\x")?;
    let good = digits.len().is_multiple_of(2) && digits.iter().all(u8::is_ascii_hexdigit);
    good.then(|| {
        wire::length(out, BYTES, digits.len() / 2);
        out.extend(digits.chunks_exact(2).filter_map(byte));
    })
}

fn uuid(text: &[u8]) -> Option<[u8; 16]> {
    let [a, b, c, d, e] = <[&[u8]; 5]>::try_from(text.split(|byte| *byte == b'-').collect::<Vec<_>>()).ok()?;
    if [a, b, c, d, e].map(<[u8]>::len) != [8, 4, 4, 4, 12] {
        return None;
    }
    let mut value = [0; 16];
    for (to, digits) in value.iter_mut().zip([a, b, c, d, e].into_iter().flat_map(|part| part.chunks(2))) {
        *to = byte(digits)?;
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use beyond_cdc_proto::v1::{Value, value::Kind as Field};
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;

    fn read(kind: Kind, text: &str) -> Field {
        let mut out = Vec::new();
        encode(ColumnKind::Scalar(kind), text.as_bytes(), &mut out);
        Value::decode(&out[..]).unwrap().kind.unwrap()
    }

    #[test]
    fn values_are_what_their_text_says() {
        assert_eq!(read(Kind::Boolean, "t"), Field::Boolean(true));
        assert_eq!(read(Kind::Boolean, "f"), Field::Boolean(false));
        assert_eq!(read(Kind::Integer, "0"), Field::Integer(0));
        assert_eq!(read(Kind::Integer, "-9223372036854775808"), Field::Integer(i64::MIN));
        assert_eq!(read(Kind::Float, "1e-320"), Field::Float(1e-320));
        assert_eq!(read(Kind::Float, "-Infinity"), Field::Float(f64::NEG_INFINITY));
        assert_eq!(read(Kind::Text, ""), Field::Text(String::new()));
        assert_eq!(read(Kind::Bytes, "\\x00ff7a"), Field::Bytes(vec![0, 255, 0x7a]));
        assert_eq!(read(Kind::Bytes, "\\x"), Field::Bytes(vec![]));
        assert_eq!(read(Kind::Date, "1969-12-31"), Field::Date(-1));
        assert_eq!(read(Kind::Time, "00:00:01"), Field::Time(1_000_000));
        assert_eq!(read(Kind::Timestamp, "1970-01-01 00:00:00.000001+00"), Field::Timestamp(1));
        assert_eq!(read(Kind::Json, "{\"a\": [1]}"), Field::Json("{\"a\": [1]}".into()));
        let uuid = [0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde, 0xf0, 0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde, 0xf0];
        assert_eq!(read(Kind::Uuid, "12345678-9abc-def0-1234-56789abcdef0"), Field::Uuid(uuid.to_vec()));
    }

    #[test]
    fn what_has_no_such_value_stays_text() {
        for (kind, text) in [
            (Kind::Timestamp, "infinity"),
            (Kind::Date, "-infinity"),
            (Kind::Integer, "9223372036854775808"),
            (Kind::Integer, "-"),
            (Kind::Bytes, "\\xabc"),
            (Kind::Bytes, "abc"),
            (Kind::Uuid, "12345678-9abc-def0-1234-56789abcdeg0"),
            (Kind::Uuid, "123456789abcdef0123456789abcdef0"),
            (Kind::Boolean, "true"),
        ] {
            assert_eq!(read(kind, text), Field::Text(text.into()), "{kind:?}");
        }
        let mut out = Vec::new();
        encode(ColumnKind::Scalar(Kind::Text), b"\xff", &mut out);
        assert_eq!(Value::decode(&out[..]).unwrap().kind, Some(Field::Bytes(vec![255])));
    }

    proptest! {
        #[test]
        fn integers_and_bytes_come_back(number: i64, content: Vec<u8>) {
            prop_assert_eq!(read(Kind::Integer, &number.to_string()), Field::Integer(number));
            let digits: String = content.iter().map(|byte| format!("{byte:02x}")).collect();
            prop_assert_eq!(read(Kind::Bytes, &format!("\\x{digits}")), Field::Bytes(content));
        }
    }
}
