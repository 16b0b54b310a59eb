//! The kernel's command line: `NAME=value`, with double quotes around what holds spaces, as the kernel reads it
//! (`Documentation/admin-guide/kernel-parameters.rst`, `lib/cmdline.c`).

/// The settings on a command line. What does not begin with `BEYOND_` is the kernel's, or another program's.
#[must_use]
pub fn parse(line: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for word in words(line) {
        // A quote before the name takes the whole word in.
        let word = word.strip_prefix('"').map_or(word, |inner| inner.strip_suffix('"').unwrap_or(inner));
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        if name.to_ascii_uppercase().starts_with("BEYOND_") {
            let value = value.strip_prefix('"').map_or(value, |inner| inner.strip_suffix('"').unwrap_or(inner));
            found.push((name.to_owned(), value.to_owned()));
        }
    }
    found
}

/// Cuts at white space that is not quoted.
fn words(line: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let (mut start, mut quoted) = (None, false);
    for (at, c) in line.char_indices() {
        if c.is_ascii_whitespace() && !quoted {
            words.extend(start.take().and_then(|start| line.get(start..at)));
            continue;
        }
        start = start.or(Some(at));
        quoted ^= c == '"';
    }
    words.extend(start.and_then(|start| line.get(start..)));
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting_is_the_kernels() {
        let line = "quiet root=/dev/vda BEYOND_PG_TIER=replica BEYOND_PG_PRIMARY_CONNINFO=\"host=a user=b\" \"BEYOND_PG_IDENTITY=a b\" beyond_pg_x -- BEYOND_PG_PORT=1\n";
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            parse(line),
            [
                pair("BEYOND_PG_TIER", "replica"),
                pair("BEYOND_PG_PRIMARY_CONNINFO", "host=a user=b"),
                pair("BEYOND_PG_IDENTITY", "a b"),
                pair("beyond_pg_x", ""),
                pair("BEYOND_PG_PORT", "1"),
            ]
        );
        assert_eq!(parse(""), []);
        assert_eq!(parse("BEYOND_PG_TIER=\"rep"), [pair("BEYOND_PG_TIER", "rep")]);
        assert_eq!(parse("BEYOND_PG_IDENTITY=\""), [pair("BEYOND_PG_IDENTITY", "")]);
    }

    proptest::proptest! {
        #[test]
        fn a_quoted_value_comes_through(value in "[^\"\u{0}]{0,40}") {
            let found = parse(&format!("a BEYOND_PG_IDENTITY=\"{value}\" b"));
            proptest::prop_assert_eq!(found, [("BEYOND_PG_IDENTITY".to_owned(), value)]);
        }
    }
}
