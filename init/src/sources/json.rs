//! Settings as a JSON object: names, and values that are strings, numbers or switches.

use serde_json::{Map, Value};
use thiserror::Error;

/// How much of what is no JSON is shown.
const EXCERPT_CHARS_MAX: usize = 80;

/// What is no object of settings.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum JsonError {
    /// Something else.
    #[error("expected a JSON object of settings, found {0}")]
    NoObject(String),
    /// A value that is a structure.
    #[error("{0}: expected a string, a number or a switch, found {1}")]
    NoValue(String, &'static str),
}

/// An object of settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Object(Map<String, Value>);

/// Reads an object.
///
/// # Errors
/// Where it is none, with the beginning of what is there.
pub fn parse(bytes: &[u8]) -> Result<Object, JsonError> {
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(object)) => Ok(Object(object)),
        Ok(_) | Err(_) => Err(JsonError::NoObject(excerpt(bytes))),
    }
}

impl Object {
    /// All of it.
    ///
    /// # Errors
    /// Where a value is a structure.
    pub fn all(&self) -> Result<Vec<(String, String)>, JsonError> {
        self.0.iter().map(|(name, value)| plain(name, value)).collect()
    }

    /// What is meant for us: the rest of a metadata document is others'.
    ///
    /// # Errors
    /// Where a value of ours is a structure.
    pub fn ours(&self) -> Result<Vec<(String, String)>, JsonError> {
        let ours = |name: &str| name.to_ascii_uppercase().starts_with("BEYOND_");
        self.0.iter().filter(|(name, _)| ours(name)).map(|(name, value)| plain(name, value)).collect()
    }
}

fn plain(name: &str, value: &Value) -> Result<(String, String), JsonError> {
    let text = match value {
        Value::Bool(switch) => switch.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.clone(),
        Value::Array(_) => return Err(JsonError::NoValue(name.to_owned(), "an array")),
        Value::Null => return Err(JsonError::NoValue(name.to_owned(), "null: leave the name away")),
        Value::Object(_) => return Err(JsonError::NoValue(name.to_owned(), "an object")),
    };
    Ok((name.to_owned(), text))
}

fn excerpt(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "nothing".to_owned();
    }
    let text = String::from_utf8_lossy(bytes);
    if text.contains("PASSWORD") || text.contains("CONNINFO") || text.contains("UPSTREAM") {
        return "a text with secrets in it, which is not shown".to_owned();
    }
    let short: String = text.chars().take(EXCERPT_CHARS_MAX).collect();
    if short.len() < text.len() { format!("{short:?}…") } else { format!("{short:?}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_values_are_taken_as_they_are() {
        let object = parse(br#"{"BEYOND_PG_TIER":"primary","BEYOND_PG_MEMORY_MB":4096,"BEYOND_VOLUME_EPHEMERAL":true,"instance-id":"i-1","net":{"a":[]}}"#).unwrap();
        let mut ours = object.ours().unwrap();
        ours.sort();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            ours,
            [pair("BEYOND_PG_MEMORY_MB", "4096"), pair("BEYOND_PG_TIER", "primary"), pair("BEYOND_VOLUME_EPHEMERAL", "true")]
        );
        assert_eq!(object.all(), Err(JsonError::NoValue("net".to_owned(), "an object")));
    }

    #[test]
    fn garbage_is_shown_in_part() {
        assert_eq!(parse(b"").unwrap_err().to_string(), "expected a JSON object of settings, found nothing");
        assert_eq!(
            parse(b"ami-id\nhostname").unwrap_err().to_string(),
            "expected a JSON object of settings, found \"ami-id\\nhostname\""
        );
        assert!(parse(&[b'x'; 500]).unwrap_err().to_string().len() < 200);
        assert!(!parse(b"{\"BEYOND_PG_PASSWORD\":\"geheim").unwrap_err().to_string().contains("geheim"));
        assert!(parse(b"[1]").is_err() && parse(&[0xff, 0xfe]).is_err() && parse(b"{} x").is_err());
        assert!(parse(b"{\"BEYOND_PG_TIER\":null}").unwrap().ours().is_err());
    }
}
