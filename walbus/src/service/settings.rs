//! The TOML file of a program's settings.

use std::collections::BTreeMap;

/// The most changed letters at which a key is still taken for a misspelling of another.
const TYPOS_MAX: usize = 3;

/// The settings in a file as texts, all of them among `known`; `program` is what lists them by its `--help`.
///
/// # Errors
/// With a line for each fault: what is no TOML, a key that is unknown, a value that is no plain one.
pub fn parse<'a>(text: &str, known: &[&'a str], program: &str) -> Result<BTreeMap<&'a str, String>, Vec<String>> {
    // The message alone: the parser also quotes the line it is about, which may be the one with the password.
    let table: toml::Table = toml::from_str(text).map_err(|error| {
        let line = error.span().map_or(0, |span| text.get(..span.start).unwrap_or("").matches('\n').count() + 1);
        vec![format!("line {line}: {}", error.message())]
    })?;
    let mut faults = Vec::new();
    let mut settings = BTreeMap::new();
    for (key, value) in table {
        let Some(&key) = known.iter().find(|known| **known == key) else {
            faults.push(unknown(&key, known, program));
            continue;
        };
        match plain(&value) {
            Some(text) => drop(settings.insert(key, text)),
            None => faults.push(format!("{key} is {}: expected a text, a number, true or false", value.type_str())),
        }
    }
    if faults.is_empty() { Ok(settings) } else { Err(faults) }
}

fn plain(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::Array(items) => {
            let texts = items.iter().map(|item| item.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()?;
            Some(texts.join(","))
        }
        toml::Value::Boolean(yes) => Some(yes.to_string()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::String(text) => Some(text.clone()),
        _ => None,
    }
}

fn unknown(key: &str, known: &[&str], program: &str) -> String {
    let plain = key.to_ascii_lowercase().replace('_', "-");
    let near = known.iter().map(|known| (typos(&plain, known), known)).min().filter(|(typos, _)| *typos <= TYPOS_MAX);
    match near {
        Some((_, near)) => format!("there is no setting {key:?}: is {near} meant?"),
        None => format!("there is no setting {key:?}: `{program} --help` lists them all"),
    }
}

/// How many letters have to be put in, taken out or changed to make one of the other.
fn typos(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.chars().count()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, b) in row.iter_mut().skip(1).zip(to.chars()) {
            let best = (diagonal + usize::from(a != b)).min(left + 1).min(*cell + 1);
            diagonal = std::mem::replace(cell, best);
            left = best;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KNOWN: [&str; 3] = ["keep-size", "https-name", "upstream"];

    #[test]
    fn plain_values_are_taken() {
        let found =
            parse("keep-size = 7\nupstream = \"host=a\"\nhttps-name = [\"a\", \"b\"]", &KNOWN, "beyond-pg-x serve").unwrap();
        assert_eq!(found, BTreeMap::from([("keep-size", "7".into()), ("upstream", "host=a".into()), ("https-name", "a,b".into())]));
    }

    #[test]
    fn every_fault_is_named() {
        let faults =
            parse("keep_size = 1\nkeep-sise = 1\nwhatever = 1\nupstream = {}\nhttps-name = [1]", &KNOWN, "beyond-pg-x serve")
                .unwrap_err();
        let expected = [
            "https-name is array: expected a text, a number, true or false",
            "there is no setting \"keep-sise\": is keep-size meant?",
            "there is no setting \"keep_size\": is keep-size meant?",
            "there is no setting \"whatever\": `beyond-pg-x serve --help` lists them all",
            "upstream is table: expected a text, a number, true or false",
        ];
        let mut faults = faults;
        faults.sort();
        let mut expected = expected.map(str::to_owned);
        expected.sort();
        assert_eq!(faults, expected);
    }

    #[test]
    fn a_password_is_not_quoted() {
        let faults = parse("keep-size = 1\nupstream = \"password=sesame\" oops", &KNOWN, "beyond-pg-x serve").unwrap_err();
        assert!(faults[0].starts_with("line 2: ") && !faults[0].contains("sesame"), "{faults:?}");
    }

    #[test]
    fn typos_are_counted() {
        for (from, to, count) in [("", "", 0), ("a", "", 1), ("", "ab", 2), ("kitten", "sitting", 3), ("keep-size", "keep-size", 0)]
        {
            assert_eq!(typos(from, to), count, "{from} {to}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_taken(text: String) {
            drop(parse(&text, &KNOWN, "x"));
        }
    }
}
