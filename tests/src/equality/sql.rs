//! SQL's own spelling.

/// A name.
pub(super) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A name as `quote_identifier` writes it: plain where that is enough.
pub(super) fn plain_identifier(name: &str) -> String {
    let plain = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if plain { name.to_owned() } else { identifier(name) }
}

/// A text, with `standard_conforming_strings`.
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A text or NULL.
pub(super) fn literal_or_null(text: Option<&str>) -> String {
    text.map_or_else(|| "NULL".to_owned(), literal)
}

/// A field of `COPY … FROM STDIN`.
pub(super) fn copy_field(text: Option<&str>) -> String {
    let Some(text) = text else { return "\\N".to_owned() };
    let mut field = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => field.push_str("\\\\"),
            '\n' => field.push_str("\\n"),
            '\r' => field.push_str("\\r"),
            '\t' => field.push_str("\\t"),
            c => field.push(c),
        }
    }
    field
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_sql_reads_back() {
        assert_eq!(identifier("a\"b"), "\"a\"\"b\"");
        assert_eq!(
            (plain_identifier("a_1"), plain_identifier("Ab"), plain_identifier("1a")),
            ("a_1".into(), "\"Ab\"".into(), "\"1a\"".into())
        );
        assert_eq!(literal_or_null(Some("it's")), "'it''s'");
        assert_eq!(literal_or_null(None), "NULL");
        assert_eq!(copy_field(Some("a\t\\N\n")), "a\\t\\\\N\\n");
        assert_eq!(copy_field(None), "\\N");
    }
}
