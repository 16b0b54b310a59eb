//! Query parameters, each checked by name: one that is unknown, doubled or wrong is told of, never skipped.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use walbus::Timeline;
use walbus::units::parse_duration;

use super::failure::Failure;

/// The parameters of one request.
#[derive(Debug)]
pub(super) struct Query {
    values: BTreeMap<String, String>,
}

impl Query {
    /// The parameters of a query string, all of them among `known`.
    pub(super) fn parse(query: Option<&str>, known: &[&str]) -> Result<Self, Failure> {
        let mut values = BTreeMap::new();
        for pair in query.unwrap_or("").split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decode(name), decode(value));
            if !known.contains(&name.as_str()) {
                return Err(Failure::bad(
                    "bad_parameter",
                    format!("there is no parameter {name:?} here, but {}", known.join(", ")),
                ));
            }
            if values.insert(name.clone(), value).is_some() {
                return Err(Failure::bad("bad_parameter", format!("the parameter {name} is given twice")));
            }
        }
        Ok(Self { values })
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    pub(super) fn optional<T: FromStr<Err: std::fmt::Display>>(&self, name: &str) -> Result<Option<T>, Failure> {
        let Some(text) = self.values.get(name) else { return Ok(None) };
        text.parse().map(Some).map_err(|error: T::Err| Failure::bad(&format!("bad_{name}"), format!("{name}: {error}")))
    }

    pub(super) fn required<T: FromStr<Err: std::fmt::Display>>(&self, name: &str) -> Result<T, Failure> {
        self.optional(name)?.ok_or_else(|| Failure::bad(&format!("bad_{name}"), format!("the parameter {name} is missing")))
    }

    pub(super) fn timeline(&self) -> Result<Option<Timeline>, Failure> {
        let number: Option<u32> = self.optional("timeline")?;
        number
            .map(|number| Timeline::new(number).ok_or_else(|| Failure::bad("bad_timeline", "timeline: there is no timeline 0")))
            .transpose()
    }

    /// Seconds as a plain number, or a duration with its unit.
    pub(super) fn duration(&self, name: &str) -> Result<Option<Duration>, Failure> {
        let Some(text) = self.values.get(name) else { return Ok(None) };
        if let Ok(seconds) = text.parse() {
            return Ok(Some(Duration::from_secs(seconds)));
        }
        parse_duration(text).map(Some).map_err(|error| Failure::bad(&format!("bad_{name}"), format!("{name}: {error}")))
    }
}

/// A part of a query with its `%XX` and `+` resolved. What is no UTF-8 becomes U+FFFD, and no parameter takes that.
fn decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let hex = |at: usize| after.get(at).and_then(|&b| char::from(b).to_digit(16)).and_then(|digit| u8::try_from(digit).ok());
        rest = after;
        match (byte, hex(0), hex(1)) {
            (b'%', Some(high), Some(low)) => {
                out.push(high << 4 | low);
                rest = after.get(2..).unwrap_or_default();
            }
            (b'+', ..) => out.push(b' '),
            _ => out.push(byte),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use walbus::Lsn;

    #[test]
    fn an_lsn_is_read_escaped_and_plain() {
        for query in ["from=0/16B3740", "from=0%2F16B3740", "from=0%2f16B3740&"] {
            let query = Query::parse(Some(query), &["from"]).unwrap();
            assert_eq!(query.required::<Lsn>("from").unwrap(), Lsn(0x16B_3740));
        }
    }

    #[test]
    fn faults_are_told_of() {
        for query in ["form=0/1", "from=0/1&from=0/1", "from", "%66rom=0/1&from=0/1"] {
            let lsn = Query::parse(Some(query), &["from"]).and_then(|query| query.required::<Lsn>("from"));
            assert!(lsn.is_err(), "{query}");
        }
        assert!(Query::parse(Some("timeline=0"), &["timeline"]).unwrap().timeline().is_err());
        assert!(Query::parse(None, &[]).unwrap().required::<Lsn>("lsn").is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_taken(query: String) {
            if let Ok(query) = Query::parse(Some(&query), &["a"]) {
                prop_assert!(query.values.len() <= 1);
            }
        }
    }
}
