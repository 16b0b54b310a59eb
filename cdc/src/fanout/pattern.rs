//! Patterns of tables: `schema.table`, each part a name in which `*` stands for any characters and `?` for one. Pure.

use std::fmt;

/// The longest pattern, in bytes: two names of Postgres with what is between them, and room for names in UTF-8.
const PATTERN_BYTES_MAX: usize = 512;

/// Which tables.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TablePattern {
    schema: String,
    table: String,
}

/// A text that is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no pattern of tables: write schema.table, each part a name or a pattern with * and ?, as in 'public.order_*'")]
pub struct PatternError(pub String);

impl TablePattern {
    /// Reads a pattern. What is before the first dot is the schema's part.
    ///
    /// # Errors
    /// Where there is no dot, or nothing on a side of it.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        match text.split_once('.') {
            Some((schema, table)) if !schema.is_empty() && !table.is_empty() && text.len() <= PATTERN_BYTES_MAX => {
                Ok(Self { schema: normal(schema), table: normal(table) })
            }
            _ => Err(PatternError(text.chars().take(PATTERN_BYTES_MAX).collect())),
        }
    }

    /// The pattern of every table.
    #[must_use]
    pub fn all() -> Self {
        Self { schema: "*".to_owned(), table: "*".to_owned() }
    }

    /// Whether a table is meant.
    #[must_use]
    pub fn matches(&self, schema: &str, table: &str) -> bool {
        glob(&self.schema, schema, false) && glob(&self.table, table, false)
    }

    /// Whether every table that `other` can mean is meant by this one too. It never says yes wrongly; that it says no may be wrong for
    /// patterns with several stars.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        glob(&self.schema, &other.schema, true) && glob(&self.table, &other.table, true)
    }

    /// Whether it means every table there can be.
    #[must_use]
    pub fn is_all(&self) -> bool {
        self.schema == "*" && self.table == "*"
    }
}

impl fmt::Display for TablePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.table)
    }
}

/// Without stars that say nothing, so that what means the same is the same.
fn normal(part: &str) -> String {
    let mut text = String::with_capacity(part.len());
    for c in part.chars() {
        if c != '*' || !text.ends_with('*') {
            text.push(c);
        }
    }
    text
}

/// Whether a text matches; with `of_patterns`, whether a pattern's every match does. In one pass with one way back, so that no pattern costs
/// more than the product of the lengths.
fn glob(pattern: &str, text: &str, of_patterns: bool) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut at, mut in_text) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    while in_text < text.len() {
        let c = text[in_text];
        let fits = match pattern.get(at) {
            Some('*') => {
                back = Some((at, in_text));
                at += 1;
                continue;
            }
            // One character is not any number of them.
            Some('?') => !(of_patterns && c == '*'),
            Some(wanted) => *wanted == c,
            None => false,
        };
        if fits {
            at += 1;
            in_text += 1;
        } else if let Some((star, from)) = back {
            // The star takes one more.
            back = Some((star, from + 1));
            at = star + 1;
            in_text = from + 1;
        } else {
            return false;
        }
    }
    pattern[at..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pattern(text: &str) -> TablePattern {
        TablePattern::parse(text).unwrap()
    }

    #[test]
    fn names_and_patterns() {
        for (text, schema, table, wanted) in [
            ("public.users", "public", "users", true),
            ("public.users", "public", "user", false),
            ("public.*", "public", "users", true),
            ("public.*", "other", "users", false),
            ("*.*", "a", "b", true),
            ("*.order_?", "s", "order_1", true),
            ("*.order_?", "s", "order_12", false),
            ("*.*_log_*", "s", "a_log_b_log_c", true),
            ("*.a.b", "s", "a.b", true),
            ("*.é?", "s", "éü", true),
            ("p*c.t", "public", "t", true),
            ("Public.t", "public", "t", false),
        ] {
            assert_eq!(pattern(text).matches(schema, table), wanted, "{text} {schema}.{table}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_named() {
        for text in ["", "users", ".users", "public.", "."] {
            assert_eq!(TablePattern::parse(text), Err(PatternError(text.to_owned())));
        }
        assert!(TablePattern::parse(&format!("a.{}", "b".repeat(PATTERN_BYTES_MAX))).is_err());
    }

    #[test]
    fn what_a_pattern_covers() {
        for (permitted, asked, wanted) in [
            ("*.*", "public.users", true),
            ("*.*", "*.*", true),
            ("public.*", "public.users", true),
            ("public.*", "public.user_*", true),
            ("public.*", "*.users", false),
            ("public.users", "public.*", false),
            ("public.user?", "public.users", true),
            ("public.user?", "public.user*", false),
            ("public.user*", "public.user?", true),
            ("public.**", "public.*", true),
        ] {
            assert_eq!(pattern(permitted).covers(&pattern(asked)), wanted, "{permitted} {asked}");
        }
    }

    proptest! {
        #[test]
        fn what_is_covered_is_matched(permitted in "[ab*?]{1,6}", asked in "[ab*?]{1,6}", name in "[ab]{0,6}") {
            if glob(&permitted, &asked, true) && glob(&asked, &name, false) {
                prop_assert!(glob(&permitted, &name, false), "{} {} {}", permitted, asked, name);
            }
        }

        #[test]
        fn as_a_naive_matcher_has_it(pattern in "[ab*?]{0,6}", name in "[ab]{0,6}") {
            fn naive(pattern: &[u8], name: &[u8]) -> bool {
                match (pattern.split_first(), name.split_first()) {
                    (None, _) => name.is_empty(),
                    (Some((b'*', rest)), None) => naive(rest, name),
                    (Some((b'*', rest)), Some((_, less))) => naive(rest, name) || naive(pattern, less),
                    (Some((b'?', rest)), Some((_, less))) => naive(rest, less),
                    (Some((c, rest)), Some((d, less))) => c == d && naive(rest, less),
                    (Some(_), None) => false,
                }
            }
            prop_assert_eq!(glob(&pattern, &name, false), naive(pattern.as_bytes(), name.as_bytes()));
        }
    }
}
