//! As much of XML as S3 takes.

/// The contents of all elements of this name, as they stand; enough of XML for requests that hold no element in another of its name.
pub(crate) fn elements<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((content, behind)) = rest.split_once(&open).and_then(|(_, from)| from.split_once(&close)) {
        found.push(content);
        rest = behind;
    }
    found
}

/// Text as it stands in XML.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Text of XML as it was; `None` where it is no XML.
pub(crate) fn unescape(text: &str) -> Option<String> {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, from)) = rest.split_once('&') {
        let (entity, behind) = from.split_once(';')?;
        plain.push_str(before);
        plain.push(match entity {
            "amp" => '&',
            "apos" => '\'',
            "gt" => '>',
            "lt" => '<',
            "quot" => '"',
            _ => {
                let number = entity.strip_prefix('#')?;
                let code = number.strip_prefix('x').map_or_else(|| number.parse().ok(), |hex| u32::from_str_radix(hex, 16).ok());
                code.and_then(char::from_u32)?
            }
        });
        rest = behind;
    }
    plain.push_str(rest);
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_passes_through_xml() {
        for text in ["", "a", "a&b<c>\"'é", "&amp;"] {
            assert_eq!(unescape(&escape(text)).as_deref(), Some(text));
        }
        assert_eq!(unescape("&#65;&#x42;&apos;").as_deref(), Some("AB'"));
        for wrong in ["&", "&x;", "&#x110000;"] {
            assert_eq!(unescape(wrong), None);
        }
    }

    #[test]
    fn elements_are_found_in_order() {
        assert_eq!(elements("<D><O><Key>a</Key></O><O><Key>b&amp;</Key></O></D>", "Key"), ["a", "b&amp;"]);
        assert_eq!(elements("<Key>a", "Key"), Vec::<&str>::new());
    }
}
