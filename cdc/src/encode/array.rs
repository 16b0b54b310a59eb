//! Arrays: `{1,NULL,"a, \"b\""}`, nested as deep as Postgres has them.
//!
//! Follows the manual's chapter "Array Input and Output Syntax".

use super::kind::Kind;
use super::{value, wire};

/// As many as Postgres has: `MAXDIM`.
const DIMENSIONS_MAX: usize = 6;

const DIMENSIONS: u32 = 1;
const VALUES: u32 = 2;

/// The fields of an `Array`, `None` where the text is none, or one whose lower bounds are not 1.
pub(super) fn encode(element: Kind, text: &[u8]) -> Option<Vec<u8>> {
    let mut reader = Reader {
        element,
        rest: text,
        dimensions: Vec::new(),
        leaf: None,
        values: Vec::new(),
        scratch: Vec::new(),
        word: Vec::new(),
    };
    if text == b"{}" {
        return Some(Vec::new());
    }
    reader.list(0)?;
    if !reader.rest.is_empty() {
        return None;
    }
    let mut lengths = Vec::new();
    reader.dimensions.iter().for_each(|length| wire::varint(&mut lengths, u64::from(*length)));
    let mut out = Vec::with_capacity(lengths.len() + reader.values.len() + 8);
    wire::bytes(&mut out, DIMENSIONS, &lengths);
    out.extend_from_slice(&reader.values);
    Some(out)
}

struct Reader<'a> {
    element: Kind,
    rest: &'a [u8],
    /// The length of each dimension, as its first list has it.
    dimensions: Vec<u32>,
    /// How deep the values are.
    leaf: Option<usize>,
    values: Vec<u8>,
    scratch: Vec<u8>,
    word: Vec<u8>,
}

impl Reader<'_> {
    /// A list at this depth, braces included.
    fn list(&mut self, depth: usize) -> Option<()> {
        self.rest = self.rest.strip_prefix(b"{")?;
        let mut length = 0_u32;
        loop {
            match self.rest.first()? {
                b'{' if depth + 1 < DIMENSIONS_MAX && self.leaf.is_none_or(|leaf| depth < leaf) => {
                    if self.dimensions.len() == depth {
                        self.dimensions.push(0);
                    }
                    self.list(depth + 1)?;
                }
                b'{' => return None,
                _ => self.item(depth)?,
            }
            length = length.checked_add(1)?;
            let (next, rest) = self.rest.split_first()?;
            self.rest = rest;
            match next {
                b',' => {}
                b'}' => break,
                _ => return None,
            }
        }
        match self.dimensions.get_mut(depth)? {
            known @ 0 => *known = length,
            known if *known == length => {}
            _ => return None,
        }
        Some(())
    }

    fn item(&mut self, depth: usize) -> Option<()> {
        if self.dimensions.len() == depth {
            self.dimensions.push(0);
        }
        // A value where others have a list, or the other way round, is refused.
        (*self.leaf.get_or_insert(depth) == depth).then_some(())?;
        self.scratch.clear();
        if let Some(quoted) = self.rest.strip_prefix(b"\"") {
            self.rest = quoted;
            self.quoted()?;
            value::scalar(self.element, &self.word, &mut self.scratch);
        } else {
            let end = self.rest.iter().position(|byte| matches!(byte, b',' | b'}' | b'{' | b'"' | b'\\'))?;
            let (word, rest) = self.rest.split_at(end);
            self.rest = rest;
            match word {
                b"" => return None,
                b"NULL" => wire::unsigned(&mut self.scratch, value::NULL, 1),
                word => value::scalar(self.element, word, &mut self.scratch),
            }
        }
        wire::bytes(&mut self.values, VALUES, &self.scratch);
        Some(())
    }

    /// The rest of a quoted value into `word`.
    fn quoted(&mut self) -> Option<()> {
        self.word.clear();
        loop {
            let (byte, rest) = self.rest.split_first()?;
            self.rest = rest;
            match byte {
                b'"' => return Some(()),
                b'\\' => {
                    let (escaped, rest) = self.rest.split_first()?;
                    self.rest = rest;
                    self.word.push(*escaped);
                }
                byte => self.word.push(*byte),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use beyond_cdc_proto::v1::{Array, value::Kind as Field};
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;

    fn read(kind: Kind, text: &str) -> Option<(Vec<u32>, Vec<Field>)> {
        let array = Array::decode(&encode(kind, text.as_bytes())?[..]).unwrap();
        Some((array.dimensions, array.values.into_iter().map(|value| value.kind.unwrap()).collect()))
    }

    #[test]
    fn arrays_of_any_depth() {
        let int = Field::Integer;
        assert_eq!(read(Kind::Integer, "{}"), Some((vec![], vec![])));
        assert_eq!(read(Kind::Integer, "{1,NULL,-3}"), Some((vec![3], vec![int(1), Field::Null(true), int(-3)])));
        assert_eq!(read(Kind::Integer, "{{1,2,3},{4,5,6}}"), Some((vec![2, 3], (1..=6).map(int).collect())));
        assert_eq!(read(Kind::Integer, "{{{1}},{{2}}}"), Some((vec![2, 1, 1], vec![int(1), int(2)])));
        let text = |text: &str| Field::Text(text.into());
        let expected = vec![text("a, \"b\" \\ {c}"), text("NULL"), text(""), text("d e")];
        assert_eq!(read(Kind::Text, r#"{"a, \"b\" \\ {c}","NULL","",d e}"#), Some((vec![4], expected)));
    }

    #[test]
    fn what_is_no_array_of_that_form_is_refused() {
        for text in [
            "",
            "{",
            "{1",
            "{1,}",
            "{,1}",
            "[0:1]={1,2}",
            "{1}x",
            "{{1},2}",
            "{1,{2}}",
            "{{1,2},{3}}",
            "{{{{{{{1}}}}}}}",
            "{\"1",
            "1",
        ] {
            assert_eq!(read(Kind::Integer, text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn texts_come_back(texts in prop::collection::vec(".{0,12}", 1..6)) {
            let quoted: Vec<_> = texts.iter().map(|text| format!("\"{}\"", text.replace('\\', r"\\").replace('"', "\\\""))).collect();
            let (_, values) = read(Kind::Text, &format!("{{{}}}", quoted.join(","))).unwrap();
            prop_assert_eq!(values, texts.into_iter().map(Field::Text).collect::<Vec<_>>());
        }

        #[test]
        fn any_bytes_are_taken(text in prop::collection::vec(prop::sample::select(&b"{},\"\\1N"[..]), 0..30)) {
            let _: Option<Vec<u8>> = encode(Kind::Integer, &text);
        }
    }
}
