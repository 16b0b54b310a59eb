//! Configuration files of a server: `postgresql.conf`, what that includes, `postgresql.auto.conf`.
//! Source: `guc-file.l` of Postgres 15 to 18, and the manual's chapter "Setting Parameters".

/// What a line of a configuration file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigLine {
    /// Read that file here: `include`, or `include_if_exists`, which takes one that is not there for empty.
    Include {
        /// The file, as it is named.
        file: String,
        /// Whether it must be there.
        must_exist: bool,
    },
    /// Read all files of that folder whose names end in `.conf` here: `include_dir`.
    IncludeFolder(String),
    /// A setting.
    Set {
        /// Its name, in lower case.
        name: String,
        /// Its value, without quotes.
        value: String,
    },
    /// What Postgres does not start with.
    Unreadable,
}

/// The lines of a configuration file that say anything, each with its number from 1 on, in order. Where a name is set twice, the later one
/// counts.
#[must_use]
pub fn config_lines(text: &str) -> Vec<(usize, ConfigLine)> {
    text.split('\n').enumerate().filter_map(|(at, line)| Some((at + 1, line_of(line)?))).collect()
}

fn line_of(line: &str) -> Option<ConfigLine> {
    let line = blank(line);
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    Some(setting(line).map_or(ConfigLine::Unreadable, |(name, value)| match name.as_str() {
        "include" => ConfigLine::Include { file: value, must_exist: true },
        "include_dir" => ConfigLine::IncludeFolder(value),
        "include_if_exists" => ConfigLine::Include { file: value, must_exist: false },
        _ => ConfigLine::Set { name, value },
    }))
}

/// Name and value, and nothing but a comment behind.
fn setting(line: &str) -> Option<(String, String)> {
    let is_name = |byte: char| byte.is_ascii_alphanumeric() || matches!(byte, '_' | '.' | '$') || !byte.is_ascii();
    let (name, rest) = line.split_at(line.find(|byte| !is_name(byte))?);
    if name.is_empty() || name.starts_with(|first: char| first.is_ascii_digit()) {
        return None;
    }
    let rest = blank(rest);
    let rest = blank(rest.strip_prefix('=').unwrap_or(rest));
    let (value, rest) = match rest.strip_prefix('\'') {
        Some(quoted) => unquote(quoted)?,
        None => {
            let (value, rest) = rest.split_at(rest.find([' ', '\t', '\r', '#']).unwrap_or(rest.len()));
            if value.is_empty() || value.contains(['\'', '=', '"']) {
                return None;
            }
            (value.to_owned(), rest)
        }
    };
    let rest = blank(rest);
    (rest.is_empty() || rest.starts_with('#')).then(|| (name.to_ascii_lowercase(), value))
}

/// What stands up to the closing quote, and what follows that (`DeescapeQuotedString`).
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = Vec::new();
    let mut rest = text.as_bytes();
    loop {
        let (first, behind) = rest.split_first()?;
        rest = behind;
        match first {
            b'\'' => match rest.split_first() {
                Some((b'\'', behind)) => {
                    rest = behind;
                    value.push(b'\'');
                }
                _ => break,
            },
            b'\\' => {
                let octal = rest.iter().take(3).take_while(|byte| (b'0'..=b'7').contains(byte)).count();
                let (taken, behind) = rest.split_at_checked(octal.max(1))?;
                rest = behind;
                value.push(match taken {
                    b"b" => 8,
                    b"f" => 12,
                    b"n" => b'\n',
                    b"r" => b'\r',
                    b"t" => b'\t',
                    digits if octal > 0 => digits.iter().fold(0_u8, |sum, digit| sum.wrapping_mul(8).wrapping_add(digit - b'0')),
                    other => *other.first()?,
                });
            }
            byte => value.push(*byte),
        }
    }
    // A quote or a backslash is never the middle of a character.
    Some((String::from_utf8_lossy(&value).into_owned(), text.get(text.len() - rest.len()..)?))
}

/// Without what separates words at its start; `\r` is such.
fn blank(text: &str) -> &str {
    text.trim_start_matches([' ', '\t', '\r'])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set(line: &str) -> Option<(String, String)> {
        match config_lines(line).as_slice() {
            [(1, ConfigLine::Set { name, value })] => Some((name.clone(), value.clone())),
            _ => None,
        }
    }

    #[test]
    fn settings_are_read_as_postgres_reads_them() {
        for (line, name, value) in [
            ("archive_mode = always", "archive_mode", "always"),
            ("  Archive_Mode\tAlways", "archive_mode", "Always"),
            ("archive_mode='on'# so", "archive_mode", "on"),
            ("max_connections=200 # many\r", "max_connections", "200"),
            ("shared_buffers = 128MB", "shared_buffers", "128MB"),
            ("x.y = ''", "x.y", ""),
            ("a = 'it''s # \\'100\\\\%\\' \\101\\n'", "a", "it's # '100\\%' A\n"),
            ("listen_addresses = '*'", "listen_addresses", "*"),
            ("a = 'größe'", "a", "größe"),
            ("a -1.5e3", "a", "-1.5e3"),
        ] {
            assert_eq!(set(line), Some((name.to_owned(), value.to_owned())), "{line}");
        }
    }

    #[test]
    fn what_postgres_does_not_start_with_is_told() {
        for line in ["a", "a =", "a = 'x", "a = x y", "= 1", "1a = 2", "a = 'x' y", "a == 1", "\"a\" = 1", "a = 'x\\"] {
            assert_eq!(config_lines(line), [(1, ConfigLine::Unreadable)], "{line}");
        }
        assert_eq!(config_lines("# a = 1\n\n \t\n#"), []);
    }

    proptest! {
        #[test]
        fn what_was_read_is_read_again(text in "([a-zA-Z_.]{1,5}[ =\t]{0,2}['a-z0-9\\\\# é]{0,9}\n?){0,4}") {
            for (_, line) in config_lines(&text) {
                let ConfigLine::Set { name, value } = line else { continue };
                if value.contains('\n') {
                    continue;
                }
                let again = format!("{name} = '{}'", value.replace('\\', "\\\\").replace('\'', "''"));
                prop_assert_eq!(config_lines(&again), [(1, ConfigLine::Set { name, value })], "{}", again);
            }
        }
    }

    #[test]
    fn includes_are_told_from_settings() {
        let text = "include 'a.conf'\n#\nINCLUDE_DIR = conf.d\ninclude_if_exists = '/b'\nb = 1";
        let expected = [
            (1, ConfigLine::Include { file: "a.conf".into(), must_exist: true }),
            (3, ConfigLine::IncludeFolder("conf.d".into())),
            (4, ConfigLine::Include { file: "/b".into(), must_exist: false }),
            (5, ConfigLine::Set { name: "b".into(), value: "1".into() }),
        ];
        assert_eq!(config_lines(text), expected);
    }
}
