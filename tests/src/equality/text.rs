//! Typed values as Postgres reads them.

use std::fmt::Write as _;

use beyond_cdc_client::proto::v1::value::Kind;
use beyond_cdc_client::proto::v1::{Array, Value};

const MICROS_A_DAY: i64 = 86_400_000_000;

/// A value as its type's input takes it; `None` for NULL, and an error for what is no value.
pub(super) fn of(value: &Value) -> Result<Option<String>, &'static str> {
    Ok(Some(match value.kind.as_ref().ok_or("not sent")? {
        Kind::Null(_) => return Ok(None),
        Kind::Unchanged(_) => return Err("unchanged"),
        Kind::Array(array) => of_array(array)?,
        Kind::Boolean(value) => if *value { "t" } else { "f" }.to_owned(),
        Kind::Bytes(bytes) => {
            let mut text = String::with_capacity(2 + bytes.len() * 2);
            text.push_str("\\x");
            bytes.iter().for_each(|byte| write!(text, "{byte:02x}").unwrap_or_default());
            text
        }
        Kind::Date(days) => of_date(i64::from(*days), ""),
        Kind::Float(value) if value.is_nan() => "NaN".to_owned(),
        Kind::Float(value) if value.is_infinite() => if *value > 0.0 { "Infinity" } else { "-Infinity" }.to_owned(),
        Kind::Float(value) => format!("{value:e}"),
        Kind::Integer(value) => value.to_string(),
        Kind::Json(text) | Kind::Text(text) => text.clone(),
        Kind::Time(micros) => of_time(*micros),
        // Read as timestamptz, it is in UTC; as timestamp, the zone is not looked at.
        Kind::Timestamp(micros) => {
            of_date(micros.div_euclid(MICROS_A_DAY), &format!(" {}+00", of_time(micros.rem_euclid(MICROS_A_DAY))))
        }
        Kind::Uuid(bytes) => bytes.iter().fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").unwrap_or_default();
            text
        }),
    }))
}

fn of_time(micros: i64) -> String {
    let seconds = micros / 1_000_000;
    format!("{:02}:{:02}:{:02}.{:06}", seconds / 3600, seconds / 60 % 60, seconds % 60, micros % 1_000_000)
}

/// A day with something behind it; before the year 1, `BC` comes last.
fn of_date(days: i64, rest: &str) -> String {
    let (year, month, day) = civil(days);
    let (year, era) = if year > 0 { (year, "") } else { (1 - year, " BC") };
    format!("{year:04}-{month:02}-{day:02}{rest}{era}")
}

/// Year, month and day of a number of days since 1970-01-01, in the Gregorian calendar without an end in either direction. Counted in
/// years that start in March, so that the day that may be missing comes last, and in eras of 400 years, which are all alike.
fn civil(days: i64) -> (i64, i64, i64) {
    const DAYS_AN_ERA: i64 = 146_097;
    let since_march = days + 719_468;
    let (era, day_of_era) = (since_march.div_euclid(DAYS_AN_ERA), since_march.rem_euclid(DAYS_AN_ERA));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

fn of_array(array: &Array) -> Result<String, &'static str> {
    let mut values = array.values.iter();
    let mut text = String::new();
    list(&array.dimensions, &mut values, &mut text)?;
    if values.next().is_some() { Err("an array with more values than its dimensions say") } else { Ok(text) }
}

fn list<'a>(dimensions: &[u32], values: &mut impl Iterator<Item = &'a Value>, text: &mut String) -> Result<(), &'static str> {
    text.push('{');
    if let Some((count, inner)) = dimensions.split_first() {
        for number in 0..*count {
            if number > 0 {
                text.push(',');
            }
            if inner.is_empty() {
                element(values.next().ok_or("an array with fewer values than its dimensions say")?, text)?;
            } else {
                list(inner, values, text)?;
            }
        }
    }
    text.push('}');
    Ok(())
}

fn element(value: &Value, text: &mut String) -> Result<(), &'static str> {
    let Some(inner) = of(value)? else {
        text.push_str("NULL");
        return Ok(());
    };
    text.push('"');
    for c in inner.chars() {
        if matches!(c, '"' | '\\') {
            text.push('\\');
        }
        text.push(c);
    }
    text.push('"');
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(kind: Kind) -> String {
        of(&Value { kind: Some(kind) }).unwrap().unwrap()
    }

    #[test]
    fn values_are_written_as_postgres_reads_them() {
        assert_eq!(text(Kind::Date(0)), "1970-01-01");
        assert_eq!(text(Kind::Date(11_016)), "2000-02-29");
        assert_eq!(text(Kind::Date(-719_163)), "0001-12-31 BC", "there is no year 0");
        assert_eq!(text(Kind::Timestamp(-1)), "1969-12-31 23:59:59.999999+00");
        assert_eq!(text(Kind::Timestamp(253_402_300_800_000_000)), "10000-01-01 00:00:00.000000+00");
        assert_eq!(text(Kind::Time(MICROS_A_DAY)), "24:00:00.000000");
        assert_eq!(text(Kind::Float(-0.0)), "-0e0");
        assert_eq!(text(Kind::Bytes(vec![0, 255])), "\\x00ff");
    }

    #[test]
    fn arrays_are_nested_by_their_dimensions() {
        let value = |text: &str| Value { kind: Some(Kind::Text(text.to_owned())) };
        let null = Value { kind: Some(Kind::Null(true)) };
        let array = |dimensions: &[u32], values| text(Kind::Array(Array { dimensions: dimensions.to_vec(), values }));
        assert_eq!(array(&[], vec![]), "{}");
        assert_eq!(array(&[2, 1], vec![value("a\"\\"), null]), "{{\"a\\\"\\\\\"},{NULL}}");
        let short = Value { kind: Some(Kind::Array(Array { dimensions: vec![2], values: vec![value("a")] })) };
        assert!(of(&short).is_err());
    }
}
